"""The CURVE keys of a camera host, read from the certificate files that `secondlook keys` writes."""

from __future__ import annotations

from dataclasses import dataclass

from secondlook.edge.config import LinkConfig
from secondlook.shared.keyfiles import read_key_pair, read_public_keys


@dataclass(frozen=True)
class Keys:
    """Keys in Z85, 40 characters each: the gateway's public one, and both of this host."""

    server_public: bytes
    public: bytes
    secret: bytes

    @property
    def hint(self) -> str:
        """Which key of this host's that is, for who looks it up at the gateway."""
        cure = "`secondlook keys list` there says whether it is registered, revoked or ended"
        return f" {self.public.decode()}: {cure}"


def load_keys(config: LinkConfig, attempt: int = 0) -> Keys | None:
    """The keys that the settings name, or None for a plain link on this machine.

    While a gateway's key is rotated its file holds the present and the next one: each `attempt` takes another.

    Raises KeyRejected, and SecretExposed when others than its owner may read the secret one.
    """
    if config.server_public_key_file is None or config.secret_key_file is None:
        return None
    servers = read_public_keys(config.server_public_key_file)
    return Keys(servers[attempt % len(servers)], *read_key_pair(config.secret_key_file))
