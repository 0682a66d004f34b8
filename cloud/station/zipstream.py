"""ZIP archives that are made while they are sent, of any number of files: memory holds the part that is on its way.

Files are stored as they are, since pictures are packed already. The table of contents comes last in a ZIP archive and
waits in a temporary file until then. Sizes beyond what the format of 1993 can hold are told as ZIP64 does (APPNOTE.TXT
6.3.10, 4.3 and 4.5.3).
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import IO

PART = 1 << 16  # bytes that are sent together

_VERSION = 45  # that knows ZIP64
_UNIX = 3 << 8
_UTF8 = 0x0800
_MODE = 0o100644 << 16
_TIME, _DATE = 0, (1 << 5) + 1  # the first of January 1980: what a frame's time is, its name and lines tell
_MOST16, _MOST32 = 0xFFFF, 0xFFFFFFFF


class ZipStream:
    """An archive that grows by ``add`` and ``copied``; what is to be sent is got by ``take``, the end by ``ended``."""

    def __init__(self) -> None:
        self._contents = tempfile.TemporaryFile()  # noqa: SIM115 closed with the archive
        self._parts: list[bytes] = []
        self.size = 0  # bytes that wait to be taken
        self._at = 0
        self._count = 0

    def __enter__(self) -> ZipStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._contents.close()

    def add(self, name: str, data: bytes | str) -> None:
        """One file, whole."""
        data = data.encode() if isinstance(data, str) else data
        self._begin(name, len(data), zlib.crc32(data))
        self._write(data)

    def copied(self, name: str, file: IO[bytes]) -> Iterator[bytes]:
        """One file, from its beginning to its end, in parts that are to be sent."""
        size, check = 0, 0
        file.seek(0)
        while part := file.read(PART):
            size, check = size + len(part), zlib.crc32(part, check)
        self._begin(name, size, check)
        yield self.take()
        file.seek(0)
        while part := file.read(PART):
            self._write(part)
            yield self.take()

    def take(self) -> bytes:
        """What was written since this was called last."""
        data = b"".join(self._parts)
        self._parts, self.size = [], 0
        return data

    def ended(self) -> Iterator[bytes]:
        """The rest of the archive: its table of contents."""
        begin = self._at
        self._contents.seek(0)
        while part := self._contents.read(PART):
            self._write(part)
            yield self.take()
        size = self._at - begin
        if self._count >= _MOST16 or begin >= _MOST32 or size >= _MOST32:
            end = self._at
            whole = (44, _UNIX | _VERSION, _VERSION, 0, 0, self._count, self._count, size, begin)
            self._write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", *whole))
            self._write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        count = min(self._count, _MOST16)
        self._write(
            struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, min(size, _MOST32), min(begin, _MOST32), 0)
        )
        yield self.take()

    def _begin(self, name: str, size: int, check: int) -> None:
        """The head of a file, and its line in the table of contents."""
        known, told = name.encode(), min(size, _MOST32)
        large = struct.pack("<2H2Q", 1, 16, size, size) if told == _MOST32 else b""
        common = (_VERSION, _UTF8, 0, _TIME, _DATE, check, told, told, len(known))
        at = self._at
        self._write(struct.pack("<4s5H3L2H", b"PK\3\4", *common, len(large)) + known + large)
        further = ([size, size] if told == _MOST32 else []) + ([at] if at >= _MOST32 else [])
        extra = struct.pack(f"<2H{len(further)}Q", 1, 8 * len(further), *further) if further else b""
        line = (_UNIX | _VERSION, *common, len(extra), 0, 0, 0, _MODE, min(at, _MOST32))
        self._contents.write(struct.pack("<4s6H3L5H2L", b"PK\1\2", *line) + known + extra)
        self._count += 1

    def _write(self, data: bytes) -> None:
        self._parts.append(data)
        self.size += len(data)
        self._at += len(data)
