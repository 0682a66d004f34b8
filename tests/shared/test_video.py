"""The family `video`: groups decode exactly or say what is missing, on any decoder, whatever the encoder."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from secondlook.shared import video
from secondlook.shared.errors import (
    ConfigError,
    EncoderFailed,
    LayerMismatch,
    MalformedBitstream,
    ReferenceMissing,
    SymbolMismatch,
)
from secondlook.shared.video import (
    SOFTWARE,
    EncoderName,
    GroupDecoder,
    VideoEncoder,
    VideoSettings,
    decode_group,
    quantiser,
    rebuild,
)
from secondlook.shared.videobits import FRAME_HEADER_BYTES, MAX_PLACE, Coding
from tests.pictures import photo, psnr

ENCODERS = ("x264", "x265", "svtav1")
HEIGHT, WIDTH = 79, 97  # odd sides, which 4:2:0 cannot code
GROUND = photo(HEIGHT, WIDTH)
NEAR = 27  # dB; the frames before and after are at most 18 dB from one


def scene(number: int) -> np.ndarray:
    """A bright square, at another place in each frame."""
    image = GROUND.copy()
    left = (4 + 23 * number) % 71
    image[20:44, left : left + 24] = (230, 220, 200)
    return image


FRAMES = [scene(number) for number in range(12)]


def coded(encoder: str = "x264", *, group_frames: int = 12, base_quality: int = 40, frames=FRAMES):
    """Packets of the frames, from groups that begin with the empty ground."""
    maker = VideoEncoder(VideoSettings(encoder, group_frames=group_frames))
    maker.set_background(GROUND)
    return [maker.encode(image, base_quality=base_quality) for image in frames]


def packets(given) -> tuple[bytes, list[bytes]]:
    """The background's packet and those of the frames."""
    assert given[0].background is not None
    return given[0].background.to_bytes(), [one.frame.to_bytes() for one in given]


@pytest.fixture(scope="module")
def group() -> tuple[bytes, list[bytes]]:
    return packets(coded())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_group_decodes_to_the_frames_in_order(encoder: str) -> None:
    background, frames = packets(coded(encoder))
    pictures = list(decode_group(background, frames))
    for image, picture in zip(FRAMES, pictures, strict=True):
        assert picture.shape == image.shape and picture.dtype == np.uint8 and picture.flags.c_contiguous
        assert psnr(picture, image) > NEAR
    assert psnr(GroupDecoder(background).background, GROUND) > NEAR


@pytest.mark.parametrize("encoder", ENCODERS)
def test_each_encoder_codes_the_background_to_the_same_bytes_each_time_and_it_is_sent_once(
    encoder: str,
) -> None:
    given = coded(encoder, group_frames=4)
    assert [one.background is not None for one in given] == [True] + [False] * 11
    assert [one.frame.place for one in given] == [1, 2, 3, 4] * 3
    assert [one.frame.group for one in given] == [0] * 4 + [1] * 4 + [2] * 4
    background, frames = packets(given)
    for first in (0, 4, 8):
        pictures = list(decode_group(background, frames[first : first + 4]))
        assert all(psnr(a, b) > NEAR for a, b in zip(FRAMES[first : first + 4], pictures, strict=True))


def test_an_encoder_that_codes_the_background_otherwise_each_time_sends_it_each_time(monkeypatch) -> None:
    real = video.GroupEncoder

    def drifting(maker, background, group, **given):
        return real(maker, background ^ np.uint8(group % 2), group, **given)

    monkeypatch.setattr(video, "GroupEncoder", drifting)
    given = coded(group_frames=4)
    assert [one.background is not None for one in given] == [True, False, False, False] * 3
    for first in (0, 4, 8):
        background, frames = packets(given[first : first + 4])
        assert len(list(decode_group(background, frames))) == 4


@pytest.mark.parametrize("encoder", ENCODERS)
def test_more_quality_takes_more_bytes_and_is_nearer(encoder: str) -> None:
    results = []
    for quality in (4, 30, 60):
        background, frames = packets(coded(encoder, base_quality=quality))
        near = np.mean([psnr(a, b) for a, b in zip(FRAMES, decode_group(background, frames), strict=True)])
        results.append((sum(map(len, frames)), near))
    assert all(a[0] < b[0] and a[1] + 1 < b[1] for a, b in pairwise(results))


def test_the_quantiser_is_a_stated_rule() -> None:
    assert [quantiser(Coding.H264, quality) for quality in (0, 16, 63)] == [51, 43, 20]
    assert [quantiser(Coding.AV1, quality) for quality in (0, 16, 63)] == [63, 53, 21]
    with pytest.raises(ConfigError, match=r"not in 0..63"):
        quantiser(Coding.H265, 64)


def test_a_still_scene_costs_little_more_than_headers(group) -> None:
    still = coded(frames=[GROUND] * 12)
    assert all(len(one.frame.to_bytes()) <= FRAME_HEADER_BYTES + 16 for one in still[2:])


def test_a_lost_frame_ends_its_group_and_the_place_is_named(group) -> None:
    background, frames = group
    pictures = decode_group(background, [*frames[:4], None, *frames[5:]])
    for image in FRAMES[:4]:
        assert psnr(next(pictures), image) > NEAR
    with pytest.raises(ReferenceMissing, match="place 5 of the group is missing"):
        next(pictures)

    decoder = rebuild(background, frames[:4])
    for _ in range(2):  # asking again changes nothing
        with pytest.raises(ReferenceMissing, match="place 5 of group 0 is missing: place 6 cannot"):
            decoder.decode(frames[5])
    assert psnr(decoder.decode(frames[4]), FRAMES[4]) > NEAR  # it came late


def test_a_frame_comes_once(group) -> None:
    background, frames = group
    decoder = rebuild(background, frames[:3])
    with pytest.raises(ReferenceMissing, match=r"place 4 .* place 3 cannot"):
        decoder.decode(frames[2])


def test_a_decoder_is_rebuilt_from_stored_packets(group) -> None:
    background, frames = group
    whole = list(decode_group(background, frames))
    for known in range(len(frames)):
        assert np.array_equal(rebuild(background, frames[:known]).decode(frames[known]), whole[known])


def test_follows_says_what_decodes_next(group) -> None:
    background, frames = group
    parsed = [video.GroupFrame.parse(data) for data in frames]
    decoder = GroupDecoder(background)
    assert decoder.follows(parsed[0]) and not decoder.follows(parsed[1])
    decoder.decode(frames[0])
    assert decoder.follows(parsed[1]) and not decoder.follows(parsed[0])


def test_a_damaged_frame_is_told_and_what_follows_it_is_refused(group) -> None:
    background, frames = group
    damaged = bytearray(frames[3])
    damaged[8] ^= 1  # of the CRC
    decoder = rebuild(background, frames[:3])
    with pytest.raises(SymbolMismatch, match=r"place 4 of group 0: the decoded picture fails"):
        decoder.decode(bytes(damaged))
    with pytest.raises(ReferenceMissing, match=r"place 4 of group 0 is damaged: place 5 cannot"):
        decoder.decode(frames[4])
    assert not decoder.follows(video.GroupFrame.parse(frames[4]))


def test_frames_of_another_group_or_background_are_refused(group) -> None:
    background, frames = group
    other = [one.frame.to_bytes() for one in coded(group_frames=4)]
    decoder = rebuild(background, frames[:1])
    with pytest.raises(LayerMismatch, match="group 1 among those of group 0"):
        decoder.decode(other[5])
    strange_background, strange = packets(coded(base_quality=10))
    with pytest.raises(LayerMismatch, match="refers to background"):
        decoder.decode(strange[1])
    with pytest.raises(MalformedBitstream, match="a background was expected"):
        GroupDecoder(frames[0])
    assert strange_background != background


def test_a_background_in_other_colours_is_refused(group) -> None:
    """Its CRC is of the picture: a payload that decodes to another one is seen at once."""
    background = bytearray(group[0])
    background[6] ^= 1
    with pytest.raises(SymbolMismatch, match="background: the decoded picture"):
        GroupDecoder(bytes(background))


def test_a_size_that_the_payload_exceeds_is_refused_by_the_decoder_itself(group) -> None:
    for size in ((32, 32), (1024, 1024)):
        data = bytearray(group[0])
        data[2:6] = size[0].to_bytes(2, "little") + size[1].to_bytes(2, "little")
        with pytest.raises(MalformedBitstream):
            GroupDecoder(bytes(data))


def test_groups_end_when_they_are_told_to_and_when_size_or_quality_change() -> None:
    maker = VideoEncoder(VideoSettings(group_frames=100))

    def next_one(image=GROUND, quality=30):
        one = maker.encode(image, base_quality=quality)
        return one.frame.group, one.frame.place, one.background is not None

    assert next_one() == (0, 1, True)  # without a background the first frame is one
    assert next_one() == (0, 2, False)
    maker.end_group()
    assert next_one() == (1, 1, False)
    assert next_one(quality=20) == (2, 1, True)
    assert next_one(GROUND[:40].copy(), 20) == (3, 1, True)
    maker.set_background(GROUND[:40] ^ 3)
    assert next_one(GROUND[:40].copy(), 20) == (3, 2, False)  # the group goes on with its own
    maker.end_group()
    assert next_one(GROUND[:40].copy(), 20) == (4, 1, True)
    maker.forget()
    assert next_one(GROUND[:40].copy(), 20) == (5, 1, True)


def test_group_numbers_wrap(monkeypatch) -> None:
    maker = VideoEncoder(VideoSettings(group_frames=1))
    maker._groups = 65_535
    assert [maker.encode(image, base_quality=20).frame.group for image in FRAMES[:2]] == [65_535, 0]


@pytest.mark.parametrize("frames", [0, MAX_PLACE + 1])
def test_a_group_has_as_many_frames_as_places(frames: int) -> None:
    with pytest.raises(ConfigError, match=r"not in 1..255"):
        VideoSettings(group_frames=frames)


def test_an_encoder_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(EncoderFailed, match="encoder libx264 cannot be opened for preset quickest, 98x80"):
        VideoEncoder(VideoSettings("x264", "quickest")).encode(GROUND, base_quality=16)
    with pytest.raises(EncoderFailed, match="encoder libx265 cannot be opened for preset medium, 2x2"):
        VideoEncoder(VideoSettings("x265")).encode(photo(1, 1), base_quality=16)


def test_an_encoder_that_this_build_of_ffmpeg_lacks_is_named() -> None:
    lacking = replace(SOFTWARE["x265"], name="libnone")
    with pytest.raises(EncoderFailed, match="this build of FFmpeg has no encoder libnone"):
        VideoEncoder(VideoSettings(), lacking).encode(GROUND, base_quality=16)


def test_presets_are_the_encoders(group) -> None:
    quick = VideoEncoder(VideoSettings("x264", "ultrafast"))
    quick.set_background(GROUND)
    assert quick.encode(FRAMES[0], base_quality=30).background != coded()[0].background


def test_no_hardware_is_told_once_and_x264_takes_over(caplog) -> None:
    caplog.set_level(logging.WARNING)
    absent = video.Maker("h264_absent", Coding.H264, ())
    # It opens, but keeps frames back: of no use to a camera.
    slow = video.Maker("libx264", Coding.H264, (("preset", "medium"),))
    maker = video.find_maker("hardware", [absent, slow])
    assert maker.name == "libx264" and maker is not slow
    assert [record.message for record in caplog.records] == [
        "no hardware encoder works on this host; x264 encodes instead"
    ]


def test_the_first_hardware_encoder_that_works_is_taken() -> None:
    works = video.SOFTWARE["x265"]
    assert video.find_maker("hardware", [video.Maker("h264_absent", Coding.H264, ()), works]) is works


@pytest.mark.parametrize("wrong", [FRAMES[0][:50], FRAMES[0].astype(np.float32), FRAMES[0][:, :, 0]])
def test_frames_that_do_not_fit_are_refused(wrong) -> None:
    group = video.GroupEncoder(video.SOFTWARE["x264"], GROUND, 0, base_quality=20)
    with pytest.raises(ConfigError):
        group.encode(wrong)
    assert group.encode(FRAMES[0]).place == 1


def test_a_group_takes_no_frame_beyond_its_last_place() -> None:
    group = video.GroupEncoder(video.SOFTWARE["x264"], GROUND[:16, :16].copy(), 0, base_quality=20)
    for _ in range(MAX_PLACE):
        group.encode(GROUND[:16, :16].copy())
    with pytest.raises(ConfigError, match="255 frames at most"):
        group.encode(GROUND[:16, :16].copy())


def test_a_frame_too_large_is_refused_before_an_encoder_is_opened() -> None:
    with pytest.raises(ConfigError, match="over 16777216 pixels"):
        VideoEncoder(VideoSettings()).encode(np.zeros((4097, 4096, 3), np.uint8), base_quality=16)


@pytest.mark.parametrize("encoder", ["x264", "x265"])
def test_a_background_of_its_own_quality_is_the_same_at_every_base_quality(encoder: EncoderName) -> None:
    packets, pictures = set(), []
    for base_quality in (6, 22, 40, 56):
        maker = VideoEncoder(VideoSettings(encoder, background_quality=30))
        maker.set_background(GROUND)
        made = [maker.encode(image, base_quality=base_quality) for image in FRAMES[:4]]
        background = maker.background.to_bytes()
        packets.add(background)
        decoder = GroupDecoder(background)
        pictures.append([decoder.decode(one.frame.to_bytes()) for one in made][-1])
    assert len(packets) == 1
    quality = [psnr(picture, FRAMES[3]) for picture in pictures]
    assert quality == sorted(quality) and quality[3] > quality[0] + 3


@pytest.mark.parametrize("encoder", ["x264", "x265"])
def test_a_background_is_finer_than_frames_where_nothing_is_set(encoder: EncoderName) -> None:
    usual, set_ = (
        VideoEncoder(VideoSettings(encoder, background_quality=quality)).encode(GROUND, base_quality=20)
        for quality in (None, 32)
    )
    assert usual.background == set_.background


def test_a_background_goes_out_once_though_the_quality_changes() -> None:
    maker = VideoEncoder(VideoSettings(background_quality=30))
    made = [
        maker.encode(image, base_quality=quality)
        for image, quality in zip(FRAMES, (20, 30, 40), strict=False)
    ]
    assert [one.background is not None for one in made] == [True, False, False]
    assert [one.frame.group for one in made] == [0, 1, 2]
    plain = VideoEncoder(VideoSettings())
    again = [
        plain.encode(image, base_quality=quality) for image, quality in zip(FRAMES, (20, 30), strict=False)
    ]
    assert all(one.background is not None for one in again)


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
def test_an_encoder_leaves_threads_their_scheduling() -> None:
    """Run by root, SVT-AV1 takes real-time priority for its caller and its threads."""
    code = """
import os
import numpy as np
from secondlook.shared.video import VideoEncoder, VideoSettings
maker = VideoEncoder(VideoSettings("svtav1"))
maker.set_background(np.zeros((64, 96, 3), np.uint8))
for level in (10, 90, 200):
    maker.encode(np.full((64, 96, 3), level, np.uint8), base_quality=30)
threads = {int(name) for name in os.listdir("/proc/self/task")}
assert len(threads) > 1, "the encoder has threads of its own"
print({os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_OTHER})
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "True\n"


def test_an_encoder_that_has_one_quantiser_takes_the_setting_and_codes_as_before() -> None:
    made = [
        VideoEncoder(VideoSettings("svtav1", background_quality=quality)).encode(GROUND, base_quality=20)
        for quality in (None, 40)
    ]
    assert made[0].background == made[1].background


class Unsupported:
    """An encoder or decoder of libavcodec that says so: by OSError, for PyAV has no class for every code."""

    time_base = Fraction(1, 25)

    def decode(self, packet: object) -> list[object]:
        raise OSError(95, "Operation not supported")

    encode = decode


def test_what_libavcodec_does_not_support_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    coder = VideoEncoder(VideoSettings("x264"))
    coded = coder.encode(photo(32, 48), base_quality=16)
    assert coded.background is not None
    decoder = GroupDecoder(coded.background.to_bytes())
    monkeypatch.setattr(decoder._planes, "_decoder", Unsupported())
    with pytest.raises(MalformedBitstream, match="Operation not supported"):
        decoder.decode(coded.frame.to_bytes())
    assert coder._group is not None
    monkeypatch.setattr(coder._group, "_encoder", Unsupported())
    with pytest.raises(EncoderFailed, match="Operation not supported"):
        coder.encode(photo(32, 48), base_quality=16)


def test_a_picture_of_colours_that_cannot_be_shown_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A true picture by its checksum, under parameters of another stream."""
    coder = VideoEncoder(VideoSettings("x264"))
    coded = coder.encode(photo(32, 48), base_quality=16)
    assert coded.background is not None
    decoder = GroupDecoder(coded.background.to_bytes())

    class Foreign:
        def __init__(self, picture: av.VideoFrame) -> None:
            self._picture = picture

        def to_ndarray(self, **wanted: str) -> np.ndarray:
            if wanted:
                raise OSError(95, "Operation not supported")
            return self._picture.to_ndarray()

    decode = decoder._planes.decode
    monkeypatch.setattr(decoder._planes, "decode", lambda payload: Foreign(decode(payload)))
    with pytest.raises(MalformedBitstream, match="cannot be shown: Operation not supported"):
        decoder.decode(coded.frame.to_bytes())
