"""The CURVE keys of a camera host, read from the certificate files that `secondlook keys` writes."""

from __future__ import annotations

from dataclasses import dataclass

from secondlook.edge.config import LinkConfig
from secondlook.shared.keyfiles import read_key_pair, read_public_key


@dataclass(frozen=True)
class Keys:
    """Keys in Z85, 40 characters each: the gateway's public one, and both of this host."""

    server_public: bytes
    public: bytes
    secret: bytes


def load_keys(config: LinkConfig) -> Keys | None:
    """The keys that the settings name, or None for a plain link on this machine.

    Raises KeyRejected, and SecretExposed when others than its owner may read the secret one.
    """
    if config.server_public_key_file is None or config.secret_key_file is None:
        return None
    server = read_public_key(config.server_public_key_file)
    return Keys(server, *read_key_pair(config.secret_key_file))
