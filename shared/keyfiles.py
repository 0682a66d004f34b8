"""Files that hold secrets, and the CURVE key files among them.

A key file is a ZeroMQ certificate: ``NAME.key`` holds the public key, ``NAME.key_secret`` both. A file with a secret
is read only when nobody but its owner may read or write it, as with ssh.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from secondlook.shared.errors import KeyRejected, SecretExposed

_KEY_LINE = re.compile(r'^\s*(public|secret)-key\s*=\s*"(\S{40})"\s*$', re.MULTILINE)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_private(path: Path, status: os.stat_result) -> None:
    """Raises SecretExposed when others than its owner may read or write the file of this status.

    A file of root's that our group may read passes, as it does with PostgreSQL: so orchestrators hand secrets to
    a service that is not root.
    """
    handed_over = status.st_uid == 0 and os.geteuid() != 0
    if status.st_mode & (_OTHERS & ~stat.S_IRGRP if handed_over else _OTHERS):
        raise SecretExposed(
            f"others may read {path} (mode {stat.S_IMODE(status.st_mode):04o}): chmod 600 it first"
        )


def read_private(path: Path) -> str:
    """The text of a file that its owner alone may read. Raises SecretExposed, OSError, UnicodeDecodeError."""
    with path.open(encoding="utf-8") as stream:
        check_private(path, os.fstat(stream.fileno()))
        return stream.read()


def read_public_key(path: Path) -> bytes:
    """The public key (Z85, 40 characters) in a public or secret key file. Raises KeyRejected, SecretExposed."""
    return read_public_keys(path)[0]


def read_public_keys(path: Path) -> list[bytes]:
    """All public keys of a file: that of a gateway whose key is being rotated holds the present and the next one.

    Raises KeyRejected, SecretExposed.
    """
    return _keys(path)["public"]


def read_key_pair(path: Path) -> tuple[bytes, bytes]:
    """Public and secret key (Z85, 40 characters each) of a secret key file. Raises KeyRejected, SecretExposed."""
    found = _keys(path)
    if "secret" not in found:
        raise KeyRejected(f"{path} holds no secret key")
    return found["public"][0], found["secret"][0]


def _keys(path: Path) -> dict[str, list[bytes]]:
    try:
        with path.open(encoding="utf-8") as stream:
            status = os.fstat(stream.fileno())
            found: dict[str, list[bytes]] = {}
            for kind, key in _KEY_LINE.findall(stream.read()):
                found.setdefault(kind, []).append(key.encode("ascii"))
    except OSError as error:
        raise KeyRejected(f"cannot read the key file {path}: {error.strerror}") from error
    except UnicodeError as error:
        raise KeyRejected(f"{path} is not a key file") from error
    if "secret" in found:
        check_private(path, status)
    if "public" not in found:
        raise KeyRejected(f"{path} holds no public key")
    return found
