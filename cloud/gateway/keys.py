"""CURVE keys of the gateway's side: key files, the registry of who may connect, and the answer to ZeroMQ's ZAP.

``shared.keyfiles`` reads the files. The registry is a JSON file that maps public keys to names; the name of an edge key
is the edge id it may speak for. A key that was rotated out stays in force until its overlap has passed, and revoked
keys stay listed. The gateway looks at the registry again whenever the file changes, and cuts the connections of keys
that are no longer in force. Instants are Unix seconds handed in as ``now``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

import zmq
from zmq.utils import z85

from secondlook.shared.errors import ConfigError, KeyRejected
from secondlook.shared.files import make_folder, storage_error, write_atomically
from secondlook.shared.keyfiles import read_key_pair
from secondlook.shared.packet import is_edge_id

# Names and public keys are no secret, and the service that reads them is another user than root, who makes them.
_FOLDER_MODE = 0o755
_REGISTRY_MODE = 0o644


class Role(StrEnum):
    """What the holder of a key may do; also the ZAP domain of the socket it may connect to."""

    EDGE = "edge"
    WORKER = "worker"
    GATEWAY = "gateway"


@dataclass(frozen=True)
class KeyPair:
    """Keys in Z85, 40 characters each."""

    public: bytes
    secret: bytes


@dataclass(frozen=True)
class Entry:
    """A registered public key (Z85)."""

    name: str
    role: Role
    public_key: str
    revoked: bool = False
    valid_until: float | None = None  # Unix seconds; set when another key took its place

    def in_force(self, now: float) -> bool:
        return not self.revoked and (self.valid_until is None or now < self.valid_until)


def create_key_files(folder: Path, name: str, stem: str | None = None) -> KeyPair:
    """Make a key pair and write ``stem.key`` and ``stem.key_secret``, where the stem is the name unless given.

    Raises ConfigError when they exist, Unwritable, DiskFull.
    """
    _check_name(name)
    public, secret = zmq.curve_keypair()
    make_folder(folder, mode=_FOLDER_MODE)
    public_path, secret_path = key_paths(folder, stem or name)
    head = "# ZeroMQ CURVE key of " + name
    _write_new(secret_path, f"{head}: keep this file secret\n{_certificate(public, secret)}", 0o600)
    _write_new(public_path, f"{head}, public part\n{_certificate(public, None)}", 0o644)
    return KeyPair(public, secret)


def remove_key_files(folder: Path, stem: str) -> None:
    """Take away the files of a pair that nobody was told of, because it could not be registered."""
    for path in key_paths(folder, stem):
        path.unlink(missing_ok=True)


def rotate_gateway_key(folder: Path, name: str) -> Path:
    """Begin to rotate a gateway's own key: make the next pair, and put both public keys into ``name.key``.

    Whoever has that file takes a gateway with either key. Returns the next secret key's path, ``name.next.key_secret``.
    Raises ConfigError when a rotation is under way, KeyRejected, Unwritable.
    """
    public_path, secret_path = key_paths(folder, name)
    present, _ = read_key_pair(secret_path)
    pair = create_key_files(folder, name, f"{name}.next")
    next_public, next_secret = key_paths(folder, f"{name}.next")
    next_public.unlink()  # the one file has both
    text = f"# ZeroMQ CURVE keys of {name}, public part: the present one, and the next\n"
    both = _certificate(present, None) + f'    public-key = "{pair.public.decode()}"\n'
    write_atomically(public_path, (text + both).encode(), mode=_REGISTRY_MODE)
    return next_secret


def finish_gateway_key(folder: Path, name: str) -> Path:
    """End the rotation: the next pair takes the place of the present one, whose files are kept as ``name.old``.

    The gateway takes it at its next start. ``name.key`` keeps both keys until ``drop_old_gateway_key``.
    Returns the secret key's path. Raises ConfigError when there is no next key.
    """
    _, secret_path = key_paths(folder, name)
    _, next_secret = key_paths(folder, f"{name}.next")
    if not next_secret.exists():
        raise ConfigError(
            f"{next_secret} is not there: begin with `secondlook keys rotate {name} --role gateway`"
        )
    read_key_pair(next_secret)
    _, old_secret = key_paths(folder, f"{name}.old")
    os.replace(secret_path, old_secret)
    os.replace(next_secret, secret_path)
    return secret_path


def drop_old_gateway_key(folder: Path, name: str) -> None:
    """Leave only the present key in ``name.key``, and take the old secret away: nobody trusts it any more.

    Raises ConfigError when no rotation was finished.
    """
    public_path, secret_path = key_paths(folder, name)
    _, old_secret = key_paths(folder, f"{name}.old")
    if not old_secret.exists():
        raise ConfigError(f"{old_secret} is not there: no rotation of {name} was finished")
    present, _ = read_key_pair(secret_path)
    text = f"# ZeroMQ CURVE key of {name}, public part\n{_certificate(present, None)}"
    write_atomically(public_path, text.encode(), mode=_REGISTRY_MODE)
    old_secret.unlink()


def create_nkey_files(folder: Path, name: str) -> Path:
    """Make an NKey of a NATS user: its seed in ``name.nkey``, its public half in ``name.nkey_public``.

    Returns the path of the seed. Raises ConfigError when they exist, Unwritable, DiskFull.
    """
    import nkeys  # of the extra `scale`; a site with the embedded queue needs none

    _check_name(name)
    make_folder(folder, mode=_FOLDER_MODE)
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    path = folder / f"{name}.nkey"
    _write_new(path, seed.decode() + "\n", 0o600)
    _write_new(folder / f"{name}.nkey_public", public + "\n", 0o644)
    return path


def key_paths(folder: Path, stem: str) -> tuple[Path, Path]:
    """Where the public and the secret key file of a stem lie."""
    return folder / f"{stem}.key", folder / f"{stem}.key_secret"


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

    def find(self, public_key: str, role: Role, now: float) -> Entry | None:
        """The entry of a key that is registered for ``role`` and in force."""
        entry = self._by_key.get(public_key)
        return entry if entry is not None and entry.role is role and entry.in_force(now) else None

    def check_room_for(self, name: str, *, now: float) -> None:
        """Raises ConfigError for a bad name, or one that has a key in force."""
        _check_name(name)
        if self._in_force(name, now):
            raise ConfigError(f"{name} has a key already; rotate or revoke it")

    def check_rotates(self, name: str, *, now: float) -> None:
        """Raises ConfigError when the name has no key in force."""
        if not self._in_force(name, now):
            raise ConfigError(f"{name} has no key to rotate")

    def known(self, public_key: str) -> Entry | None:
        """The entry of a key, in force or not."""
        return self._by_key.get(public_key)

    def add(self, name: str, role: Role, public_key: str, *, now: float) -> None:
        """Register a key. Raises ConfigError for a bad name, or one that has a key in force."""
        self.check_room_for(name, now=now)
        self._check_new(public_key)
        self._write((*self.entries, Entry(name, role, public_key)))

    def rotate(self, name: str, public_key: str, *, overlap_seconds: float, now: float) -> None:
        """Register another key for ``name``; the one it has is refused once the overlap has passed.

        Raises ConfigError when the name has no key in force, or the key is registered already.
        """
        present = self._in_force(name, now)
        if not present:
            raise ConfigError(f"{name} has no key to rotate")
        self._check_new(public_key)
        until = now + overlap_seconds
        kept = tuple(
            replace(entry, valid_until=min(until, entry.valid_until or until)) if entry in present else entry
            for entry in self.entries
        )
        self._write((*kept, Entry(name, present[-1].role, public_key)))

    def revoke(self, name: str, *, only_rotated: bool = False, now: float) -> None:
        """Revoke every key of ``name`` in force, or only those that a rotation left an overlap.

        Raises ConfigError when there is none.
        """
        gone = [entry for entry in self._in_force(name, now) if not only_rotated or entry.valid_until]
        if not gone:
            raise ConfigError(f"{name} has no key to revoke")
        self._write(tuple(replace(entry, revoked=True) if entry in gone else entry for entry in self.entries))

    def admit(self, name: str, *, now: float) -> None:
        """Let a name in again with the key that it had last, which was revoked or has ended.

        Raises ConfigError when it has a key in force, or never had one.
        """
        self.check_room_for(name, now=now)
        own = [entry for entry in self.entries if entry.name == name]
        if not own:
            raise ConfigError(f"{name} never had a key; make one with `secondlook keys new`")
        back = replace(own[-1], revoked=False, valid_until=None)
        self._write(tuple(back if entry is own[-1] else entry for entry in self.entries))

    def next_stem(self, name: str) -> str:
        """A stem for the files of the next key of ``name``: ``gate-north.2`` beside ``gate-north``."""
        return f"{name}.{sum(entry.name == name for entry in self.entries) + 1}"

    def _in_force(self, name: str, now: float) -> list[Entry]:
        return [entry for entry in self.entries if entry.name == name and entry.in_force(now)]

    def _check_new(self, public_key: str) -> None:
        if public_key in self._by_key:
            raise ConfigError(f"this key is registered already, for {self._by_key[public_key].name}")

    def _write(self, entries: tuple[Entry, ...]) -> None:
        make_folder(self._path.absolute().parent, mode=_FOLDER_MODE)
        listed = {"keys": [asdict(entry) for entry in entries]}
        write_atomically(self._path, f"{json.dumps(listed, indent=1)}\n".encode(), mode=_REGISTRY_MODE)
        self._take(entries)

    def _take(self, entries: tuple[Entry, ...]) -> None:
        self.entries = entries
        self._by_key = {entry.public_key: entry for entry in entries}


def answer_zap(frames: Sequence[bytes], registry: Registry, *, now: float) -> list[bytes]:
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
    if registry.find(public_key, Role(domain.decode("ascii")), now) is None:
        return refused
    return [*head, b"200", b"OK", public_key.encode(), b""]


def zap_key(frames: Sequence[bytes]) -> str | None:
    """The public key (Z85) that a ZAP request is about; None for one without."""
    *_, mechanism, key = [*frames[:7], *[b""] * 7][:7]
    if mechanism != b"CURVE" or len(key) != 32:
        return None
    return z85.encode(key).decode("ascii")


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
