"""The machine worker: leases base packets, decodes them, looks for objects, and files what it found.

A frame, its detections and the review they call for enter the catalogue in one transaction; only then is the frame
acknowledged. A worker killed in between gets the frame again, finds it filed, and only acknowledges it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from secondlook.cloud.catalogue import (
    BEHIND,
    Catalogue,
    FrameTombstone,
    NewFrame,
    NewReview,
    ReviewBudget,
    check_catalogue,
    frame_is_stored,
    note_clocks,
    note_hosts,
    review_is_due,
    site_secret,
    skipped_reviews,
    store_frame,
    store_tombstones,
    store_unseen,
)
from secondlook.cloud.catalogue.site import AUDIT_SECRET
from secondlook.cloud.config import PolicyConfig, WorkerConfig
from secondlook.cloud.decoding.groups import GroupDecoders
from secondlook.cloud.decoding.limits import check_layer, check_pixels
from secondlook.cloud.storage.blobs import Blobs, base_key
from secondlook.cloud.storage.queue import Leased, QueuedFrame
from secondlook.cloud.storage.requests import AHEAD
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.cloud.workers.fetchahead import FetchAhead
from secondlook.cloud.workers.machinefilter import MachineFilter
from secondlook.cloud.workers.policy import (
    FrameIdentity,
    ReviewReason,
    chosen_anyway,
    crop_wanted,
    wish_for_review,
)
from secondlook.cloud.workers.shedding import Shedder
from secondlook.shared import metrics, tracing
from secondlook.shared.conditions import WatchConfig
from secondlook.shared.crop import Crop
from secondlook.shared.detection import Detection, Detector, detect_all
from secondlook.shared.errors import (
    TRANSIENT_ERRORS,
    BitstreamError,
    DetectorError,
    FrameMissing,
    GatewayUnreachable,
    LeaseLost,
    MalformedBitstream,
    ModelNotFound,
    PacketMalformed,
    StorageError,
    StoreCorrupt,
    Unforeseen,
)
from secondlook.shared.faults import cause_of, unforeseen_named
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.logs import about, step
from secondlook.shared.outage import LimitedLog, Outage
from secondlook.shared.stop import descriptors
from secondlook.shared.tiles import told_of_tiles
from secondlook.shared.videobits import is_of_group, parse_base

log = logging.getLogger(__name__)

U8Image = npt.NDArray[np.uint8]
T = TypeVar("T")

_NOT_OF_A_FRAME = (GatewayUnreachable, LeaseLost, StorageError)
_WAIT_SECONDS = 1.5  # for frames at a time
_TROUBLE_SECONDS = 2.0  # pause after the gateway or the disk failed us
_TOMBSTONE_SECONDS = 2.0
_SKIPPED_SECONDS = 60.0
_BATCH_FAILED_SECONDS = 60.0  # between two lines about it
_CLOCKS_SECONDS = 10.0
_AHEAD_SECONDS = 120.0  # a request ahead of its time is given up after this
_TEST_SHAPE, _TEST_GREY = (64, 64, 3), 128
_NANOSECONDS = 1_000_000_000
_LEFT_AT_ONCE = 64  # frames leased at a time while all are left, which is what a gateway gives at most
ASK_AT = 3  # the attempt at which what a frame needs is asked for: seconds after the first
REFERENCE_MISSING = "reference-missing"  # reason of a tombstone


@dataclass
class MachineWorker:
    """``clock`` gives Unix seconds; ``heartbeat`` hears of every frame that was filed and every look for more,
    ``waits`` why work stands still, or None."""

    broker: BrokerClient
    codec: LayeredCodec
    detector: Detector
    catalogue: Catalogue
    blobs: Blobs
    policy: PolicyConfig
    config: WorkerConfig
    clock: Callable[[], float] = time.time
    heartbeat: Callable[[], None] = lambda: None
    waits: Callable[[str | None], None] = lambda _why: None
    watch: WatchConfig = field(default_factory=WatchConfig)
    machine_filter: MachineFilter | None = None

    def __post_init__(self) -> None:
        self.done = 0  # frames since the start
        self._last_tombstone = 0
        self._tombstones_at = 0.0
        self._clocks_at = 0.0
        self._secret = site_secret(self.catalogue, AUDIT_SECRET)
        self._next_batch = self.config.batch
        self._was_woken = False
        self._skipped, self._skipped_at = skipped_reviews(self.catalogue), self.clock()
        self._outage, self._complaints = Outage(log), LimitedLog(log, _BATCH_FAILED_SECONDS)
        self._groups = GroupDecoders(self.blobs, self.config.max_pixels)
        self._ahead = FetchAhead(self.config.ahead_bytes_per_minute)
        self._shedder = Shedder(self.config.shed, self.config.shed_after_seconds)

    @property
    def shed(self) -> int:
        """Frames that were not looked at since this worker cannot keep up; 0 while it can."""
        return max(1, self._shedder.left) if self._shedder.is_shedding else 0

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. Waits while the gateway is away or a disk is full.

        Raises what the detector or the catalogue says when it cannot work at all.
        """
        self.check()
        # One frame first: should it be the one that ended the worker before this, it takes no others along.
        self._next_batch = 1
        while not stop.is_set():
            try:
                pause = self._pause(stop, found=self.step())
                self._outage.over(time.monotonic())
            except (GatewayUnreachable, *TRANSIENT_ERRORS) as error:
                self._outage.met(error, time.monotonic())
                pause = _TROUBLE_SECONDS
            self.waits(self._outage.why)
            self.heartbeat()
            stop.wait(pause)

    def _pause(self, stop: threading.Event, *, found: int) -> float:
        """Seconds before the next look for frames; an empty queue is waited for at the gateway before that."""
        if found:
            self._was_woken = False
            return 0.0
        if self._was_woken:  # in vain: what there is is in other hands
            self._was_woken = False
            return self.config.idle_seconds
        began = time.monotonic()
        self._was_woken = self.broker.wait(_WAIT_SECONDS, descriptors(stop))
        return 0.0 if self._was_woken else max(0.0, self.config.idle_seconds - (time.monotonic() - began))

    def check(self) -> None:
        """Find out whether this worker can work at all, before it takes a frame. Raises DetectorError, Unwritable."""
        check_catalogue(self.catalogue)
        between, grey = self.machine_filter, np.full(_TEST_SHAPE, _TEST_GREY, np.uint8)
        try:
            with unforeseen_named():
                self.detector.detect(grey if between is None else between.apply(grey, grey))
        except Unforeseen as error:
            raise DetectorError(f"{self.detector.name} fails on a grey picture: {error}") from error

    def step(self) -> int:
        """Lease one batch and work through it; returns how many frames were leased."""
        self._copy_tombstones()
        self._copy_clocks()
        self._tell_of_skipped()
        leased = self.broker.lease(self._next_batch, self.config.lease_seconds)
        for item in leased:
            metrics.measure("queue_seconds", self.clock() - item.frame.received_ns / _NANOSECONDS)
            _span("queue", item.frame, item.frame.received_ns, attempt=item.attempts)
        hold = _Hold(self.broker, [item.id for item in leased], self.config.lease_seconds, self.clock)
        # All packets first: a key that another worker's delta waits for must not wait for our detector.
        for item in leased:
            self.blobs.put(_blob(item.frame), item.frame.payload)
            if chosen_anyway(self.policy, _identity(item.frame), secret=self._secret):
                self._fetch_ahead(item.frame)
        # What has been in other hands may be why they let go of it: it is looked at alone, behind the others.
        fresh = [item for item in leased if item.attempts == 1]
        looked_at = self._shed(fresh, hold, drained=len(leased) < self._next_batch)
        try:
            self._work(looked_at, hold)
            for item in leased:
                if item.attempts > 1:
                    self._work([item], hold)
        except LeaseLost:
            # Too slow: the rest is in other hands, and will come again if it is not.
            log.info("%d frames went to another worker meanwhile", len(hold.ids))
        if leased:
            pixels = max(item.frame.info.width * item.frame.info.height for item in leased)
            self._next_batch = max(1, min(self.config.batch, self.config.batch_pixels // pixels))
            if fresh and not looked_at:
                self._next_batch = _LEFT_AT_ONCE
        return len(leased)

    def _shed(self, fresh: Sequence[Leased], hold: _Hold, *, drained: bool) -> list[Leased]:
        """Where this worker cannot keep up, store and acknowledge what it does not look at; returns the others."""
        ages = [item.age_seconds for item in fresh if item.age_seconds is not None]
        if len(ages) < len(fresh):
            return list(fresh)  # a gateway of an earlier version tells no ages
        now = self.clock()
        turn = self._shedder.observe(max(ages, default=0.0), now)
        if turn is not None:
            log.log(logging.WARNING if turn.began else logging.INFO, "%s", turn.line(self.config.shed))
        aged = [(item.frame.edge_id, age) for item, age in zip(fresh, ages, strict=True)]
        looks = self._shedder.choose(aged, drained=drained)
        kept = [looks or self._must_be_seen(item.frame) for item, looks in zip(fresh, looks, strict=True)]
        left = [item for item, is_kept in zip(fresh, kept, strict=True) if not is_kept]
        if left:
            frames = [_new_frame(item.frame) for item in left]
            store_unseen(self.catalogue, frames, BEHIND, now_ns=int(now * _NANOSECONDS))
            self._shedder.note_left(len(left), now)
            self.broker.ack([item.id for item in left])
            for item in left:
                hold.ids.remove(item.id)
                metrics.count("frames_shed_total", item.frame.edge_id)
                step("not looked at", item.frame.edge_id, item.frame.info.boot_id, item.frame.info.seq)
            self.heartbeat()
        return [item for item, is_kept in zip(fresh, kept, strict=True) if is_kept]

    def _must_be_seen(self, frame: QueuedFrame) -> bool:
        """Whether a frame is looked at by a worker, however far that is behind.

        The samples that are drawn whatever a frame shows must not depend on load; and what may be broken, or lacks
        another frame, is for those to find out who decode it: what is stored can be decoded later.
        """
        if chosen_anyway(self.policy, _identity(frame), secret=self._secret):
            return True
        info = frame.info
        try:
            check_pixels(info.width, info.height, self.config.max_pixels)
            check_layer(frame.payload, self.config.max_pixels, announced=(info.width, info.height))
            in_group = is_of_group(frame.payload)
            if in_group:
                parse_base(frame.payload)
        except BitstreamError:
            return True
        if info.key_seq is None:
            return False
        needed = info.seq - 1 if in_group else info.key_seq
        return not self.blobs.exists(base_key(frame.edge_id, info.boot_id, needed))

    def _work(self, leased: Sequence[Leased], hold: _Hold) -> None:
        """Decode the frames of a batch, look at all of them at once, file and acknowledge each.

        The detector's run is what a batch shares. Where it fails, each frame is looked at alone: the one that it fails
        over is given back, and its neighbours lose nothing.
        """
        decoded: list[tuple[Leased, U8Image]] = []
        began = time.perf_counter()
        for item in leased:
            hold.renew()
            frame = item.frame
            if frame_is_stored(self.catalogue, frame.edge_id, frame.info.boot_id, frame.info.seq):
                self._finish(item, hold, filed=True)
                continue
            began_ns = time.time_ns()
            image = self._guarded(item, hold, partial(self._decode, frame, hold))
            if image is None:
                self._finish(item, hold, filed=False)
            else:
                _span("decode", frame, began_ns)
                decoded.append((item, image))
        began_ns = time.time_ns()
        found = self._look_at_all([image for _, image in decoded], hold)
        for _ in decoded:
            metrics.measure("detect_seconds", (time.perf_counter() - began) / len(decoded))
        for (item, image), of_frame in zip(decoded, found, strict=True):
            hold.renew()
            filed = self._guarded(item, hold, partial(self._file, item.frame, image, of_frame))
            if filed is not None:
                _span("detect", item.frame, began_ns, batch=len(decoded))
            self._finish(item, hold, filed=filed is not None)

    def _finish(self, item: Leased, hold: _Hold, *, filed: bool) -> None:
        if filed:
            self.broker.ack([item.id])
            self.done += 1
        hold.ids.remove(item.id)
        self.heartbeat()

    def _look_at_all(self, images: Sequence[U8Image], hold: _Hold) -> Sequence[list[Detection] | None]:
        """What the detector finds in each frame; None where each is to be looked at alone."""
        alone = [None] * len(images)
        if len(images) < 2:
            return alone
        try:
            with unforeseen_named(*_NOT_OF_A_FRAME), told_of_tiles(lambda: self._progress(hold)):
                return detect_all(self.detector, images)
        except Unforeseen as error:  # one of them, or all together: too much for its memory, say
            text = f"looking at {len(images)} frames at once failed, each is looked at alone: {error}"
            self._complaints.warning("batch", text, time.monotonic())
            return alone

    def _guarded(self, item: Leased, hold: _Hold, work: Callable[[], T]) -> T | None:
        """A step of work on one frame; None where it failed and the frame is given back with its cause.

        Nothing that a camera host sends may end a worker: whatever codec, detector and database raise over it is taken
        for the frame's fault (see `shared.faults`). What does not come from the frame passes through: a store or a
        gateway that is away, a lease that is lost. A worker that fails on a grey picture too is broken, and says so.
        """
        frame = item.frame
        try:
            with (
                unforeseen_named(*_NOT_OF_A_FRAME, BitstreamError, ModelNotFound),
                told_of_tiles(lambda: self._progress(hold)),
            ):
                return work()
        except FrameMissing as error:
            self._wait_for(error.seq, item, cause_of(error))
        except (BitstreamError, ModelNotFound) as error:
            self._give_back(item, cause_of(error))
        except Unforeseen as error:
            log.debug("frame %d of %s", frame.info.seq, frame.edge_id, exc_info=error)
            self._give_back(item, str(error))
            self.check()
        return None

    def _progress(self, hold: _Hold) -> None:
        self.heartbeat()
        hold.renew_if_possible()

    def _decode(self, frame: QueuedFrame, hold: _Hold) -> U8Image:
        most = self.config.max_pixels
        check_pixels(frame.info.width, frame.info.height, most)
        check_layer(frame.payload, most, announced=(frame.info.width, frame.info.height))
        image = (
            self._decode_in_group(frame, hold) if is_of_group(frame.payload) else self._decode_alone(frame)
        )
        if image.shape[:2] != (frame.info.height, frame.info.width):
            raise MalformedBitstream(
                f"{image.shape[1]}x{image.shape[0]} decoded, {frame.info.width}x{frame.info.height} announced"
            )
        return image

    def _decode_in_group(self, frame: QueuedFrame, hold: _Hold) -> U8Image:
        where = (frame.edge_id, frame.info.boot_id, frame.info.seq, frame.info.key_seq)
        image = self._groups.decode(*where, frame.payload, lambda: self._progress(hold))
        if self.machine_filter is None:
            return image
        return self.machine_filter.apply(image, self._groups.background(*where))

    def _decode_alone(self, frame: QueuedFrame) -> U8Image:
        """With the key at most."""
        key = None
        if frame.info.key_seq is not None:
            key_blob = base_key(frame.edge_id, frame.info.boot_id, frame.info.key_seq)
            if not self.blobs.exists(key_blob):
                raise FrameMissing(f"its key frame {frame.info.key_seq} has not come", frame.info.key_seq)
            try:
                key = self.blobs.get(key_blob)
            except StoreCorrupt as error:  # this one blob
                raise FrameMissing(
                    f"its key frame {frame.info.key_seq} is gone: {error}", frame.info.key_seq
                ) from error
            check_layer(key, self.config.max_pixels)
        return self.codec.decode_base(frame.payload, key=key)

    def _file(self, frame: QueuedFrame, image: U8Image, found: list[Detection] | None) -> bool:
        """Store a frame with what was found in it, or, where nobody has looked yet, is found now. True."""
        if found is None:
            found = self.detector.detect(image)
        identity, size = _identity(frame), (frame.info.width, frame.info.height)
        wishes = wish_for_review(self.policy, identity, found, secret=self._secret, size=size)
        crop = crop_wanted(self.policy, wishes, found, size) if is_of_group(frame.payload) else None
        store_frame(
            self.catalogue,
            _new_frame(frame),
            found,
            detector=self.detector.name,
            reasons=[_new_review(wish) for wish in wishes],
            now_ns=int(self.clock() * _NANOSECONDS),
            budget=ReviewBudget(self.policy.max_open_reviews, self.policy.max_open_reviews_of_camera),
            crop=crop,
        )
        self._count(frame, wishes)
        if (
            wishes
            and not chosen_anyway(self.policy, identity, secret=self._secret)
            and review_is_due(self.catalogue, frame.edge_id, frame.info.boot_id, frame.info.seq)
        ):
            self._fetch_ahead(frame, crop)
        return True

    def _count(self, frame: QueuedFrame, wishes: Sequence[ReviewReason]) -> None:
        """A frame is in the catalogue, with what was found in it."""
        metrics.count("frames_detected_total", frame.edge_id)
        metrics.measure("detected_seconds", self.clock() - frame.received_ns / _NANOSECONDS, frame.edge_id)
        for wish in wishes:
            metrics.count("reviews_asked_total", frame.edge_id, wish.rule.value)
        step("detected", frame.edge_id, frame.info.boot_id, frame.info.seq)

    def _fetch_ahead(self, frame: QueuedFrame, crop: Crop | None = None) -> None:
        """Have the enhancement sent while its camera host has nothing else to answer, before a refiner asks for it."""
        wanted, where = [frame.info.seq], (frame.edge_id, frame.info.boot_id)
        if frame.info.key_seq is not None and not is_of_group(frame.payload):
            wanted.append(frame.info.key_seq)  # of about the same size, nobody says exactly
        # One that is coded when it is asked for has no size yet: half a bit a pixel is about what it takes.
        pixels = frame.info.width * frame.info.height if crop is None else crop.pixels
        each = pixels // 16 if crop is not None else frame.info.enhancement_bytes or pixels // 16
        size_bytes = len(wanted) * each
        if not self._ahead.takes(frame.edge_id, size_bytes, now=self.clock()):
            return
        try:
            for seq in wanted:
                self.broker.request_enhancement(
                    *where, seq, deadline_seconds=_AHEAD_SECONDS, priority=AHEAD, crop=crop
                )
        except PacketMalformed:  # a gateway of an earlier version, which takes no such request
            self._ahead = FetchAhead(0)

    def _wait_for(self, seq: int, item: Leased, why: str) -> None:
        """A frame needs another that is not stored: it waits, then that one is asked for, and at last it is given up.

        Usually the other is in the hands of a worker that has not kept it yet, or of one that died.
        """
        frame = item.frame
        if item.attempts == ASK_AT and self.broker.ask_again(frame.edge_id, frame.info.boot_id, seq):
            log.warning(
                "%s %s/%d is not stored: its camera host is asked for it",
                frame.edge_id,
                frame.info.boot_id,
                seq,
            )
        self._give_back(item, why, hopeless=REFERENCE_MISSING)

    def _give_back(self, item: Leased, why: str, *, hopeless: str = "") -> None:
        frame = item.frame
        log.warning(
            "%s %s/%d, attempt %d: %s",
            frame.edge_id,
            frame.info.boot_id,
            frame.info.seq,
            item.attempts,
            why,
            extra=about(frame.edge_id, frame.info.boot_id, frame.info.seq),
        )
        metrics.count("frames_failed_total", frame.edge_id)
        _span("fail", frame, time.time_ns(), error=why, attempt=item.attempts)
        try:
            self.broker.nack(item.id, delay_seconds=retry_delay(item.attempts), why=why, hopeless=hopeless)
        except LeaseLost:
            log.info("frame %d went to another worker meanwhile", frame.info.seq)

    def _tell_of_skipped(self) -> None:
        """Say now and then how many frames nobody will be asked about."""
        if 0 <= self.clock() - self._skipped_at < _SKIPPED_SECONDS:
            return
        self._skipped_at, before = self.clock(), self._skipped
        self._skipped = skipped_reviews(self.catalogue)
        if self._skipped > before:
            log.warning(
                "%d more reviews skipped, %d in all: more frames ask for one than policy.max_open_reviews (%d, "
                "and %d a camera host) allows",
                self._skipped - before,
                self._skipped,
                self.policy.max_open_reviews,
                self.policy.max_open_reviews_of_camera,
            )

    def _copy_tombstones(self) -> None:
        """Bring what the gateway heard of dropped frames into the catalogue, now and then."""
        if 0 <= self.clock() - self._tombstones_at < _TOMBSTONE_SECONDS:
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

    def _copy_clocks(self) -> None:
        """Bring what the gateway knows of the camera hosts' clocks into the catalogue, now and then."""
        if 0 <= self.clock() - self._clocks_at < _CLOCKS_SECONDS:
            return
        self._clocks_at = self.clock()
        try:
            offsets = self.broker.clocks()
        except PacketMalformed:  # a gateway of an earlier version, which does not know the question
            return
        note_clocks(self.catalogue, offsets)
        self._copy_hosts()

    def _copy_hosts(self) -> None:
        """Bring what the gateway knows of the camera hosts into the catalogue, and say which cameras went and came."""
        try:
            seen = self.broker.hosts()
        except PacketMalformed:  # a gateway of an earlier version
            return
        changes = note_hosts(
            self.catalogue,
            seen,
            silent_seconds=self.watch.silent_seconds,
            settle_seconds=self.watch.settle_seconds,
        )
        for change in changes:
            level = logging.WARNING if change.began else logging.INFO
            log.log(level, "%s", change.line(int(seen.now * _NANOSECONDS)))


def retry_delay(attempts: int) -> float:
    """Seconds before a frame that could not be decoded is tried again: 0.25, 1.25, 6.25, 31, then 60.

    Short at first, since a key may be just behind its delta; longer in sum than a lease, since the key may be in
    the hands of a worker that died.
    """
    return min(60.0, 0.25 * 5.0 ** (attempts - 1))


def _blob(frame: QueuedFrame) -> str:
    return base_key(frame.edge_id, frame.info.boot_id, frame.info.seq)


def _new_frame(frame: QueuedFrame) -> NewFrame:
    return NewFrame(
        edge_id=frame.edge_id,
        camera=frame.camera,
        received_ns=frame.received_ns,
        info=frame.info,
        base_blob=_blob(frame),
        base_bytes=len(frame.payload),
    )


def _span(name: str, frame: QueuedFrame, began_ns: int, *, error: str = "", **more: int) -> None:
    """A step of work on a frame is over."""
    info = frame.info
    tracing.span(name, frame.edge_id, info.boot_id, info.seq, began_ns, error=error, **more)


def _identity(frame: QueuedFrame) -> FrameIdentity:
    return FrameIdentity(frame.edge_id, frame.info.boot_id, frame.info.seq)


def _new_review(wish: ReviewReason) -> NewReview:
    return NewReview(
        wish.reason,
        wish.priority,
        round(wish.apart_seconds * _NANOSECONDS),
        wish.rule,
        boxes=wish.boxes,
        dwell_ns=round(wish.dwell_seconds * _NANOSECONDS),
        once=wish.once,
    )


class _Hold:
    """The leases of what is left of a batch, renewed when half of their time is over."""

    def __init__(
        self, broker: BrokerClient, ids: list[int], lease_seconds: float, clock: Callable[[], float]
    ) -> None:
        self.ids = ids
        self._broker, self._seconds, self._clock = broker, lease_seconds, clock
        self._until = clock() + lease_seconds

    def renew(self) -> None:
        """Raises LeaseLost, GatewayUnreachable."""
        if self._until - self._clock() < self._seconds / 2:
            self._broker.extend(self.ids, self._seconds)
            self._until = self._clock() + self._seconds

    def renew_if_possible(self) -> None:
        """In the middle of a frame: a gateway that is away is no reason to begin it anew. Raises LeaseLost."""
        try:
            self.renew()
        except (GatewayUnreachable, *TRANSIENT_ERRORS):
            # Each try may take seconds: the next one when half of what is left is over.
            self._until = self._clock() + self._seconds * 0.75
