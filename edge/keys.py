"""The CURVE keys of a camera host, read from the certificate files that `secondlook keys` writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge.config import LinkConfig
from shared.errors import KeyRejected

_KEY = re.compile(r'^\s*(public|secret)-key\s*=\s*"(\S{40})"\s*$', re.MULTILINE)


@dataclass(frozen=True)
class Keys:
    """Keys in Z85, 40 characters each: the gateway's public one, and both of this host."""

    server_public: bytes
    public: bytes
    secret: bytes


def load_keys(config: LinkConfig) -> Keys | None:
    """The keys that the settings name, or None for a plain link on this machine. Raises KeyRejected."""
    if config.server_public_key_file is None or config.secret_key_file is None:
        return None
    server, own = _read(config.server_public_key_file), _read(config.secret_key_file)
    if "secret" not in own:
        raise KeyRejected(f"{config.secret_key_file} holds no secret key")
    return Keys(server["public"], own["public"], own["secret"])


def _read(path: Path) -> dict[str, bytes]:
    try:
        found = {kind: key.encode() for kind, key in _KEY.findall(path.read_text(encoding="utf-8"))}
    except OSError as error:
        raise KeyRejected(f"cannot read the key file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeyRejected(f"{path} is not a key file") from error
    if "public" not in found:
        raise KeyRejected(f"{path} holds no public key")
    return found
