"""What reading hostile bytes may cost: for every parser and decoder a ceiling of CPU time for each byte that came.

Time is that of the thread alone, the best of three where the first is above the ceiling. Ceilings are generous, some
twenty times what honest bytes take here: they are for what grows faster than its input, not for what is slow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.cloud.config import CloudConfig
from secondlook.cloud.gateway import broker
from secondlook.cloud.station.schema import VerdictIn
from secondlook.edge.config import EdgeConfig
from secondlook.shared import bitstream, config, models, packet, redact
from secondlook.shared.codec import LiteCodec, load_codec
from secondlook.shared.errors import SecondlookError
from secondlook.shared.external_data import has_external_data
from secondlook.shared.packet import MAX_HEADER_BYTES

VECTORS = Path(__file__).parent / "vectors"
BOOT = "ab" * 16
MAX_BYTES = 64 << 10
FIXED_SECONDS = 0.05  # for a collection of garbage in between, and a first call


@dataclass(frozen=True)
class Reader:
    """Something that reads bytes. Honest examples, and pieces that its language repeats and nests with."""

    read: Callable[[bytes], object]
    honest: Sequence[bytes]
    pieces: Sequence[bytes]
    microseconds_a_byte: float
    refuses: tuple[type[Exception], ...] = (SecondlookError,)
    most: int = MAX_BYTES

    def seconds(self, data: bytes) -> float:
        started = time.thread_time()
        with suppress(*self.refuses):
            self.read(data)
        return time.thread_time() - started

    def check(self, data: bytes) -> None:
        ceiling = FIXED_SECONDS + self.microseconds_a_byte * len(data) / 1e6
        taken = self.seconds(data)
        if taken > ceiling:
            taken = min(taken, self.seconds(data), self.seconds(data))
        assert taken <= ceiling, f"{len(data)} bytes took {taken:.3f} s: {data[:80]!r}"


def parse_header(data: bytes) -> object:
    return packet.parse([data, b""])


def read_manifest(folder: Path) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        (folder / "manifest.json").write_bytes(data)
        return models.find_model(folder)

    return read


def read_settings(folder: Path, kind: type) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        path = folder / "settings.toml"
        path.write_bytes(data)
        return config.load(path, kind)

    return read


def read_redacted(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    return redact.redacted(text), redact.redacted_address(text), redact.split_login(text)


MSGPACK = (
    b"\xdc\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\x91",
    b"\x81",
    b"\xc0",
    b"\xd9\xff",
    b"\x94\x01",
    b"\xcf",
)
JSON = (b"[", b"{", b'{"a":', b'"', b"\\u0000", b"9", b"-1e", b" ", b"]", b"}", b'"\xc3\xa9', b",", b"null")
HELLO = packet.Hello("gate", BOOT, "bulk", "yard", 9, 0, "test").to_frames()[0]
ACK = packet.Ack(BOOT, 3, tuple((9 * n, 9 * n + 2) for n in range(1, 200)), 4096).to_frames()[0]
LEASE = msgpack.packb([1, "lease", {"n": 3, "ttl_seconds": 5.0, "worker": "w1"}])
VERDICT = json.dumps(
    {
        "reviewer": "ann",
        "verdict": "confirm",
        "shown_sha256": "ab" * 32,
        "idempotency_key": "ab" * 16,
        "note": "x",
    }
).encode()
TOML = (
    b"a.",
    b"a",
    b"[",
    b"]",
    b"[[a]]\n",
    b"[a.b]\n",
    b'"',
    b"'''",
    b'"""',
    b"={",
    b"=1\n",
    b"\\u",
    b"9",
    b"\n",
    b"#",
)
ADDRESSES = (
    b"a://",
    b"rtsp://u:p@h/",
    b"pass=",
    b"key=",
    b"'",
    b'"',
    b"\\",
    b"&a=",
    b"@",
    b":",
    b"/",
    b"a-",
    b" ",
    b"x_",
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    folder = tmp_path_factory.mktemp("cost")
    manifest = (models.MODELS_ROOT / "lite" / "manifest.json").read_bytes()
    graph = (models.MODELS_ROOT / "lite" / "dequantise_base.onnx").read_bytes()[:4000]
    layers = [path.read_bytes() for path in sorted(VECTORS.glob("*.slk"))]
    protobuf = (
        b"\x3a\x00",
        b"\x3a\x02",
        b"\x0a",
        b"\x08\x01",
        b"\xff",
        b"\x00",
        b"\x2a\x00",
        b"\x0d\x00\x00\x00\x00",
    )
    return {
        "packet": Reader(parse_header, [HELLO, ACK], MSGPACK, 20, most=2 * MAX_HEADER_BYTES),
        "broker request": Reader(broker._open, [LEASE], MSGPACK, 20),
        "bitstream": Reader(bitstream.parse, layers, (b"\xff", b"\x00"), 2),
        "manifest": Reader(read_manifest(folder), [manifest], JSON, 10),
        "onnx file": Reader(has_external_data, [graph], protobuf, 50),
        "addresses": Reader(read_redacted, [b"rtsp://user:pw@host/a?password=x"], ADDRESSES, 50),
        "verdict": Reader(VerdictIn.model_validate_json, [VERDICT], JSON, 20, (SecondlookError, ValueError)),
        "edge settings": Reader(read_settings(folder, EdgeConfig), [b"[link]\naddress='x'\n"], TOML, 50),
        "cloud settings": Reader(read_settings(folder, CloudConfig), [b"queue='nats://h'\n"], TOML, 50),
    }


NAMES = [
    "packet",
    "broker request",
    "bitstream",
    "manifest",
    "onnx file",
    "addresses",
    "verdict",
    "edge settings",
    "cloud settings",
]


def hostile(draw: st.DrawFn, reader: Reader) -> bytes:
    """Pieces repeated to the limit, perhaps around one more, inside what is honest, cut and damaged."""
    pieces = st.lists(st.sampled_from(reader.pieces), min_size=1, max_size=3).map(b"".join)
    one, two = draw(pieces), draw(pieces)
    honest = draw(st.sampled_from(reader.honest))
    at = draw(st.integers(0, len(honest)))
    size = draw(st.sampled_from([1, 100, 4000, reader.most]))
    many = one * (size // len(one)) + two * draw(st.sampled_from([0, 1, size // len(two)]))
    data = bytearray(
        draw(st.sampled_from([b"", honest[:at]])) + many + draw(st.sampled_from([b"", honest[at:]]))
    )
    del data[2 * reader.most :]
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_no_bytes_cost_more_than_their_number(
    readers: dict[str, Reader], name: str, data: st.DataObject
) -> None:
    reader = readers[name]
    reader.check(data.draw(st.composite(lambda draw: hostile(draw, reader))()))


@pytest.mark.parametrize("name", NAMES)
def test_a_piece_that_goes_on_to_the_limit(readers: dict[str, Reader], name: str) -> None:
    """The plainest of hostile bytes, all of them: each piece alone, and each with each."""
    reader = readers[name]
    for one in reader.pieces:
        reader.check(one * (reader.most // len(one)))
        for two in reader.pieces:
            both = one + two
            reader.check(both * (reader.most // 16 // len(both)))


def test_what_costs_the_square_of_its_size_is_found() -> None:
    """So the ceilings see what they are there to see."""
    slow = Reader(lambda data: sum(a == b for a in data for b in data), [b""], [b"x"], 20)
    with pytest.raises(AssertionError, match="bytes took"):
        slow.check(b"x" * 4000)


@pytest.fixture(scope="module")
def codec() -> LiteCodec:
    found = load_codec(threads=1)
    assert isinstance(found, LiteCodec)
    return found


@st.composite
def altered(draw: st.DrawFn, stem: str, layer: str) -> tuple[bytes, int]:
    """A layer with a checksum that holds, of altered payload and size, and how many pixels it claims."""
    known = bitstream.parse((VECTORS / f"{stem}.{layer}.slk").read_bytes())
    payload = bytearray(known.payload * draw(st.sampled_from([1, 1, 3])))
    for _ in range(draw(st.integers(0, 4))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    width = draw(st.sampled_from([known.width, known.width, 64, 1000, 8192]))
    height = draw(st.sampled_from([known.height, known.height, 64, 1000, 8192]))
    made = replace(known, payload=bytes(payload), width=width, height=height)
    return made.to_bytes(), width * height


# One byte of a layer may stand for this many pixels, and a pixel may take so long.
PIXELS_A_BYTE = 4096
MICROSECONDS_A_PIXEL = 3


@pytest.mark.parametrize("layer", ["base", "enhancement"])
@given(data=st.data())
def test_decoding_costs_no_more_than_bytes_and_pixels(
    codec: LiteCodec, layer: str, data: st.DataObject
) -> None:
    stem = data.draw(st.sampled_from(["photo", "photo-high", "noise", "odd"]))
    crafted, pixels = data.draw(altered(stem, layer))
    honest_base = (VECTORS / f"{stem}.base.slk").read_bytes()

    def decode(layer_bytes: bytes) -> object:
        if layer == "base":
            return codec.decode_base(layer_bytes)
        return codec.decode_enhanced(honest_base, layer_bytes)

    of_pixels = MICROSECONDS_A_PIXEL * min(pixels / len(crafted), PIXELS_A_BYTE)
    decode((VECTORS / f"{stem}.{layer}.slk").read_bytes())  # opens the graphs
    Reader(decode, [b""], [b""], 100 + of_pixels).check(crafted)
