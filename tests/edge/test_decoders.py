"""Decoding in hardware: what is there is used, what is not there is said once, and pictures are the same.

No device is needed: the decoders by name are stood in for by FFmpeg's own, which then run in the place of the hardware.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from secondlook.edge.config import SourceConfig
from secondlook.edge.source import decoders
from secondlook.edge.source.sources import open_shots
from secondlook.edge.source.streams import _converter, silence
from secondlook.main import main
from secondlook.shared.errors import ConfigError, DecoderUnavailable
from tests.edge.servers import RtspCamera, write_video
from tests.edge.test_streams import Heard, take, turn_film
from tests.pictures import photo

KINDS = ("cuda", "vaapi", "videotoolbox", "rkmpp", "v4l2m2m", "qsv")


@pytest.fixture(autouse=True)
def _silent() -> None:
    silence()


@pytest.fixture
def _no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a host that has some."""
    monkeypatch.setattr(decoders, "hwdevices_available", list)
    monkeypatch.setattr(decoders, "_NODES", dict.fromkeys(("rkmpp", "v4l2m2m", "qsv"), "/dev/no-such-node"))


@pytest.fixture
def _stand_in(_no_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder by name that is there: FFmpeg's own."""
    monkeypatch.setattr(decoders, "_NODES", {"v4l2m2m": "/dev/null"})
    monkeypatch.setattr(decoders, "_BY_NAME", {"v4l2m2m": "{}"})


def film(folder: Path, name: str = "film.mp4", codec: str = "libx264") -> Path:
    return write_video(folder / name, 12, codec=codec, picture=lambda number: photo(48, 64, number + 1))


@pytest.mark.usefixtures("_no_device")
def test_auto_without_a_device_decodes_in_software_and_says_so_once(tmp_path: Path) -> None:
    path = film(tmp_path)
    plain, heard = take(path)
    assert heard.lines == []
    shots, heard = take(path, hwaccel="auto")
    (line,) = heard.lines
    assert line.startswith(f"source {path} is decoded in software: hwaccel auto found nothing")
    assert len(shots) == 12
    assert all((one.image == other.image).all() for one, other in zip(shots, plain, strict=True))


@pytest.mark.usefixtures("_no_device")
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_named_must_be_there(tmp_path: Path, kind: str) -> None:
    path = film(tmp_path)
    with pytest.raises(DecoderUnavailable) as caught:
        take(path, hwaccel=kind)
    assert str(caught.value).startswith(f"source {path}: hwaccel {kind} does not open")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_no_device")
def test_of_a_stream_too_and_without_trying_other_ways(tmp_path: Path) -> None:
    with RtspCamera() as camera:
        with pytest.raises(DecoderUnavailable, match="hwaccel v4l2m2m does not open for h264"):
            take(camera.address, limit=3, hwaccel="v4l2m2m")
        assert camera.transports == ["tcp"]
        with pytest.raises(DecoderUnavailable, match="hwaccel cuda does not open here"):
            take(camera.address, limit=3, hwaccel="cuda")
        assert camera.transports == ["tcp"], "a device that is away is known before the camera is asked"


@pytest.mark.parametrize("kind", KINDS)
def test_what_this_very_host_has_is_used_or_refused(tmp_path: Path, kind: str) -> None:
    """Where the hardware is, pictures are those of the software decoder, to a level that rounding explains."""
    path = film(tmp_path)
    try:
        shots, heard = take(path, hwaccel=kind)
    except DecoderUnavailable as error:
        assert f"hwaccel {kind} does not open" in str(error)
        return
    assert heard.lines == [f"source {path} is decoded by {kind}"]
    for one, other in zip(shots, take(path)[0], strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 2


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize("hwaccel", ["auto", "v4l2m2m"])
@pytest.mark.parametrize(
    ("name", "codec"), [("film.mp4", "libx264"), ("film.mkv", "libx265"), ("film.avi", "mjpeg")]
)
def test_a_decoder_by_name_hands_out_the_same_pictures_and_times(
    tmp_path: Path, hwaccel: str, name: str, codec: str
) -> None:
    path = film(tmp_path, name, codec)
    plain, _ = take(path)
    shots, heard = take(path, hwaccel=hwaccel)
    assert heard.lines == [f"source {path} is decoded by v4l2m2m"]
    assert [(one.seconds, one.place) for one in shots] == [(one.seconds, one.place) for one in plain]
    assert len(shots) == 12 and all(
        (one.image == other.image).all() for one, other in zip(shots, plain, strict=True)
    )


@pytest.mark.usefixtures("_stand_in")
def test_what_a_phone_wrote_of_its_rotation_holds_with_a_decoder_by_name(tmp_path: Path) -> None:
    path = film(tmp_path)
    turn_film(path, 90)
    image = take(path, hwaccel="v4l2m2m")[0][0].image
    assert image.shape == (64, 48, 3) and (image == take(path)[0][0].image).all()


@pytest.mark.usefixtures("_stand_in")
def test_a_stream_by_a_decoder_by_name_has_the_cameras_clock() -> None:
    with RtspCamera(clock_ns=1_700_000_000 * 10**9) as camera:
        shots, heard = take(camera.address, limit=10, hwaccel="v4l2m2m")
    assert len(heard.lines) == 1 and all(shot.source_ns is not None for shot in shots)


@pytest.mark.usefixtures("_no_device")
def test_a_decoder_that_does_not_open_is_named_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "_NODES", {"v4l2m2m": "/dev/null"})
    monkeypatch.setattr(decoders, "_BY_NAME", {"v4l2m2m": "{}_no_such_decoder"})
    with pytest.raises(DecoderUnavailable, match="h264_no_such_decoder: "):
        take(film(tmp_path), hwaccel="v4l2m2m")


@pytest.mark.parametrize(("layout", "colour_range"), [("yuv420p", 1), ("yuvj420p", 2)])
def test_the_layout_of_hardware_gives_the_same_picture(layout: str, colour_range: int) -> None:
    """Devices hand out NV12, software YUV 4:2:0 in planes: the same numbers in another order."""
    frame = av.VideoFrame.from_ndarray(photo(48, 64), format="rgb24").reformat(format=layout)
    frame.color_range = colour_range
    y, u, v = (
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    )
    both = np.stack([u, v], axis=-1).reshape(24, 64)
    device = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.concatenate([y, both])), format="nv12")
    device.color_range, device.colorspace = colour_range, frame.colorspace
    assert (_converter(device, 0)() == _converter(frame, 0)()).all()
    assert (device.to_ndarray(format="rgb24") != _converter(frame, 0)()).any(), "it takes the detour"


def test_other_kinds_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="hwaccel must be one of none, auto, cuda"):
        SourceConfig("demo:", hwaccel="gpu")


@pytest.mark.usefixtures("_no_device")
def test_an_agent_says_it_in_one_line_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In its capture process the devices are those of this host; a kind that no Linux has is absent everywhere."""
    file = tmp_path / "edge.toml"
    head = f'edge_id = "gate"\ndata_dir = "edge"\n[source]\naddress = "{film(tmp_path)}"\n'
    file.write_text(head + 'hwaccel = "videotoolbox"\n')
    assert main(["edge", "--config", str(file)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "hwaccel videotoolbox does not open here" in told


def test_open_shots_takes_the_setting_for_addresses_of_both_kinds(tmp_path: Path) -> None:
    source = open_shots(SourceConfig(str(film(tmp_path)), hwaccel="auto"), Heard())
    assert len(list(source.shots)) == 12
