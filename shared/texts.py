"""Text that people and programs send in: which characters it may hold, and when two class names are the same."""

from __future__ import annotations

import unicodedata

MAX_CLASS_LENGTH = 64

# Control characters, halves of surrogate pairs, what Unicode has not given out, and its two line ends: databases
# refuse some of them, logs and terminals obey others.
_REFUSED = frozenset({"Cc", "Cs", "Cn", "Zl", "Zp"})
# A name is read by people: nothing in it may be invisible or turn the line around. Joiners are part of words in
# several scripts.
_REFUSED_IN_NAMES = _REFUSED | {"Cf", "Co"}
_JOINERS = "\u200c\u200d"


def has_control(text: str, *, lines: bool = False) -> bool:
    """Whether a text holds a character that no text may hold; with ``lines``, line ends and tabs are none."""
    if lines:
        text = text.replace("\r\n", "").replace("\n", "").replace("\t", "")
    return any(unicodedata.category(character) in _REFUSED for character in text)


def class_name(text: str) -> str:
    """A class name as it is stored: NFC, without blanks around it and with single ones within.

    Raises ValueError for one that is empty, has more than 64 characters, or holds any that cannot be seen.
    """
    if any(unicodedata.category(c) in _REFUSED_IN_NAMES and c not in _JOINERS for c in text):
        raise ValueError("a class name is printable characters")
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not 1 <= len(name) <= MAX_CLASS_LENGTH:
        raise ValueError(f"a class name has 1 to {MAX_CLASS_LENGTH} characters")
    return name


def class_key(name: str) -> str:
    """The same for all spellings of one class: upper and lower case make no difference."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
