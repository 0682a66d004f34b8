"""The backgrounds of video groups that camera hosts have sent, so that a group may begin without one.

What is queued and stored of a group's first frame holds its background: no frame in the cloud depends on what is kept
here. This is a cache, in memory and in the blob store that all gateways share: what it lacks is asked for again. Each
camera host has a few places in either, which later backgrounds overwrite, so no host fills a disk or takes the others'
room; and none has more than one written a second, for to write holds up the gateway's thread. Retention deletes what is
stored once it keeps no frame of the host.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

from secondlook.cloud.storage.blobs import Blobs, background_key
from secondlook.shared.errors import BitstreamError, BlobMissing, StorageError
from secondlook.shared.packet import BaseFrame, LeanFrame
from secondlook.shared.videobits import background_digest, join_head, split_head

log = logging.getLogger(__name__)

MEMORY_BYTES = 32 << 20  # of all camera hosts together
MAX_OF_HOST = 8  # in memory; the store has as many
_QUIET_SECONDS = 30.0  # a store that failed is left alone for so long
_WRITE_SECONDS = 1.0  # between two writes of one camera host's
_MAX_HOSTS = 10_000


class Backgrounds:
    """Use in one thread. Instants are Unix seconds."""

    def __init__(self, blobs: Blobs, memory_bytes: int = MEMORY_BYTES) -> None:
        self._blobs, self._most = blobs, memory_bytes
        self._known: OrderedDict[tuple[str, str], bytes] = OrderedDict()  # by edge id and digest
        self._bytes = 0
        self._of_host: dict[str, OrderedDict[str, None]] = {}  # digests by edge id, the oldest first
        self._written_at: dict[str, float] = {}  # by edge id
        self._quiet_from: float | None = None

    def keep(self, edge_id: str, head: bytes, *, may_write: bool, now: float) -> None:
        """Keep the background of a base layer, if that is the head of a group."""
        try:
            parts = split_head(head)
        except BitstreamError:
            return  # whoever decodes it says so
        if parts is None:
            return
        background, digest = parts[0], background_digest(parts[0])
        if (edge_id, digest) in self._known:
            self._known.move_to_end((edge_id, digest))
            return
        self._remember(edge_id, digest, background)
        if may_write and not self._is_quiet(now) and self._may_write(edge_id, now):
            try:
                self._blobs.put(background_key(edge_id, digest), background)
            except StorageError as error:
                self._leave_alone(error, now)

    def whole(self, edge_id: str, packet: LeanFrame, *, now: float) -> BaseFrame | None:
        """A lean frame with its background; None where that is not here.

        Raises subclasses of BitstreamError and PacketError where they do not make a frame.
        """
        background = self.find(edge_id, packet.background, now=now)
        return None if background is None else BaseFrame(packet.info, join_head(background, packet.payload))

    def find(self, edge_id: str, digest: str, *, now: float) -> bytes | None:
        """The background packet of this SHA-256 that a camera host has sent, if it is still here."""
        known = self._known.get((edge_id, digest))
        if known is not None:
            self._known.move_to_end((edge_id, digest))
            return known
        if self._is_quiet(now):
            return None
        try:
            stored = self._blobs.get(background_key(edge_id, digest))
        except BlobMissing:
            return None
        except StorageError as error:
            self._leave_alone(error, now)
            return None
        if background_digest(stored) != digest:  # a later one lies in its place
            return None
        self._remember(edge_id, digest, stored)
        return stored

    def _remember(self, edge_id: str, digest: str, background: bytes) -> None:
        self._known[edge_id, digest] = background
        self._bytes += len(background)
        own = self._of_host.setdefault(edge_id, OrderedDict())
        own[digest] = None
        if len(own) > MAX_OF_HOST:
            self._forget(edge_id, next(iter(own)))
        while self._bytes > self._most and len(self._known) > 1:
            self._forget(*next(iter(self._known)))

    def _forget(self, edge_id: str, digest: str) -> None:
        self._bytes -= len(self._known.pop((edge_id, digest)))
        own = self._of_host[edge_id]
        del own[digest]
        if not own:
            del self._of_host[edge_id]

    def _may_write(self, edge_id: str, now: float) -> bool:
        if 0 <= now - self._written_at.get(edge_id, -_WRITE_SECONDS) < _WRITE_SECONDS:
            return False
        if len(self._written_at) >= _MAX_HOSTS:
            self._written_at.clear()
        self._written_at[edge_id] = now
        return True

    def _is_quiet(self, now: float) -> bool:
        return self._quiet_from is not None and 0 <= now - self._quiet_from < _QUIET_SECONDS

    def _leave_alone(self, error: StorageError, now: float) -> None:
        log.debug("backgrounds: %s", error)
        self._quiet_from = now
