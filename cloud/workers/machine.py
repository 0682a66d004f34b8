"""The machine worker: leases base packets, decodes them, looks for objects, and files what it found.

A frame, its detections and the review they call for enter the catalogue in one transaction; only then is the frame
acknowledged. A worker killed in between gets the frame again, finds it filed, and only acknowledges it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secondlook.cloud.catalogue import (
    Catalogue,
    FrameTombstone,
    NewFrame,
    NewReview,
    frame_is_stored,
    store_frame,
    store_tombstones,
)
from secondlook.cloud.config import WorkerConfig
from secondlook.cloud.storage.blobs import Blobs, base_key
from secondlook.cloud.storage.queue import Leased, QueuedFrame
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.policy import FrameIdentity, PolicyConfig, ReviewReason, wish_for_review
from secondlook.shared.detection import BatchDetector, Detection, Detector, detect_all
from secondlook.shared.errors import (
    TRANSIENT_ERRORS,
    BitstreamError,
    GatewayUnreachable,
    LeaseLost,
    MalformedBitstream,
    ModelNotFound,
    ReferenceMissing,
)
from secondlook.shared.layers import LayeredCodec

log = logging.getLogger(__name__)

U8Image = npt.NDArray[np.uint8]

_GROUP_SHARE = 0.25  # of a lease that one run of the detector may take
_TROUBLE_SECONDS = 2.0  # pause after the gateway or the disk failed us
_TOMBSTONE_SECONDS = 2.0
_NANOSECONDS = 1_000_000_000


@dataclass
class MachineWorker:
    """``clock`` gives Unix seconds; ``heartbeat`` hears of every frame that was filed and every look for more."""

    broker: BrokerClient
    codec: LayeredCodec
    detector: Detector
    catalogue: Catalogue
    blobs: Blobs
    policy: PolicyConfig
    config: WorkerConfig
    clock: Callable[[], float] = time.time
    heartbeat: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._last_tombstone = 0
        self._tombstones_at = 0.0
        self._held_until = 0.0  # when the leases of the batch run out
        self._in_trouble = False
        self._frame_seconds = 0.0  # what the detector took for a frame when it last ran

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. Waits while the gateway is away or a disk is full."""
        while not stop.is_set():
            try:
                pause = 0.0 if self.step() else self.config.idle_seconds
                self._in_trouble = False
            except (GatewayUnreachable, *TRANSIENT_ERRORS) as error:
                if not self._in_trouble:
                    log.warning("waiting: %s", error)
                self._in_trouble, pause = True, _TROUBLE_SECONDS
            self.heartbeat()
            stop.wait(pause)

    def step(self) -> int:
        """Lease one batch and work through it; returns how many frames were leased."""
        self._copy_tombstones()
        leased = self.broker.lease(self.config.batch, self.config.lease_seconds)
        self._held_until = self.clock() + self.config.lease_seconds
        # All packets first: a key that another worker's delta waits for must not wait for our detector.
        for item in leased:
            self.blobs.put(_blob(item.frame), item.frame.payload)
        waiting = leased
        while waiting and self._hold(waiting):
            size = self._group_size()
            self._work(waiting[:size])
            waiting = waiting[size:]
        return len(leased)

    def _hold(self, waiting: Sequence[Leased]) -> bool:
        """Extend the leases of these when half of their time is gone; False when they are in other hands."""
        if self._held_until - self.clock() < self.config.lease_seconds / 2:
            try:
                self.broker.extend([item.id for item in waiting], self.config.lease_seconds)
            except LeaseLost:
                return False  # too slow: they will come again if nobody else works on them
            self._held_until = self.clock() + self.config.lease_seconds
        return True

    def _group_size(self) -> int:
        """How many frames the detector gets at once: as many as it can look at in a part of the lease."""
        if not isinstance(self.detector, BatchDetector) or self._frame_seconds <= 0:
            return 1
        return max(1, int(_GROUP_SHARE * self.config.lease_seconds / self._frame_seconds))

    def _work(self, group: Sequence[Leased]) -> None:
        """Decode these frames, look for objects in all of them at once, file and acknowledge each."""
        decoded: list[tuple[Leased, U8Image]] = []
        for item in group:
            frame = item.frame
            if frame_is_stored(self.catalogue, frame.edge_id, frame.boot_id, frame.seq):
                self.broker.ack([item.id])
                self.heartbeat()
                continue
            try:
                decoded.append((item, self._decode(frame)))
            except (BitstreamError, ModelNotFound) as error:
                self._give_back(item, f"{type(error).__name__}: {error}")
                self.heartbeat()
        if not decoded:
            return
        started = self.clock()
        found = detect_all(self.detector, [image for _, image in decoded])
        self._frame_seconds = (self.clock() - started) / len(decoded)
        for (item, _), objects in zip(decoded, found, strict=True):
            self._file(item.frame, objects)
            self.broker.ack([item.id])
            self.heartbeat()

    def _decode(self, frame: QueuedFrame) -> U8Image:
        key = None
        if frame.key_seq is not None:
            key_blob = base_key(frame.edge_id, frame.boot_id, frame.key_seq)
            if not self.blobs.exists(key_blob):
                raise ReferenceMissing(f"its key frame {frame.key_seq} has not come")
            key = self.blobs.get(key_blob)
        image = self.codec.decode_base(frame.payload, key=key)
        if image.shape[:2] != (frame.height, frame.width):
            raise MalformedBitstream(
                f"{image.shape[1]}x{image.shape[0]} decoded, {frame.width}x{frame.height} announced"
            )
        return image

    def _file(self, frame: QueuedFrame, found: Sequence[Detection]) -> None:
        wish = wish_for_review(self.policy, FrameIdentity(frame.edge_id, frame.boot_id, frame.seq), found)
        store_frame(
            self.catalogue,
            NewFrame(
                edge_id=frame.edge_id,
                boot_id=frame.boot_id,
                seq=frame.seq,
                camera=frame.camera,
                captured_ns=frame.captured_ns,
                received_ns=frame.received_ns,
                width=frame.width,
                height=frame.height,
                key_seq=frame.key_seq,
                base_blob=_blob(frame),
                base_bytes=len(frame.payload),
                enhancement_bytes=frame.enhancement_bytes,
            ),
            found,
            detector=self.detector.name,
            review=None if wish is None else _new_review(wish),
            now_ns=int(self.clock() * _NANOSECONDS),
        )

    def _give_back(self, item: Leased, why: str) -> None:
        frame = item.frame
        log.warning("%s %s/%d, attempt %d: %s", frame.edge_id, frame.boot_id, frame.seq, item.attempts, why)
        try:
            self.broker.nack(item.id, delay_seconds=retry_delay(item.attempts), why=why)
        except LeaseLost:
            log.info("frame %d went to another worker meanwhile", frame.seq)

    def _copy_tombstones(self) -> None:
        """Bring what the gateway heard of dropped frames into the catalogue, now and then."""
        if self.clock() - self._tombstones_at < _TOMBSTONE_SECONDS:
            return
        tombstones = self.broker.tombstones(self._last_tombstone)
        store_tombstones(
            self.catalogue,
            [
                FrameTombstone(
                    edge_id=tombstone.edge_id,
                    boot_id=tombstone.boot_id,
                    first_seq=tombstone.first_seq,
                    last_seq=tombstone.last_seq,
                    reason=tombstone.reason,
                    received_ns=tombstone.received_ns,
                )
                for _, tombstone in tombstones
            ],
        )
        if tombstones:
            self._last_tombstone = tombstones[-1][0]  # and come back at once: there may be more
        else:
            self._tombstones_at = self.clock()


def retry_delay(attempts: int) -> float:
    """Seconds before a frame that could not be decoded is tried again: 0.25, 1.25, 6.25, 31, then 60.

    Short at first, since a key may be just behind its delta; longer in sum than a lease, since the key may be in
    the hands of a worker that died.
    """
    return min(60.0, 0.25 * 5.0 ** (attempts - 1))


def _blob(frame: QueuedFrame) -> str:
    return base_key(frame.edge_id, frame.boot_id, frame.seq)


def _new_review(wish: ReviewReason) -> NewReview:
    return NewReview(wish.reason, wish.priority, round(wish.apart_seconds * _NANOSECONDS))
