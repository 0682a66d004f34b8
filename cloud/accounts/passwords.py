"""Passwords: what is accepted, how they are hashed, and a check that takes as long for names nobody has.

Argon2id with the second parameter set of RFC 9106 (64 MiB, 3 passes, 4 lanes), argon2-cffi's default. One hash at a
time and process, or a flood of log-ins would eat the memory.
"""

from __future__ import annotations

import secrets
import threading
import unicodedata
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from secondlook.shared.errors import PasswordTooWeak

MIN_LENGTH = 12
MAX_LENGTH = 256
_LEAST_DIFFERENT = 5

_HASHER = PasswordHasher()
_ONE_AT_A_TIME = threading.Lock()


def check_password(name: str, password: str) -> None:
    """Raises PasswordTooWeak."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise PasswordTooWeak(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters")
    if name in password.lower() or len(set(password)) < _LEAST_DIFFERENT:
        raise PasswordTooWeak(
            "a password does not hold the user's name, and is not the same few characters again"
        )


def hash_password(password: str) -> str:
    """The PHC string to store."""
    with _ONE_AT_A_TIME:
        return _HASHER.hash(_prepared(password))


def password_fits(stored: str, password: str) -> bool:
    """Whether a password is the one stored; with nothing stored it is not, and that takes as long."""
    with _ONE_AT_A_TIME:
        try:
            return _HASHER.verify(stored or _nobodys(), _prepared(password)) and bool(stored)
        except (VerifyMismatchError, InvalidHashError):
            return False


def is_outdated(stored: str) -> bool:
    """Whether a hash was made with other parameters than are used now."""
    return _HASHER.check_needs_rehash(stored)


def _prepared(password: str) -> str:
    # One text however a keyboard composed it (NIST SP 800-63B).
    return unicodedata.normalize("NFKC", password)


def _nobodys() -> str:
    return _hash_of_nothing(_HASHER)


@cache
def _hash_of_nothing(hasher: PasswordHasher) -> str:
    return hasher.hash(secrets.token_hex())
