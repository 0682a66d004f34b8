"""Deltas: which 16x16 positions of a frame changed since its key, and the map that says so.

The map is bits in row order, first position in the highest bit, deflated (zlib), behind its length (uint16, little
endian).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import MalformedBitstream, TruncatedBitstream

_LENGTH = struct.Struct("<H")


def pack_map(keep: npt.NDArray[np.bool_]) -> bytes:
    packed = zlib.compress(np.packbits(keep.ravel()).tobytes(), 9)
    return _LENGTH.pack(len(packed)) + packed


def unpack_map(payload: bytes, rows: int, columns: int) -> tuple[npt.NDArray[np.bool_], bytes]:
    """The map bool[rows,columns] and the rest of the payload. Raises TruncatedBitstream or MalformedBitstream."""
    if len(payload) < _LENGTH.size:
        raise TruncatedBitstream("a delta ends before its map of changes")
    (length,) = _LENGTH.unpack_from(payload)
    packed = payload[_LENGTH.size : _LENGTH.size + length]
    if len(packed) < length:
        raise TruncatedBitstream("a delta ends inside its map of changes")
    wanted = -(-rows * columns // 8)
    inflater = zlib.decompressobj()
    try:
        bits = inflater.decompress(packed, wanted + 1)
    except zlib.error as error:
        raise MalformedBitstream("a delta's map of changes cannot be inflated") from error
    if len(bits) != wanted or not inflater.eof or inflater.unused_data:
        raise MalformedBitstream(f"a delta's map of changes has {len(bits)} bytes, not {wanted}")
    flags = np.unpackbits(np.frombuffer(bits, np.uint8))[: rows * columns]
    return flags.astype(bool).reshape(rows, columns), payload[_LENGTH.size + length :]
