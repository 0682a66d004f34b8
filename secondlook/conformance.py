"""What a plug-in must do, as tests that its package runs: derive a class, and say what is tried.

    from secondlook.conformance import CodecConformance

    class TestPyramid(CodecConformance):
        model = "pyramid"

pytest collects the methods. Without pytest, `python -m secondlook.conformance codec pyramid` runs the same. All of them
open what is tried as Secondlook does, by the name or folder that a setting would give: the package must be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from secondlook.shared.bitstream import Bitstream, Layer, parse
from secondlook.shared.codec import codec_of, load_codec
from secondlook.shared.detection import Detection, Detector, detect_all
from secondlook.shared.errors import (
    BitstreamError,
    ConfigError,
    ModelNotFound,
    ReferenceMissing,
    SecondlookError,
)
from secondlook.shared.faults import unforeseen_named
from secondlook.shared.filters import ImageFilter
from secondlook.shared.layers import LayeredCodec, Layers
from secondlook.shared.models import find_model

U8 = npt.NDArray[np.uint8]
SIZES = ((1, 1), (17, 33), (64, 64), (130, 70))  # width, height


def picture(width: int, height: int, seed: int = 0) -> U8:
    """A picture with slopes, edges and a little noise: uint8[height,width,3], the same for the same seed."""
    rows, columns = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    shade = 96 + 64 * np.sin((columns + 7 * seed) / 9.0) + 40 * np.cos(rows / 13.0)
    image = np.stack([shade, shade[::-1], 255 - shade], axis=-1) + rng.normal(0, 3, (height, width, 3))
    image[height // 3 : height // 2, width // 4 : width // 2] = (220, 40 + 10 * (seed % 10), 30)
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def psnr(image: U8, other: U8) -> float:
    """In dB; infinite for equal pictures."""
    error = float(np.mean(np.square(image.astype(np.float64) - other)))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def is_picture(image: object, width: int, height: int) -> bool:
    """Whether it is uint8[height,width,3]."""
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == (height, width, 3)


@contextlib.contextmanager
def refused(*kinds: type[Exception], what: str) -> Iterator[None]:
    """The block must raise one of `kinds`, with one line that names the cause."""
    try:
        with unforeseen_named(SecondlookError):
            yield
    except kinds as error:
        assert str(error).strip() and "\n" not in str(error), (
            f"{what}: the error must be one line, not {error!r}"
        )
    except SecondlookError as error:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise AssertionError(f"{what} must raise {names}, not {error!r}") from error
    else:
        raise AssertionError(f"{what} was not refused")


@functools.lru_cache(maxsize=8)
def _codec(model: str | Path) -> LayeredCodec:
    return load_codec(model, threads=1)


class CodecConformance:
    """A codec family. `model`: name or folder of one of its models; `seeds`: how many damaged payloads are tried."""

    model: ClassVar[str | Path] = ""
    quality: ClassVar[int] = 32
    seeds: ClassVar[int] = 40

    def codec(self) -> LayeredCodec:
        """The codec as the agent and the workers open it."""
        return _codec(self.model)

    def layers(self, width: int = 96, height: int = 80, seed: int = 0) -> Layers:
        coded = self.codec().encode(picture(width, height, seed), base_quality=16, quality=self.quality)
        return coded.layers

    def test_the_model_tells_its_family(self) -> None:
        folder = find_model(self.model, kind="codec")
        codec = self.codec()
        assert codec.name == folder.name, f"codec.name is {codec.name!r}, the manifest says {folder.name!r}"
        assert codec.model_hash == folder.model_hash, "codec.model_hash is not that of the model folder"
        assert folder.manifest["files"], "a model without files has no hash of its own: list at least one"

    def test_headers_tell_family_model_and_size_without_the_package(self) -> None:
        folder = find_model(self.model, kind="codec")
        layers = self.layers(50, 40)
        base, enhancement = parse(layers.base), parse(layers.enhancement)
        for header, layer in ((base, Layer.BASE), (enhancement, Layer.ENHANCEMENT)):
            assert header.layer is layer
            assert header.family == folder.manifest.get("family", "lite"), (
                f"the layer names {header.family!r}"
            )
            assert header.model_hash == folder.model_hash, "the layer names another model"
            assert (header.width, header.height) == (50, 40)
        lower = (base.quality, base.symbol_crc)
        assert (enhancement.base_quality, enhancement.base_symbol_crc) == lower

    def test_decoding_needs_no_model_named(self) -> None:
        layers = self.layers()
        found = codec_of(layers.base, threads=1)
        assert found.model_hash == self.codec().model_hash
        assert np.array_equal(found.decode_base(layers.base), self.codec().decode_base(layers.base))

    def test_pictures_of_any_size(self) -> None:
        for width, height in SIZES:
            layers = self.layers(width, height)
            for decoded in (
                self.codec().decode_base(layers.base),
                self.codec().decode_enhanced(layers.base, layers.enhancement),
            ):
                assert is_picture(decoded, width, height), (
                    f"{width}x{height} does not come back as uint8[H,W,3]"
                )

    def test_the_same_bytes_and_pictures_every_time(self) -> None:
        first, second = self.layers(seed=3), self.layers(seed=3)
        assert first == second, "the same picture was coded to other bytes"
        self.codec().decode_base(self.layers(seed=5).base)  # what came between must not matter
        one, other = (self.codec().decode_enhanced(first.base, first.enhancement) for _ in range(2))
        assert np.array_equal(one, other), "the same layers were decoded to another picture"

    def test_a_codec_that_was_just_opened_decodes_alike(self) -> None:
        layers, fresh = self.layers(seed=1), load_codec(self.model, threads=1)
        assert np.array_equal(fresh.decode_base(layers.base), self.codec().decode_base(layers.base))
        assert np.array_equal(
            fresh.decode_enhanced(layers.base, layers.enhancement),
            self.codec().decode_enhanced(layers.base, layers.enhancement),
        )

    def test_the_input_is_left_as_it_was(self) -> None:
        image = picture(64, 48)
        before = image.copy()
        self.codec().encode(image, base_quality=16, quality=40)
        assert np.array_equal(image, before), "encode changed the picture that it was given"
        image.setflags(write=False)
        self.codec().encode(image, base_quality=16, quality=40)
        self.codec().encode(
            np.ascontiguousarray(image.transpose(1, 0, 2)).transpose(1, 0, 2), base_quality=16, quality=40
        )

    def test_quality_buys_quality(self) -> None:
        image = picture(160, 128)
        low, high = (
            self.codec().encode(image, base_quality=16, quality=quality).layers for quality in (0, 63)
        )
        seen = [self.codec().decode_enhanced(one.base, one.enhancement) for one in (low, high)]
        assert psnr(image, seen[0]) <= psnr(image, seen[1]), "quality 63 is worse than quality 0"
        assert len(low.enhancement) <= len(high.enhancement), "quality 63 takes fewer bytes than quality 0"
        base = psnr(image, self.codec().decode_base(high.base))
        assert base <= psnr(image, seen[1]), "both layers at quality 63 are worse than the base layer alone"

    def test_arguments_out_of_range_are_refused(self) -> None:
        codec, image = self.codec(), picture(32, 32)
        for base_quality, quality in ((-1, 40), (64, 40), (16, -1), (16, 64)):
            with refused(ConfigError, what=f"qualities {base_quality} and {quality}"):
                codec.encode(image, base_quality=base_quality, quality=quality)
        wrong: Sequence[Any] = (
            image.astype(np.float32),
            image[..., 0],
            image[..., :2],
            np.zeros((0, 8, 3), np.uint8),
        )
        for one in wrong:
            with refused(ConfigError, what=f"a picture that is {one.dtype}{list(one.shape)}"):
                codec.encode(one, base_quality=16, quality=40)

    def test_layers_that_do_not_belong_are_refused(self) -> None:
        codec, one, other = self.codec(), self.layers(seed=1), self.layers(seed=2)
        with refused(BitstreamError, what="an enhancement in the place of a base layer"):
            codec.decode_base(one.enhancement)
        with refused(BitstreamError, what="a base layer in the place of an enhancement"):
            codec.decode_enhanced(one.base, one.base)
        with refused(BitstreamError, what="the enhancement of another frame"):
            codec.decode_enhanced(one.base, other.enhancement)
        with refused(ModelNotFound, BitstreamError, what="the layer of another model"):
            codec.decode_base(dataclasses.replace(parse(one.base), model_hash=b"\1" * 8).to_bytes())

    def test_damaged_layers_are_refused_by_our_errors(self) -> None:
        """Cut anywhere; altered anywhere behind the header with the checksum put right, as a hostile sender would."""
        codec, layers = self.codec(), self.layers()
        base, enhancement = parse(layers.base), parse(layers.enhancement)
        for cut in sorted({*range(60), *range(0, len(layers.base), 1 + len(layers.base) // 40)}):
            if cut < len(layers.base):
                with refused(BitstreamError, what=f"a base layer cut after {cut} bytes"):
                    codec.decode_base(layers.base[:cut])
        intact = codec.decode_base(layers.base), codec.decode_enhanced(layers.base, layers.enhancement)
        for seed in range(self.seeds):
            self._decodes_or_refuses(altered(base, seed), intact[0], codec.decode_base, seed)
            self._decodes_or_refuses(
                altered(enhancement, seed),
                intact[1],
                lambda data: codec.decode_enhanced(layers.base, data),
                seed,
            )

    def _decodes_or_refuses(self, data: bytes, intact: U8, decode: Callable[[bytes], U8], seed: int) -> None:
        """The wrong picture is what no decoder may return: the symbol CRC tells."""
        try:
            with unforeseen_named(SecondlookError):
                decoded = decode(data)
        except BitstreamError as error:
            assert "\n" not in str(error)
        except SecondlookError as error:
            raise AssertionError(
                f"a damaged payload (seed {seed}) must raise a BitstreamError, not {error!r}"
            ) from error
        else:
            assert np.array_equal(decoded, intact), f"a damaged payload (seed {seed}) gave another picture"

    def test_a_small_payload_cannot_claim_a_large_frame(self) -> None:
        header = parse(self.layers().base)
        with refused(BitstreamError, what="the payload of 96x80 pixels as a frame of 4096x4096"):
            self.codec().decode_base(dataclasses.replace(header, width=4096, height=4096).to_bytes())

    def test_deltas_decode_with_their_key_alone(self) -> None:
        """A family without deltas gives no key, and its frames are keys."""
        codec = self.codec()
        first = codec.encode(picture(96, 80, 1), base_quality=16, quality=self.quality, sequence=7)
        if first.key is None:
            again = codec.encode(
                picture(96, 80, 1), base_quality=16, quality=self.quality, sequence=8, key=None
            )
            assert again.layers == first.layers
            assert parse(first.layers.base).reference is None
            return
        image = picture(96, 80, 1)
        image[:16, :16] = 255
        delta = codec.encode(image, base_quality=16, quality=self.quality, sequence=8, key=first.key).layers
        key = first.layers
        assert parse(delta.base).reference == 7 and parse(delta.enhancement).reference == 7
        assert is_picture(codec.decode_base(delta.base, key=key.base), 96, 80)
        assert is_picture(codec.decode_enhanced(delta.base, delta.enhancement, key=key), 96, 80)
        with refused(ReferenceMissing, what="a delta without its key"):
            codec.decode_base(delta.base)
        with refused(BitstreamError, what="a delta with another frame's key"):
            codec.decode_base(delta.base, key=self.layers(seed=4).base)


def altered(layer: Bitstream, seed: int) -> bytes:
    """A layer with some bytes of its payload changed, taken out or put in, and a checksum that fits."""
    rng = np.random.default_rng(seed)
    payload = bytearray(layer.payload)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(len(payload), 1)))
        kind = int(rng.integers(0, 3))
        if kind == 0 and payload:
            payload[at] ^= int(rng.integers(1, 256))
        elif kind == 1:
            payload[at:at] = bytes(rng.integers(0, 256, 3, np.uint8))
        else:
            del payload[at : at + 5]
    return dataclasses.replace(layer, payload=bytes(payload)).to_bytes()


class DetectorConformance:
    """A detector, by what the setting `worker.detector` would say. `sizes`: of frames, width and height."""

    detector: ClassVar[str] = ""
    sizes: ClassVar[Sequence[tuple[int, int]]] = ((64, 48), (1, 1), (333, 200))

    def open(self, min_score: float | None = None) -> Detector:
        from secondlook.cloud.workers.detectors import load_detector

        return load_detector(self.detector, threads=1, min_score=min_score)

    def frames(self) -> list[U8]:
        return [picture(width, height, seed) for seed, (width, height) in enumerate(self.sizes)]

    def test_it_has_a_name_and_classes(self) -> None:
        detector = self.open()
        assert isinstance(detector.name, str) and detector.name.strip(), "detector.name is no text"
        classes = detector.classes
        assert isinstance(classes, tuple) and classes, "detector.classes is no tuple of names"
        assert all(isinstance(one, str) and one for one in classes), "a class has no name"
        assert len(set(classes)) == len(classes), "two classes have the same name"

    def test_what_it_finds_lies_in_the_frame_best_first(self) -> None:
        detector = self.open()
        for image in self.frames():
            found = detector.detect(image)
            height, width = image.shape[:2]
            assert isinstance(found, list) and all(isinstance(one, Detection) for one in found)
            for one in found:
                x0, y0, x1, y1 = one.box
                assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height, (
                    f"{one} lies outside {width}x{height}"
                )
                assert one.label in detector.classes, f"{one.label!r} is not among detector.classes"
                assert all(type(value) is float for value in (one.score, *one.box)), (
                    f"{one} holds no plain floats"
                )
            scores = [one.score for one in found]
            assert scores == sorted(scores, reverse=True), "detections are not sorted by score"

    def test_the_same_frame_has_the_same_objects(self) -> None:
        detector, frames = self.open(), self.frames()
        assert [detector.detect(one) for one in frames] == [detector.detect(one) for one in frames]

    def test_frames_at_once_are_frames_one_by_one(self) -> None:
        detector, frames = self.open(), self.frames()
        apart, together = [detector.detect(one) for one in frames], detect_all(detector, frames)
        assert len(together) == len(frames)
        for alone, beside in zip(apart, together, strict=True):
            assert [one.label for one in alone] == [one.label for one in beside]
            for one, other in zip(alone, beside, strict=True):
                assert np.allclose([one.score, *one.box], [other.score, *other.box], rtol=1e-3, atol=1e-2)
        assert detect_all(detector, []) == []

    def test_the_frame_is_left_as_it_was(self) -> None:
        detector = self.open()
        for image in self.frames():
            before = image.copy()
            image.setflags(write=False)
            detector.detect(image)
            assert np.array_equal(image, before)

    def test_a_higher_score_is_a_shorter_list(self) -> None:
        every, some = self.open(min_score=0.05), self.open(min_score=0.6)
        for image in self.frames():
            found = some.detect(image)
            assert all(one.score >= 0.6 for one in found), "min_score lets lower scores through"
            assert len(found) <= len(every.detect(image))


class PostFilterConformance:
    """A post-filter, by what the setting `refiner.postfilter` would say."""

    postfilter: ClassVar[str | Path] = ""
    sizes: ClassVar[Sequence[tuple[int, int]]] = (*SIZES, (500, 430))

    def open(self) -> ImageFilter:
        from secondlook.cloud.workers.postfilter import load_postfilter

        return load_postfilter(self.postfilter, threads=1)

    def test_it_says_what_it_is(self) -> None:
        one, other = self.open(), self.open()
        assert one.name.strip() and one.identity.strip() and "\n" not in one.identity
        assert one.name in one.identity, "identity begins with the name, and tells the version behind it"
        assert one.identity == other.identity, "the same filter has two identities"
        assert one.identity != one.name, "identity must tell one version of the filter from the next"

    def test_pictures_keep_their_size(self) -> None:
        postfilter = self.open()
        for width, height in self.sizes:
            refined = postfilter.apply(picture(width, height))
            assert is_picture(refined, width, height), f"{width}x{height} does not come back as uint8[H,W,3]"

    def test_it_refines_and_does_not_repaint(self) -> None:
        image = picture(160, 128)
        assert psnr(image, self.open().apply(image)) > 15, "what comes back is another picture"

    def test_the_same_picture_every_time_and_the_input_left_alone(self) -> None:
        postfilter, image = self.open(), picture(96, 80)
        before = image.copy()
        image.setflags(write=False)
        one, other = postfilter.apply(image, quality=20), postfilter.apply(image, quality=20)
        assert np.array_equal(one, other) and np.array_equal(image, before)
        assert not np.shares_memory(one, image), "the picture given and the one returned share their memory"

    def test_every_quality_is_taken(self) -> None:
        postfilter, image = self.open(), picture(64, 64)
        for quality in (0, 1, 31, 63):
            assert is_picture(postfilter.apply(image, quality=quality), 64, 64)

    def test_progress_is_told_and_may_end_the_work(self) -> None:
        calls: list[int] = []
        self.open().apply(picture(130, 70), lambda: calls.append(1))
        assert calls, "progress was never called: a worker would be taken for dead"

        def stop() -> None:
            raise _Stopped

        try:
            self.open().apply(picture(130, 70), stop)
        except _Stopped:
            return
        raise AssertionError("what `progress` raises must end the work")

    def test_what_is_no_picture_is_refused(self) -> None:
        postfilter = self.open()
        wrong: Sequence[Any] = (
            np.zeros((8, 8), np.uint8),
            np.zeros((8, 8, 3), np.float32),
            np.zeros((0, 8, 3), np.uint8),
        )
        for one in wrong:
            with refused(ConfigError, what=f"a picture that is {one.dtype}{list(one.shape)}"):
                postfilter.apply(one)


class _Stopped(Exception):
    pass


class PeerConformance:
    """A codec of the benches, by the name of its entry point."""

    peer: ClassVar[str] = ""

    def test_it_codes_pictures_and_has_a_curve(self) -> None:
        from secondlook.shared.peers import find_peer

        peer, image = find_peer(self.peer, {}).peer, picture(192, 160)
        assert len(peer.qualities) >= 2, "a curve has two points at least"
        sizes = []
        for quality in (peer.qualities[0], peer.qualities[-1]):
            data = peer.encode(image, quality)
            assert isinstance(data, bytes) and data
            assert is_picture(peer.decode(data), 192, 160)
            sizes.append((len(data), psnr(image, peer.decode(data))))
        assert sizes[0][0] < sizes[1][0] and sizes[0][1] < sizes[1][1], "qualities run from few bits to many"

    def test_odd_sizes_come_back(self) -> None:
        from secondlook.shared.peers import find_peer

        peer = find_peer(self.peer, {}).peer
        assert is_picture(peer.decode(peer.encode(picture(17, 33), peer.qualities[-1])), 17, 33)


class SourceConformance:
    """A source of frames, by an address of it. `frames`: how many it hands out at least."""

    address: ClassVar[str] = ""
    frames: ClassVar[int] = 3

    def test_frames_come_in_order(self) -> None:
        from secondlook.edge.config import SourceConfig
        from secondlook.edge.source.sources import open_source
        from secondlook.shared.settings import SourceAddress

        shots = list(itertools.islice(open_source(SourceConfig(SourceAddress(self.address))), self.frames))
        assert len(shots) == self.frames, f"{len(shots)} frames came, not {self.frames}"
        seconds = [shot.seconds for shot in shots]
        assert seconds == sorted(seconds) and seconds[0] >= 0, "times of frames do not rise"
        assert all(is_picture(shot.image, *shot.image.shape[1::-1]) for shot in shots)


KINDS: dict[str, tuple[type[Any], str]] = {
    "codec": (CodecConformance, "model"),
    "detector": (DetectorConformance, "detector"),
    "postfilter": (PostFilterConformance, "postfilter"),
    "peer": (PeerConformance, "peer"),
    "source": (SourceConformance, "address"),
}


def run(kind: str, name: str, say: Callable[[str], None] = print) -> int:
    """Try one plug-in, and say of each test how it went; how many failed. Raises what opening it raises."""
    base, attribute = KINDS[kind]
    case = type("Tried", (base,), {attribute: name})()
    failed = 0
    for method, test in inspect.getmembers(case, callable):
        if not method.startswith("test_"):
            continue
        words = method.removeprefix("test_").replace("_", " ")
        try:
            with unforeseen_named(AssertionError, SecondlookError):
                test()
        except (AssertionError, SecondlookError) as error:
            failed += 1
            say(f"failed  {words}: {' '.join(str(error).split()) or type(error).__name__}")
        else:
            say(f"ok      {words}")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m secondlook.conformance KIND NAME`: 1 where a test fails."""
    parser = argparse.ArgumentParser(
        prog="python -m secondlook.conformance", description="Try a plug-in: does it do what it must?"
    )
    parser.add_argument("kind", choices=sorted(KINDS), help="what kind of plug-in it is")
    parser.add_argument("name", help="its name, folder or address, as a setting would give it")
    given = parser.parse_args(arguments)
    try:
        return 1 if run(given.kind, given.name) else 0
    except SecondlookError as error:
        print(f"secondlook: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
