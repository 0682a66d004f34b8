"""CURVE keys of the gateway's side: key files, the registry of who may connect, and the answer to ZeroMQ's ZAP.

A key file is a ZeroMQ certificate: ``NAME.key`` holds the public key, ``NAME.key_secret`` both, readable by its
owner alone. The registry is a JSON file that maps public keys to names; the name of an edge key is the edge id it
may speak for. Revoked keys stay listed. The gateway looks at the registry again whenever the file changes, so a
revocation also silences connections that are already open.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

import zmq
from zmq.utils import z85

from shared.errors import ConfigError, KeyRejected
from shared.files import storage_error, write_atomically
from shared.packet import is_edge_id
from shared.sqlite import make_folder

_KEY_LINE = re.compile(r'^\s*(public|secret)-key\s*=\s*"(\S{40})"\s*$', re.MULTILINE)


class Role(StrEnum):
    """What the holder of a key may do; also the ZAP domain of the socket it may connect to."""

    EDGE = "edge"
    WORKER = "worker"
    GATEWAY = "gateway"


@dataclass(frozen=True)
class KeyPair:
    """Keys in Z85, 40 characters each; the secret one is None when the file holds none."""

    public: bytes
    secret: bytes | None


@dataclass(frozen=True)
class Entry:
    """A registered public key (Z85)."""

    name: str
    role: Role
    public_key: str
    revoked: bool = False


def create_key_files(folder: Path, name: str) -> KeyPair:
    """Make a key pair and write its two files. Raises ConfigError when they exist, Unwritable, DiskFull."""
    _check_name(name)
    public, secret = zmq.curve_keypair()
    make_folder(folder)
    public_path, secret_path = folder / f"{name}.key", folder / f"{name}.key_secret"
    head = "# ZeroMQ CURVE key of " + name
    _write_new(secret_path, f"{head}: keep this file secret\n{_certificate(public, secret)}", 0o600)
    _write_new(public_path, f"{head}, public part\n{_certificate(public, None)}", 0o644)
    return KeyPair(public, secret)


def read_key_file(path: Path) -> KeyPair:
    """Read a public or secret key file. Raises KeyRejected."""
    try:
        found = {kind: key.encode() for kind, key in _KEY_LINE.findall(path.read_text(encoding="utf-8"))}
    except (OSError, UnicodeDecodeError) as error:
        raise KeyRejected(f"cannot read the key file {path}: {error}") from error
    if "public" not in found:
        raise KeyRejected(f"{path} holds no public key")
    return KeyPair(found["public"], found.get("secret"))


def read_secret_key_file(path: Path) -> tuple[bytes, bytes]:
    """Public and secret key of a secret key file. Raises KeyRejected."""
    keys = read_key_file(path)
    if keys.secret is None:
        raise KeyRejected(f"{path} holds no secret key")
    return keys.public, keys.secret


class Registry:
    """Who may connect, as one JSON file."""

    def __init__(self, path: Path) -> None:
        """Raises KeyRejected when the file is there but not a registry; one that is missing is empty."""
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.entries: tuple[Entry, ...] = ()
        self._by_key: dict[str, Entry] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the file again if it has changed. Raises KeyRejected, and keeps to what it knew before."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp:
                return
            # Noted before it is understood: a file that makes no sense is complained of once.
            self._stamp = stamp
            listed = json.loads(self._path.read_text(encoding="utf-8"))
            entries = tuple(Entry(**{**item, "role": Role(item["role"])}) for item in listed["keys"])
        except FileNotFoundError:
            self._stamp, entries = None, ()
        except OSError as error:
            raise KeyRejected(f"cannot read the key registry {self._path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise KeyRejected(f"{self._path} is not a key registry") from error
        self._take(entries)

    def find(self, public_key: str, role: Role) -> Entry | None:
        """The entry of a key that is registered for ``role`` and not revoked."""
        entry = self._by_key.get(public_key)
        return entry if entry is not None and entry.role is role and not entry.revoked else None

    def add(self, name: str, role: Role, public_key: str) -> None:
        """Register a key. Raises ConfigError for a bad name, or one that has a key in force."""
        _check_name(name)
        if any(entry.name == name and not entry.revoked for entry in self.entries):
            raise ConfigError(f"{name} has a key already; revoke it first")
        if public_key in self._by_key:
            raise ConfigError(f"this key is registered already, for {self._by_key[public_key].name}")
        self._write((*self.entries, Entry(name, role, public_key)))

    def revoke(self, name: str) -> None:
        """Revoke the key of ``name``. Raises ConfigError when it has none in force."""
        kept = tuple(replace(entry, revoked=True) if entry.name == name else entry for entry in self.entries)
        if kept == self.entries:
            raise ConfigError(f"{name} has no key to revoke")
        self._write(kept)

    def _write(self, entries: tuple[Entry, ...]) -> None:
        make_folder(self._path.absolute().parent)
        listed = {"keys": [asdict(entry) for entry in entries]}
        write_atomically(self._path, f"{json.dumps(listed, indent=1)}\n".encode())
        self._take(entries)

    def _take(self, entries: tuple[Entry, ...]) -> None:
        self.entries = entries
        self._by_key = {entry.public_key: entry for entry in entries}


def answer_zap(frames: Sequence[bytes], registry: Registry) -> list[bytes]:
    """The reply to one ZAP request: whether this key may open a connection in the socket's domain.

    The user id of an accepted connection is its public key in Z85. A request that makes no sense is refused.
    """
    version, request_id, domain, _address, _identity, mechanism, *credentials = [*frames, *[b""] * 6]
    head = [b"1.0", request_id]
    refused = [*head, b"400", b"unknown key", b"", b""]
    if version != b"1.0" or mechanism != b"CURVE" or len(credentials) < 1 or len(credentials[0]) != 32:
        return refused
    public_key = z85.encode(credentials[0]).decode("ascii")
    if domain not in (Role.EDGE.value.encode(), Role.WORKER.value.encode()):
        return refused
    if registry.find(public_key, Role(domain.decode("ascii"))) is None:
        return refused
    return [*head, b"200", b"OK", public_key.encode(), b""]


def _check_name(name: str) -> None:
    if not is_edge_id(name):
        raise ConfigError(f"{name!r} is not a name: 1 to 64 of a-z, 0-9 and hyphen")


def _certificate(public: bytes, secret: bytes | None) -> str:
    lines = ["metadata", "curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    return "\n".join(lines) + "\n"


def _write_new(path: Path, text: str, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already; a key is never overwritten") from error
    except OSError as error:
        raise storage_error(path, error) from error
