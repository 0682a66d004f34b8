"""Files that hold secrets, and the CURVE key files among them.

A key file is a ZeroMQ certificate: ``NAME.key`` holds the public key, ``NAME.key_secret`` both. A file with a secret
is read only when nobody but its owner may read or write it, as with ssh.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from shared.errors import KeyRejected, SecretExposed

_KEY_LINE = re.compile(r'^\s*(public|secret)-key\s*=\s*"(\S{40})"\s*$', re.MULTILINE)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_private(path: Path, mode: int) -> None:
    """Raises SecretExposed when the permission bits ``mode`` let others than the owner at the file."""
    if mode & _OTHERS:
        raise SecretExposed(f"others may read {path} (mode {stat.S_IMODE(mode):04o}): chmod 600 it first")


def read_private(path: Path) -> str:
    """The text of a file that its owner alone may read. Raises SecretExposed, OSError, UnicodeDecodeError."""
    with path.open(encoding="utf-8") as stream:
        check_private(path, os.fstat(stream.fileno()).st_mode)
        return stream.read()


def read_public_key(path: Path) -> bytes:
    """The public key (Z85, 40 characters) in a public or secret key file. Raises KeyRejected, SecretExposed."""
    return _keys(path)["public"]


def read_key_pair(path: Path) -> tuple[bytes, bytes]:
    """Public and secret key (Z85, 40 characters each) of a secret key file. Raises KeyRejected, SecretExposed."""
    found = _keys(path)
    if "secret" not in found:
        raise KeyRejected(f"{path} holds no secret key")
    return found["public"], found["secret"]


def _keys(path: Path) -> dict[str, bytes]:
    try:
        with path.open(encoding="utf-8") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            found = {kind: key.encode("ascii") for kind, key in _KEY_LINE.findall(stream.read())}
    except OSError as error:
        raise KeyRejected(f"cannot read the key file {path}: {error.strerror}") from error
    except UnicodeError as error:
        raise KeyRejected(f"{path} is not a key file") from error
    if "secret" in found:
        check_private(path, mode)
    if "public" not in found:
        raise KeyRejected(f"{path} holds no public key")
    return found
