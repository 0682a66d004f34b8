"""Video files and network streams: damage, times, sizes, rotation, and the cause of each failure."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge.config import SourceConfig
from secondlook.edge.source.sources import SourceFrame, open_shots
from secondlook.edge.source.streams import FileClock, silence
from secondlook.shared.errors import (
    SourceError,
    SourceHostUnknown,
    SourceNotFound,
    SourceStalled,
    SourceTooLarge,
    SourceUnauthorized,
    SourceUnreachable,
    SourceUnreadable,
    SourceUnsupported,
)
from tests.edge import servers
from tests.edge.servers import RtspCamera, http_server, mjpeg, write_video


@pytest.fixture(autouse=True)
def _silent() -> None:
    silence()


class Heard:
    """Keeps what a source reports."""

    def __init__(self) -> None:
        self.beats = 0
        self.lines: list[str] = []

    def beat(self) -> None:
        self.beats += 1

    def tell(self, text: str) -> None:
        self.lines.append(text)


def take(address: Path | str, limit: int = 1000, **settings: object) -> tuple[list[SourceFrame], Heard]:
    heard = Heard()
    times = {"open_seconds": 5.0, "stall_seconds": 3.0, **settings}
    source = open_shots(SourceConfig(str(address), **times), heard)
    shots = []
    for shot in source.shots:
        shots.append(shot)
        if len(shots) == limit:
            break
    return shots, heard


def brightness(shots: list[SourceFrame]) -> list[int]:
    return [round(float(shot.image.mean()) / 8) for shot in shots]


def boxes(path: Path, kind: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of the chunks of an AVI with this name."""
    data = path.read_bytes()
    at = data.find(b"movi") + 4
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        if name == b"idx1":
            return
        if name == kind:
            yield at + 8, at + 8 + size
        at += 8 + size + size % 2


def test_damage_in_the_middle_costs_only_the_damaged_frames(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.avi", 50, codec="mjpeg")
    data = bytearray(film.read_bytes())
    chunks = list(boxes(film, b"00dc"))
    assert len(chunks) == 50
    for start, end in chunks[20:30]:
        data[start:end] = bytes(end - start)
    film.write_bytes(bytes(data))
    shots, heard = take(film)
    assert brightness(shots) == [n % 30 for n in range(50) if not 20 <= n < 30]
    assert heard.lines == [f"source {film} is damaged: 40 of 50 frames read"]
    assert heard.beats >= 50


def test_a_video_that_ends_too_early_is_read_to_there(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.avi", 50, codec="mjpeg")
    chunks = list(boxes(film, b"00dc"))
    film.write_bytes(film.read_bytes()[: chunks[25][0]])
    shots, heard = take(film)
    assert len(shots) == 25
    assert heard.lines == [f"source {film} is damaged: 25 of 50 frames read"]


def test_a_whole_video_is_told_of_in_no_line(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "mpeg4"), ("b.mkv", "libx264"), ("c.avi", "mjpeg")):
        shots, heard = take(write_video(tmp_path / name, 25, codec=codec))
        assert (len(shots), heard.lines) == (25, [])


@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_whatever_is_damaged_ends_in_frames_or_in_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random, wounds: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = folder / "whole.mp4"
    if not whole.exists():
        write_video(whole, 12, size=(32, 32))
    data = bytearray(whole.read_bytes())
    for _ in range(wounds):
        at = chance.randrange(len(data))
        length = chance.choice((1, 4, 64))
        data[at : at + length] = chance.randbytes(length) if chance.random() < 0.7 else b""
    wounded = folder / "wounded.mp4"
    wounded.write_bytes(bytes(data))
    try:
        shots, _ = take(wounded, limit=50)
    except SourceError as error:
        assert "wounded.mp4" in str(error)
    else:
        assert all(shot.image.dtype == np.uint8 for shot in shots)


def test_times_that_jump_by_hours_lose_nothing(tmp_path: Path) -> None:
    def pts(number: int) -> int:
        return number if number < 10 else number + 25 * 3600 * 5

    film = write_video(tmp_path / "film.mkv", 20, codec="libx264", pts=pts)
    shots, _ = take(film)
    assert len(shots) == 20
    assert [shot.seconds for shot in shots] == pytest.approx([n / 25 for n in range(20)], abs=0.01)
    assert len(take(film, fps=12.5)[0]) == 10


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=50), st.floats(0.01, 120.0))
def test_the_clock_of_a_file_only_advances_and_never_far(raw: list[float | None], fps: float) -> None:
    clock, last = FileClock(fps), -1.0
    for value in raw:
        now = clock.seconds(value)
        assert last < now <= max(last, 0.0) + max(60.0, 10.0 / fps) + 1e-6
        last = now


def test_pauses_of_a_file_are_kept() -> None:
    clock = FileClock(25.0)
    assert [clock.seconds(t) for t in (7.0, 7.04, 27.0, 1.0, None)] == pytest.approx(
        [0.0, 0.04, 20.0, 20.04, 20.08]
    )


def turn_film(film: Path, degrees: int) -> None:
    """Write into an MP4 how it is to be turned, clockwise."""
    turn = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    a, b, c, d = (value << 16 for value in turn)
    data = bytearray(film.read_bytes())
    at = data.find(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    film.write_bytes(bytes(data))


@pytest.mark.parametrize(("degrees", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_rotation_is_honoured(tmp_path: Path, degrees: int, corner: tuple[int, int]) -> None:
    """A phone held upright writes the picture as its sensor lies, and how to turn it clockwise."""

    def marked(_: int) -> np.ndarray:
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:16, :16] = 255
        return picture

    film = write_video(tmp_path / "film.mp4", 3, picture=marked)
    turn_film(film, degrees)
    image = take(film)[0][0].image
    assert image.shape == ((48, 64, 3) if degrees % 180 == 0 else (64, 48, 3))
    assert image[corner].mean() > 200 and image.mean() < 60


def test_a_size_that_changes_is_delivered_as_it_is() -> None:
    sizes = {0: (64, 48), 1: (96, 32)}
    with http_server(camera=mjpeg(40, sizes=lambda n: sizes[n >= 15])) as server:
        shots, _ = take(f"{server}/camera", limit=30)
    assert {shot.image.shape for shot in shots} == {(48, 64, 3), (32, 96, 3)}


def test_a_size_that_changes_within_h264_is_delivered_as_it_is(tmp_path: Path) -> None:
    """As a camera does whose resolution is set anew while it streams."""
    parts = [
        write_video(tmp_path / f"{number}.ts", 10, codec="libx264", size=size)
        for number, size in enumerate(((64, 48), (96, 32), (64, 48)))
    ]
    film = tmp_path / "film.ts"
    film.write_bytes(b"".join(part.read_bytes() for part in parts))
    shapes = [shot.image.shape for shot in take(film)[0]]
    assert shapes == [(48, 64, 3)] * 10 + [(32, 96, 3)] * 10 + [(48, 64, 3)] * 10


def test_a_picture_that_grows_above_the_limit_ends_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.edge.source.sources.MAX_PIXELS", 4000)
    sizes = {0: (64, 48), 1: (96, 64)}
    with http_server(camera=mjpeg(40, sizes=lambda n: sizes[n >= 5])) as server:
        source = open_shots(SourceConfig(f"{server}/camera", open_seconds=5.0), Heard())
        taken = []
        with pytest.raises(SourceTooLarge, match=r"96x64 pixels.*source\.resize"):
            taken.extend(shot.image.shape for shot in source.shots)
    assert set(taken) <= {(48, 64, 3)}


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4"])
def test_a_variable_frame_rate_keeps_its_times_and_is_thinned_by_them(tmp_path: Path, name: str) -> None:
    """Pauses of 40, 80 and 400 ms by turns: what is taken follows the source's time, not the count of frames."""
    steps = [0, 1, 3, 13]

    def pts(number: int) -> int:
        return 13 * (number // 3) + steps[number % 3]

    film = write_video(tmp_path / name, 30, codec="libx264", pts=pts)
    times = [pts(number) / 25 for number in range(30)]
    assert [shot.seconds for shot in take(film)[0]] == pytest.approx(times, abs=0.002)
    taken = [shot.seconds for shot in take(film, fps=2.0)[0]]
    assert len(taken) == pytest.approx(2.0 * times[-1], abs=2)
    assert min(b - a for a, b in itertools.pairwise(taken)) > 0.25


def test_a_file_of_the_network_or_by_url_ends_as_a_file(tmp_path: Path) -> None:
    film = write_video(tmp_path / "a film.mp4", 25)
    assert len(take(film.as_uri())[0]) == 25
    with http_server(film=servers.file(film)) as server:
        source = open_shots(SourceConfig(f"{server}/film.mp4"), Heard())
        assert not source.live
        assert brightness(list(source.shots)) == pytest.approx(list(range(25)), abs=1)


def test_one_failed_read_of_a_stream_is_passed_over() -> None:
    with http_server(camera=mjpeg(40, broken=(5, 6, 12))) as server:
        shots, _ = take(f"{server}/camera", limit=30)
    # Only the frames that are broken are missing.
    seen = [number for number in brightness(shots) if number < 25]
    assert {5, 6, 12}.isdisjoint(seen) and {4, 7, 11, 13} <= set(seen)


def test_loose_multipart_headers_are_read() -> None:
    with http_server(camera=mjpeg(30, loose=True)) as server:
        assert len(take(f"{server}/camera", limit=20)[0]) == 20


@pytest.mark.parametrize(
    ("name", "cause", "text"),
    [
        ("unauthorized", SourceUnauthorized, "asks for a user and password (401)"),
        ("forbidden", SourceUnauthorized, "403"),
        ("missing", SourceNotFound, "404"),
        ("broken", SourceUnreadable, "5XX"),
        ("text", SourceUnreadable, "is not a video or stream"),
        ("hang", SourceStalled, "did not answer"),
    ],
)
def test_the_cause_of_a_failure_is_named(name: str, cause: type[SourceError], text: str) -> None:
    with http_server(
        unauthorized=servers.status(401),
        forbidden=servers.status(403),
        missing=servers.status(404),
        broken=servers.status(503),
        text=servers.text,
        hang=servers.hang,
    ) as server:
        with pytest.raises(cause) as error:
            take(f"{server}/{name}", open_seconds=2.0)
        assert text in str(error.value) and name in str(error.value)


def test_refusals_and_unknown_names_are_told_apart() -> None:
    for scheme in ("rtsp", "http"):
        with pytest.raises(SourceUnreachable, match="refuses the connection"):
            take(f"{scheme}://127.0.0.1:9/x")
        with pytest.raises(SourceHostUnknown, match="DNS"):
            take(f"{scheme}://camera.invalid/x")
    with pytest.raises(SourceUnsupported, match="gopher"):
        take("gopher://127.0.0.1/x")


def test_a_login_with_any_character_is_passed_on_and_never_told() -> None:
    password = "p#a/s?s[w@:rd%"
    with http_server(camera=servers.with_login("me", password, mjpeg(30))) as server:
        address = server.replace("//", "//me:p#a/s?s[w%40:rd%25@") + "/camera"
        assert len(take(address, limit=3)[0]) == 3
        wrong = server.replace("//", f"//me:wrong{password}@") + "/camera"
        with pytest.raises(SourceUnauthorized, match="refuses this user or password") as error:
            take(wrong)
    assert "p#a" not in str(error.value) and "rd%" not in str(error.value)


def test_frames_beyond_the_limit_name_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_video(tmp_path / "film.mp4", 3)
    monkeypatch.setattr("secondlook.edge.source.sources.MAX_PIXELS", 1000)
    with pytest.raises(SourceTooLarge, match=r"64x48 pixels.*source\.resize"):
        take(film)
    assert len(take(film, resize="32")[0]) == 3


@pytest.mark.parametrize(
    ("offers", "transport", "tried"),
    [
        ({}, "auto", ["tcp"]),
        ({"tcp": False}, "auto", ["tcp", "udp"]),
        ({}, "udp", ["udp"]),
        ({}, "tcp", ["tcp"]),
    ],
)
def test_rtsp_over_tcp_first_and_udp_after(offers: dict[str, bool], transport: str, tried: list[str]) -> None:
    with RtspCamera(**offers) as camera:
        shots, _ = take(camera.address, limit=10, transport=transport)
        assert len(shots) == 10 and shots[0].image.shape == (48, 64, 3)
        assert camera.transports == tried


def test_rtsp_failures_are_named() -> None:
    with RtspCamera(udp=False) as camera, pytest.raises(SourceUnsupported, match="transport"):
        take(camera.address, transport="udp")
    with RtspCamera(status=401) as camera, pytest.raises(SourceUnauthorized):
        take(camera.address)
    with RtspCamera(status=404) as camera, pytest.raises(SourceNotFound):
        take(camera.address)
