"""Who speaks on a connection to the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from secondlook.edge.spool import Spool
from secondlook.shared.packet import CROPS, Hello
from secondlook.shared.version import __version__


@dataclass(frozen=True)
class AgentIdentity:
    """Who says hello."""

    edge_id: str
    boot_id: str
    camera: str

    def hello(self, spool: Spool, boot_id: str, channel: str) -> Hello:
        """The hello for one boot of this host, the present one or an earlier one."""
        oldest, following = spool.bounds(boot_id)
        software = f"secondlook {__version__}{CROPS}"
        return Hello(self.edge_id, boot_id, channel, self.camera, following, oldest, software)
