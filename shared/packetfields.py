"""Limits on the fields of wire packets: each returns a field's value in its final form, or raises.

They hold at both ends of the wire. A value of the wrong type or out of range raises `PacketMalformed`, one that is too
long `PacketTooLarge`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from secondlook.shared.errors import PacketMalformed, PacketTooLarge


class Check(Protocol):
    """A limit on one field: returns the value in its final form or raises `PacketMalformed`."""

    def __call__(self, name: str, value: object) -> object: ...


@dataclass(frozen=True)
class Whole:
    """An integer from `low` to `high`; None as well where `optional`."""

    low: int
    high: int
    optional: bool = False

    def __call__(self, name: str, value: object) -> object:
        if value is None and self.optional:
            return None
        if type(value) is not int:  # bool is an int to isinstance, not to us
            raise PacketMalformed(f"{name} must be an integer, not {type(value).__name__}")
        if not self.low <= value <= self.high:
            raise PacketMalformed(f"{name} is {value}, outside {self.low}..{self.high}")
        return value


@dataclass(frozen=True)
class TextOf:
    """Text of at most `most` characters that matches `pattern` whole, if there is one."""

    most: int
    pattern: re.Pattern[str] | None = None

    def __call__(self, name: str, value: object) -> object:
        if not isinstance(value, str):
            raise PacketMalformed(f"{name} must be text, not {type(value).__name__}")
        if len(value) > self.most:
            raise PacketTooLarge(f"{name} has {len(value)} characters, at most {self.most} are allowed")
        if self.pattern is not None and self.pattern.fullmatch(value) is None:
            raise PacketMalformed(f"{name} {value!r} does not match {self.pattern.pattern}")
        if not value.isprintable():
            raise PacketMalformed(f"{name} holds characters that cannot be printed")
        return value


@dataclass(frozen=True)
class OneOf:
    choices: tuple[str, ...]

    def __call__(self, name: str, value: object) -> object:
        if not isinstance(value, str) or value not in self.choices:
            raise PacketMalformed(f"{name} must be one of {', '.join(self.choices)}")
        return value


@dataclass(frozen=True)
class AscendingRanges:
    """At most `most` pairs (first, last), ascending, with a gap of at least one number between neighbours."""

    most: int
    high: int

    def __call__(self, name: str, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise PacketMalformed(f"{name} must be a list of ranges, not {type(value).__name__}")
        if len(value) > self.most:
            raise PacketTooLarge(f"{name} holds {len(value)} ranges, at most {self.most} are allowed")
        floor, pairs = 0, []
        for item in value:
            if not isinstance(item, list | tuple) or len(item) != 2:
                raise PacketMalformed(f"{name} must hold pairs (first, last)")
            first, last = item
            if type(first) is not int or type(last) is not int:
                raise PacketMalformed(f"{name} must hold pairs of integers")
            if not floor <= first <= last <= self.high:
                raise PacketMalformed(f"{name} is not ascending at ({first}, {last})")
            pairs.append((first, last))
            floor = last + 2
        return tuple(pairs)


@dataclass(frozen=True)
class Wholes:
    """From `least` to `most` integers, each from `low` to `high`."""

    low: int
    high: int
    least: int
    most: int

    def __call__(self, name: str, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise PacketMalformed(f"{name} must be a list of integers, not {type(value).__name__}")
        if len(value) > self.most:
            raise PacketTooLarge(f"{name} holds {len(value)} numbers, at most {self.most} are allowed")
        if len(value) < self.least:
            raise PacketMalformed(f"{name} holds {len(value)} numbers, at least {self.least} belong there")
        one = Whole(self.low, self.high)
        return tuple(one(name, item) for item in value)


@dataclass(frozen=True)
class Payload:
    most: int

    def __call__(self, name: str, value: object) -> object:
        if not isinstance(value, bytes):
            raise PacketMalformed(f"{name} must be bytes, not {type(value).__name__}")
        if not value:
            raise PacketMalformed(f"{name} is empty")
        if len(value) > self.most:
            raise PacketTooLarge(f"{name} has {len(value)} bytes, at most {self.most} are allowed")
        return value
