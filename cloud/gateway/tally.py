"""What an intake counts: when camera hosts were heard of, and what has been stored, once that is committed.

Instants are Unix seconds handed in as ``now``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secondlook.cloud.gateway.sessions import PROBE_CHANNEL, Session
from secondlook.cloud.storage.ledger import FrameTombstone, Ledger
from secondlook.cloud.storage.queue import QueuedFrame
from secondlook.cloud.storage.requests import Request
from secondlook.shared import metrics, tracing
from secondlook.shared.logs import step
from secondlook.shared.packet import Report

_NANOSECONDS = 1_000_000_000
_LONGEST_DELIVERY_SECONDS = 90 * 86_400.0
TOMBSTONE_REASONS = frozenset(
    {
        "behind",
        "damaged",
        "dead-letter-limit",
        "dead-letter-purged",
        "disk-full",
        "idle",
        "key-dropped",
        "reference-missing",
        "restored",
        "spool-age",
        "spool-full",
        "thinned",
        "unmasked",
        "too-large",
    }
)


@dataclass(frozen=True)
class HostReport:
    """What a camera host said of itself last. Instants are Unix seconds by the gateway's clock."""

    at: float
    waiting: int
    oldest_at: float | None  # when the oldest waiting frame was captured, its clock corrected
    source: str
    model: str
    trouble: str


class Tally:
    def __init__(self) -> None:
        self.reported: dict[str, HostReport] = {}  # by edge id
        self.heard: dict[str, float] = {}  # by edge id, when anything was heard of it in this run
        self.delivered: dict[str, float] = {}  # the same, of a frame or a tombstone
        self._fresh: list[QueuedFrame] = []  # stored, and not committed yet
        self._dropped: list[FrameTombstone] = []

    def hears(self, session: Session, now: float) -> None:
        """Something came; who only tries the link is not the camera host itself."""
        if session.channel != PROBE_CHANNEL:
            self.heard[session.edge_id] = now

    def reports(self, session: Session, report: Report, now: float) -> None:
        """A camera host says how it does."""
        if session.channel == PROBE_CHANNEL:
            return
        oldest = None
        if report.oldest_ns is not None:
            oldest = min(now, report.oldest_ns / _NANOSECONDS + (session.clock_offset_seconds or 0.0))
        self.reported[session.edge_id] = HostReport(
            now, report.waiting, oldest, report.source, report.model, report.trouble
        )

    def greeted(self, edge_id: str, now: float) -> None:
        self.heard[edge_id] = now
        self.delivered.setdefault(edge_id, now)

    def stored(self, ledger: Ledger) -> None:
        """The ledger has taken a batch, in a transaction that is not committed yet."""
        self._fresh += ledger.fresh
        self._dropped += ledger.fresh_tombstones

    def rolled_back(self) -> None:
        self._fresh, self._dropped = [], []

    def committed(self, offsets: Mapping[str, float], *, now: float) -> None:
        """What was stored since the last call is on disk: it is counted. ``offsets``: seconds that clocks lag."""
        fresh, self._fresh = self._fresh, []
        dropped, self._dropped = self._dropped, []
        by_edge: dict[str, list[QueuedFrame]] = {}
        for frame in fresh:
            by_edge.setdefault(frame.edge_id, []).append(frame)
            step("queued", frame.edge_id, frame.info.boot_id, frame.info.seq)
            tracing.span("store", frame.edge_id, frame.info.boot_id, frame.info.seq, frame.received_ns)
        for edge_id, frames in by_edge.items():
            lag = now - offsets.get(edge_id, 0.0)
            took = [lag - frame.info.captured_ns / _NANOSECONDS for frame in frames]
            # What would have taken longer was captured by a clock that is none.
            in_time = [seconds for seconds in took if seconds < _LONGEST_DELIVERY_SECONDS]
            metrics.measure_all("delivery_seconds", in_time, edge_id)
            metrics.count("frames_queued_total", edge_id, by=len(frames))
            size = sum(len(frame.payload) for frame in frames)
            metrics.count("layer_bytes_total", edge_id, "base", "received", by=size)
        for tombstone in dropped:
            gone = tombstone.last_seq - tombstone.first_seq + 1
            # Hosts may send any text, and a label that anybody can make up would grow without end.
            reason = tombstone.reason if tombstone.reason in TOMBSTONE_REASONS else "other"
            metrics.count("frames_dropped_total", tombstone.edge_id, reason, by=gone)

    def enhancement(self, request: Request, layer: bytes) -> None:
        """An enhancement has come, and is stored."""
        metrics.count("layer_bytes_total", request.edge_id, "enhancement", "received", by=len(layer))
        step("enhancement received", request.edge_id, request.boot_id, request.seq)
