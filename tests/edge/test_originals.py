"""Enhancements of video groups are coded when they are asked for, from the picture that the spool keeps."""

from __future__ import annotations

import logging
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secondlook.edge.coding import originals
from secondlook.edge.coding.encode import choose_encoder
from secondlook.edge.coding.originals import EnhancementCoder
from secondlook.edge.config import CodecConfig, SourceConfig
from secondlook.shared import packet as p
from secondlook.shared.codec import load_codec
from secondlook.shared.crop import Crop
from secondlook.shared.errors import MalformedBitstream
from secondlook.shared.packet import MAX_ENHANCEMENT_BYTES
from secondlook.shared.videobits import CropLayers, split_layers
from tests.edge.gateway import Memory, SmallGateway, wait_until
from tests.edge.test_encode_groups import shot
from tests.edge.test_uplink import BOOT, QUICK, Edge
from tests.pictures import photo, psnr


@pytest.fixture(scope="module")
def codec():
    return load_codec(threads=1)


class Counting:
    """A codec that counts what it codes."""

    def __init__(self, codec) -> None:
        self._codec, self.coded = codec, 0

    def __getattr__(self, name: str):
        return getattr(self._codec, name)

    def encode(self, *args, **kwargs):
        self.coded += 1
        return self._codec.encode(*args, **kwargs)


def encoder(codec, **settings):
    return choose_encoder(codec, CodecConfig(family="video", **settings), SourceConfig("demo:"), BOOT)


def test_the_model_codes_nothing_until_it_is_asked(codec) -> None:
    counting = Counting(codec)
    at_work = encoder(counting)
    frames = [at_work.encode(shot(number)) for number in range(3)]
    assert counting.coded == 0 and all(originals.is_original(frame.enhancement) for frame in frames)
    assert frames[1].info.enhancement_bytes == len(frames[1].enhancement)
    kept = originals.picture(frames[1].enhancement)
    assert psnr(kept, shot(1).image) > 28, "its colours are at half the resolution, and these are sharp"
    enhancement = EnhancementCoder(counting, 16, 40)(frames[1].enhancement)
    assert counting.coded == 1
    layers = split_layers(enhancement)
    assert psnr(codec.decode_enhanced(layers.base, layers.enhancement), shot(1).image) > 26
    assert EnhancementCoder(counting, 16, 40)(enhancement) is enhancement, (
        "what is coded already is sent as it is"
    )


def test_a_crop_alone_is_coded(codec) -> None:
    kept = encoder(codec).encode(shot(1)).enhancement
    coder, wanted = EnhancementCoder(codec, 16, 40), Crop(16, 0, 80, 48)
    crop = CropLayers.parse(coder(kept, wanted))
    assert (crop.left, crop.top) == (16, 0)
    shown = codec.decode_enhanced(crop.layers.base, crop.layers.enhancement)
    assert shown.shape == (48, 64, 3) and psnr(shown, shot(1).image[wanted.index]) > 26
    assert len(coder(kept, wanted)) < len(coder(kept))
    cut = CropLayers.parse(coder(kept, Crop(64, 32, 200, 200)))
    assert codec.decode_enhanced(cut.layers.base, cut.layers.enhancement).shape == (32, 32, 3)
    assert coder(kept, Crop(96, 0, 128, 64)) == coder(kept), "outside of the frame: all of it"
    whole = coder(kept)
    assert coder(whole, wanted) is whole, "what is coded already is sent as it is"


def test_always_codes_each_frame(codec) -> None:
    counting = Counting(codec)
    at_work = encoder(counting, enhancement="always")
    assert not originals.is_original(at_work.encode(shot(0)).enhancement) and counting.coded == 1


def test_a_picture_too_large_for_the_spool_is_kept_at_a_lower_quality_or_coded(
    codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photo(64, 96)
    sizes = {quality: len(originals.keep(image, quality) or b"") for quality in (5, 60, 90)}
    assert sizes[5] < sizes[60] < sizes[90]
    monkeypatch.setattr(originals, "MAX_ENHANCEMENT_BYTES", sizes[60])
    assert len(originals.keep(image, 90) or b"") == sizes[60]
    monkeypatch.setattr(originals, "MAX_ENHANCEMENT_BYTES", 100)
    assert originals.keep(image, 90) is None
    assert not originals.is_original(encoder(codec).encode(shot(0)).enhancement)


def claims(width: int, height: int) -> bytes:
    """A kept picture whose header was damaged."""
    kept = originals.keep(photo(64, 96), 90)
    assert kept is not None
    at = kept.index(b"\xff\xc0") + 5  # behind marker, length and depth: height and width
    return kept[:at] + struct.pack(">HH", height, width) + kept[at + 4 :]


@pytest.mark.parametrize(
    "damaged", [originals.MARK, originals.MARK + b"no picture", claims(65_000, 65_000), claims(0, 0)]
)
def test_damage_is_an_error_of_ours(codec, damaged: bytes) -> None:
    with pytest.raises(MalformedBitstream, match="cannot be read"):
        EnhancementCoder(codec, 16, 40)(damaged)


def test_over_the_link_goes_what_was_coded_on_request(
    codec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    gateway = SmallGateway(memory := Memory())
    edge = Edge(tmp_path, replace(QUICK, gateway=gateway.address))
    edge.uplink._finish = EnhancementCoder(codec, 16, 40)
    frames = [encoder(codec).encode(shot(0))]
    lost = replace(frames[0].info, seq=1)
    huge = replace(frames[0].info, seq=2)
    edge.put(
        *frames,
        replace(frames[0], info=lost, enhancement=originals.MARK + b"damaged"),
        replace(frames[0], info=huge),
    )
    wait_until(edge.all_safe)
    gateway.ask(p.EnhancementRequest(1, BOOT, 0, 2**62, 50))
    wait_until(lambda: any(isinstance(packet, p.Chunk) for packet in memory.control))
    chunks = [packet for packet in memory.control if isinstance(packet, p.Chunk)]
    layer = b"".join(chunk.payload for chunk in chunks)
    wait_until(lambda: len(layer) == chunks[0].total and zlib.crc32(layer) == chunks[0].crc32)
    layers = split_layers(layer)
    assert psnr(codec.decode_enhanced(layers.base, layers.enhancement), shot(0).image) > 26
    gateway.ask(p.EnhancementRequest(2, BOOT, 1, 2**62, 50))
    wait_until(lambda: p.Refusal(2, "expired") in memory.control)
    gateway.ask(p.CropRequest(4, BOOT, 0, 2**62, 50, 16, 0, 80, 48))
    wait_until(lambda: any(isinstance(one, p.Chunk) and one.request_id == 4 for one in memory.control))
    parts = [one for one in memory.control if isinstance(one, p.Chunk) and one.request_id == 4]
    assert CropLayers.parse(parts[0].payload).left == 16 and parts[0].total == len(parts[0].payload)
    edge.uplink._finish = lambda kept, _crop: bytes(MAX_ENHANCEMENT_BYTES + 1)
    gateway.ask(p.EnhancementRequest(3, BOOT, 2, 2**62, 50))
    wait_until(lambda: p.Refusal(3, "expired") in memory.control)
    edge.stop()
    gateway.stop()
    told = [record.message for record in caplog.records if "has no enhancement" in record.message]
    assert told and "cannot be read" in told[0]
    assert np.array_equal(originals.picture(frames[0].enhancement).shape, (64, 96, 3))
