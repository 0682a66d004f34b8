"""Codecs that stand beside ours in the benches: those of the project, and those that packages of others bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import ConfigError
from secondlook.shared.plugins import PEERS, find_plugin, load_plugin, package_of, plugin_names

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Peer:
    """A still codec: how it encodes and decodes, and the qualities that span its curve, from few bits to many.

    `encode`: uint8[H,W,3] RGB and a quality in the codec's own unit to bytes, all headers in them; `decode`: back.
    """

    encode: Callable[[U8, int], bytes]
    decode: Callable[[bytes], U8]
    qualities: Sequence[int]


@dataclass(frozen=True)
class FoundPeer:
    """A peer under its name, and what made it: the package and its version."""

    name: str
    peer: Peer
    made_by: str


def find_peer(name: str, own: Mapping[str, Peer]) -> FoundPeer:
    """A peer of ours, else one of another package. Raises ConfigError, which lists all there are, for neither."""
    if name in own:
        return FoundPeer(name, own[name], "secondlook")
    entry = find_plugin(PEERS, name)
    if entry is None:
        raise ConfigError(
            f"no codec {name!r} to compare with; there are {', '.join([*own, *plugin_names(PEERS)])}"
        )
    made = load_plugin(entry)
    peer = made() if callable(made) and not isinstance(made, Peer) else made
    if not isinstance(peer, Peer) or not peer.qualities:
        raise ConfigError(f"{PEERS} {name} of {package_of(entry)} is no Peer with qualities")
    return FoundPeer(name, peer, package_of(entry))
