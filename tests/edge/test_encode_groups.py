"""The agent's video groups: places follow sequence numbers, each head brings its background, and sources choose."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from secondlook.edge.coding import encode
from secondlook.edge.coding.encode import VideoFrameEncoder, choose_encoder
from secondlook.edge.config import CodecConfig, SourceConfig
from secondlook.edge.source.camera import Frame
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError
from secondlook.shared.video import GroupDecoder
from secondlook.shared.videobits import GroupFrame, GroupHead, parse_base, split_layers
from tests.pictures import photo, psnr

GROUND = photo(64, 96)


def shot(number: int, ground: np.ndarray = GROUND) -> Frame:
    image = ground.copy()
    left = (13 * number) % 70
    image[20:40, left : left + 20] = (230, 220, 200)
    return Frame(image, number * 10**8)


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


def encoder(codec, **settings) -> VideoFrameEncoder:
    made = choose_encoder(codec, CodecConfig(family="video", **settings), SourceConfig("demo:"), "ab" * 16)
    assert isinstance(made, VideoFrameEncoder)
    return made


def test_each_group_begins_with_a_head_and_its_places_follow_the_sequence(codec) -> None:
    at_work = encoder(codec, group_frames=3, base_quality=40)
    frames = [at_work.encode(shot(number)) for number in range(7)]
    assert [frame.info.seq for frame in frames] == list(range(7))
    assert [frame.info.key_seq for frame in frames] == [None, 0, 0, None, 3, 3, None]
    decoder = None
    for number, frame in enumerate(frames):
        packet = parse_base(frame.base)
        if isinstance(packet, GroupHead):
            decoder, packet = GroupDecoder(packet.background.to_bytes()), packet.frame
        assert decoder is not None and packet.place == number % 3 + 1
        assert psnr(decoder.decode(packet.to_bytes()), shot(number).image) > 26
        assert (frame.info.width, frame.info.height, frame.info.captured_ns) == (96, 64, number * 10**8)
    assert at_work.milliseconds(0.5) is not None


def test_the_enhancement_is_the_picture_in_both_layers_of_the_model(codec) -> None:
    frame = encoder(codec, enhancement="always").encode(shot(0))
    layers = split_layers(frame.enhancement)
    assert psnr(codec.decode_enhanced(layers.base, layers.enhancement), shot(0).image) > 26


def test_a_group_that_was_ended_goes_on_as_another(codec) -> None:
    at_work = encoder(codec)
    assert [at_work.encode(shot(number)).info.key_seq for number in range(2)] == [None, 0]
    at_work.end_group()
    assert [at_work.encode(shot(number)).info.key_seq for number in (2, 3)] == [None, 2]
    assert at_work.encode(shot(4, photo(48, 64))).info.key_seq is None, "another size"


def test_a_frame_too_large_for_the_family_is_coded_by_the_model(codec, monkeypatch) -> None:
    monkeypatch.setattr(encode, "MAX_PIXELS", 64 * 96 - 1)
    at_work = encoder(codec)
    frames = [at_work.encode(shot(0)), at_work.encode(shot(1, photo(48, 64))), at_work.encode(shot(2))]
    assert [frame.base[:1] for frame in frames] == [b"\x89", b"\x8a", b"\x89"]
    assert [frame.info.key_seq for frame in frames] == [None, None, None]


@pytest.mark.parametrize(
    ("family", "address", "is_video"),
    [
        ("auto", "demo:", True),
        ("auto", "0", True),
        ("auto", "rtsp://camera/1", True),
        ("auto", "clip.mp4", True),
        ("auto", "one.png", False),
        ("auto", "FOLDER", False),
        ("lite", "clip.mp4", False),
        ("video", "FOLDER", True),
    ],
)
def test_the_source_chooses_where_the_settings_leave_it_to_it(
    codec, tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str, address: str, is_video: bool
) -> None:
    caplog.set_level(logging.INFO)
    source = SourceConfig(address.replace("FOLDER", str(tmp_path)))
    made = choose_encoder(codec, CodecConfig(family=family), source, "ab" * 16)
    assert isinstance(made, VideoFrameEncoder) is is_video
    told = [record.message for record in caplog.records]
    if is_video:
        assert told == ["base layers are coded by x265, in groups of 250 frames"]
    else:
        assert told == (
            ["base layers are coded by the model lite: the source holds images"] if family == "auto" else []
        )


@pytest.mark.parametrize("wrong", [{"preset": "a b"}, {"group_frames": 0}, {"group_frames": 256}])
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        CodecConfig(**wrong)


def test_a_lost_batch_and_a_full_spool_end_the_group(codec, tmp_path: Path) -> None:
    """What the agent does when frames are dropped, without a camera: the spool says so, the group ends."""
    from secondlook.edge.agent import Agent
    from secondlook.edge.config import EdgeConfig
    from secondlook.shared.errors import DiskFull

    class Uplink:
        def wake(self) -> None:
            pass

    class Spool:
        dropped: int | None = 0

        def put(self, frames, now_ns, *, before=None) -> int:
            if self.dropped is None:
                raise DiskFull("no room")
            return self.dropped

    config = EdgeConfig("gate", SourceConfig("demo:"), codec=CodecConfig(family="video"), data_dir=tmp_path)
    agent, spool = Agent(config, codec), Spool()
    keys = []
    for dropped in (0, 0, 1, 0, None, 0, 0):
        agent._take(shot(len(keys)))
        keys.append(agent._batch[-1].info.key_seq)
        spool.dropped = dropped
        agent._commit(spool, Uplink())
        if dropped is None:
            assert agent._unspooled is not None and agent._unspooled.key_seq == 3
    assert keys == [None, 0, 0, None, 3, None, 5]
    assert isinstance(parse_base(agent._encoder.encode(shot(9)).base), GroupFrame)
