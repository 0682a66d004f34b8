"""The gateway's side of enhancement layers: requests of workers go out to camera hosts, chunks come in.

A layer is kept as a blob before its request is done. An object store that fails, or hangs, is left alone for a while:
each attempt holds up the thread that serves everybody. Meanwhile nothing is asked for, and what comes is put off.
Instants are Unix seconds handed in as ``now``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from secondlook.cloud.gateway.tally import Tally
from secondlook.cloud.storage.blobs import Blobs, crop_key, enhancement_key
from secondlook.cloud.storage.requests import Assemblies, Request, RequestState, RequestTable
from secondlook.shared.errors import StorageError
from secondlook.shared.packet import (
    Chunk,
    ChunkCredit,
    CropRequest,
    EnhancementRequest,
    Fault,
    Packet,
    Refusal,
)
from secondlook.shared.videobits import is_crop

log = logging.getLogger(__name__)

_NANOSECONDS = 1_000_000_000
_QUIET_SECONDS = 30.0  # a store that failed is left alone for this long


class Enhancements:
    """Use in one thread. ``fault`` makes the answer to what is refused: code, text, now."""

    def __init__(
        self, requests: RequestTable, blobs: Blobs, tally: Tally, fault: Callable[[str, str, float], Fault]
    ) -> None:
        self._requests = requests
        self._blobs = blobs
        self._tally = tally
        self._fault = fault
        self._assemblies = Assemblies()
        self._failed_at: float | None = None  # the store, last

    def chunk(self, edge_id: str, chunk: Chunk, now: float) -> list[Packet]:
        """Take a part of a layer."""
        request = self._requests.get(chunk.request_id)
        if request is None or request.edge_id != edge_id:
            return [self._fault("unknown-request", f"request {chunk.request_id} is not yours", now)]
        if request.state is RequestState.DONE:
            return [ChunkCredit(request.id, chunk.total)]
        if request.state not in (RequestState.PENDING, RequestState.SENT):
            return [self._fault("request-ended", f"request {request.id} is {request.state.value}", now)]
        if self._store_is_away(now):
            self._put_off(request, now)
            return []
        here = self._assemblies.add(
            request.id, offset=chunk.offset, total=chunk.total, crc32=chunk.crc32, payload=chunk.payload
        )
        if here < chunk.total:
            self._requests.extend_lease(request, now=now)
            return [ChunkCredit(request.id, here)]
        layer = self._assemblies.finish(request.id)
        if layer is None:
            log.warning("%s: enhancement of frame %d fails its CRC", request.edge_id, request.seq)
            self._requests.corrupt(request, now=now)
            return []
        key_of = crop_key if is_crop(layer) else enhancement_key
        key = key_of(request.edge_id, request.boot_id, request.seq)
        try:
            self._blobs.put(key, layer)
        except StorageError as error:
            log.error("enhancement of frame %d cannot be stored: %s", request.seq, error)
            self._failed_at = now
            self._put_off(request, now)
            return []
        self._failed_at = None
        self._requests.done(request.id, key)
        self._tally.enhancement(request, layer)
        return [ChunkCredit(request.id, chunk.total)]

    def refusal(self, edge_id: str, refusal: Refusal, now: float) -> list[Packet]:
        """A camera host cannot answer a request, or not now."""
        request = self._requests.get(refusal.request_id)
        if request is None or request.edge_id != edge_id:
            return [self._fault("unknown-request", f"request {refusal.request_id} is not yours", now)]
        self._assemblies.drop([request.id])
        if refusal.reason == "busy":
            self._requests.defer(request.id, now=now)
        else:
            self._requests.refuse(request.id, refusal.reason)
        return []

    def wanted_of(self, now: float) -> Sequence[str]:
        """Edge ids of the camera hosts that there is something to ask of."""
        return [] if self._store_is_away(now) else self._requests.edges_with_work(now)

    def to_send(self, edge_id: str, now: float, *, takes_crops: bool) -> list[EnhancementRequest]:
        """What to ask of a camera host now; it counts as sent. One that knows no crops is asked for whole frames."""
        return [_on_the_wire(request, takes_crops) for request in self._requests.to_send(edge_id, now=now)]

    def end(self, now: float) -> None:
        """End the requests whose deadline has passed, and forget what came of those that ended."""
        self._requests.expire(now=now)
        self._assemblies.drop(self._requests.ended(self._assemblies.ids))

    def _put_off(self, request: Request, now: float) -> None:
        self._assemblies.drop([request.id])
        self._requests.defer(request.id, now=now)

    def _store_is_away(self, now: float) -> bool:
        return self._failed_at is not None and 0 <= now - self._failed_at < _QUIET_SECONDS


def _on_the_wire(request: Request, takes_crops: bool) -> EnhancementRequest:
    deadline_ns, priority = int(request.deadline * _NANOSECONDS), max(0, request.priority)
    which = (request.id, request.boot_id, request.seq, deadline_ns, priority)
    crop = request.crop
    if crop is None or not takes_crops:
        return EnhancementRequest(*which)
    return CropRequest(*which, crop.left, crop.top, crop.right, crop.bottom)
