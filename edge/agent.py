"""The agent of a camera host: capture → encode → spool → uplink, until stopped or done.

The thread that runs `Agent.run` captures and encodes and writes batches to the spool; the uplink has its own
thread; the source has its own process. A frame counts as captured when it reaches the encoder: that is when
it gets its sequence number.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any

from secondlook.edge.coding.classmasks import PrivacyMasks
from secondlook.edge.coding.encode import choose_encoder
from secondlook.edge.coding.originals import EnhancementCoder
from secondlook.edge.coding.regions import Regions
from secondlook.edge.coding.still import StillGate
from secondlook.edge.config import EdgeConfig
from secondlook.edge.link.hostlink import HostLink
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.pacing import Pacer, Pacing
from secondlook.edge.link.rate import RateControl
from secondlook.edge.link.reports import Doing
from secondlook.edge.link.uplink import Uplink
from secondlook.edge.recorded import record
from secondlook.edge.source.camera import Camera, Frame
from secondlook.edge.source.feed import FeedCamera
from secondlook.edge.source.place import Taken, place_keeper
from secondlook.edge.source.shutter import Frames, Shutter
from secondlook.edge.spool import Spool
from secondlook.edge.spooled import PassedReason, Spoolable, SpoolCounts, SpooledFrame, UnspooledTombstone
from secondlook.edge.statusfile import counts_of, free_bytes, instant, write_status
from secondlook.edge.telling import Telling, TellingTimes
from secondlook.shared import metrics, tracing
from secondlook.shared.errors import (
    DiskFull,
    LinkError,
    MaskFailed,
    SourceError,
    StorageError,
    StoreBusy,
    Unwritable,
)
from secondlook.shared.files import keep_private, make_folder, only_process
from secondlook.shared.logs import step
from secondlook.shared.outage import LimitedLog, Outage
from secondlook.shared.packet import MAX_NS
from secondlook.shared.stop import descriptors
from secondlook.shared.video import finer_quality
from secondlook.shared.watchdog import Watchdog

if TYPE_CHECKING:
    from secondlook.shared.layers import LayeredCodec

log = logging.getLogger(__name__)

_RATE_SECONDS = 0.5  # between two looks of the rate control at the link
_AGE_SECONDS = 60.0  # between two looks for what outlived its time in the spool
_WAIT_SECONDS = 0.1
_IDLE_SECONDS = 1.0  # where nothing waits for us, and whoever stops us wakes us up
_DROPPED_SECONDS = 1.0  # between two lines about frames that the spool dropped
_COUNTING_SHARE = 0.02  # of the time may be spent on counting a full spool
_SIGNAL_SECONDS = 0.5  # a signal to a whole group reaches us within this, after it ended our capture
_WITHHELD_SECONDS = 60.0  # between two lines about pictures that cannot be masked
_LAST_COMMITS = 3  # attempts, when stopped while another process holds the spool


@dataclass(frozen=True)
class Surroundings:
    """What an agent has beside its settings: a program's frames in the place of a camera, its share of a host's link,
    and whether it is one of several in this process, which outlives the failures of one."""

    feed: FeedCamera | None = None
    link: HostLink | None = None
    is_one_of_many: bool = False
    leaves_undelivered: bool = False  # it ends when the source does


ALONE = Surroundings()


class Agent:
    """One start of the agent: a boot id of its own, frames numbered from 0."""

    def __init__(self, config: EdgeConfig, codec: LayeredCodec, around: Surroundings = ALONE) -> None:
        """Opens nothing yet but the model of masks; `run` does. Raises MaskFailed."""
        self._around = around
        self._link = around.link
        self.boot_id = secrets.token_hex(16)
        self._config = config
        self._regions = Regions(config.regions)
        self._masks = PrivacyMasks.open(config, self._regions)
        self._complaints = LimitedLog(log, _WITHHELD_SECONDS)
        coding = config.codec
        is_bounded = config.rate.uplink_kbps is not None or config.uplink.is_bounded
        if is_bounded and coding.background_quality is None:
            # Or each quality that the rate control chooses would have a background of its own.
            coding = replace(coding, background_quality=finer_quality(coding.base_quality))
        self._encoder = choose_encoder(codec, coding, config.source, self.boot_id, self._regions)
        # Also of what an earlier start has kept, under other settings.
        self._finish = EnhancementCoder(codec, config.codec.base_quality, config.codec.quality)
        self._gate = StillGate(config.idle)
        self._rate: RateControl | None = None
        if is_bounded:
            self._rate = RateControl(config.rate, config.codec.base_quality, time.monotonic())
        if config.rate.uplink_kbps is not None:
            log.info("the uplink is kept to %g kbit/s", config.rate.uplink_kbps)
        self._batch: list[Spoolable] = []  # encoded, not yet on disk
        self._places: list[Taken] = []  # of the batch, in a source that can be read on
        self._too_large = 0  # frames of the batch that no spool takes
        self._place = place_keeper(config.data_dir, config.source, self.boot_id)
        self._unspooled: UnspooledTombstone | None = None  # what a full disk has cost since the last commit
        self._committed_at = 0.0
        self._rate_at = self._age_at = 0.0
        self._captured = self._spooled = self._tombstoned = 0
        self._passed: Counter[PassedReason] = Counter()
        self._bytes_base = self._bytes_enhancement = 0
        self._watchdog = Watchdog()
        self._turns_seen = 0  # of the uplink, when progress was last told
        self._outage = Outage(log)  # of the spool
        self._dropped_untold = 0  # frames that the spool dropped since the log last told of any
        self._dropped_told_at = float("-inf")
        self._last_frame_ns: int | None = None
        self._source_lag_ns: int | None = None  # by which our stamp of that frame is behind its source's
        self._counts: SpoolCounts | None = None
        self._count_at = 0.0
        self._telling_times = TellingTimes()
        self._telling = Telling(
            config.watch, config.smtp, config.edge_id, config.data_dir, config.spool.max_bytes
        )
        self._uplink: Uplink | None = None
        self._pacing: Pacing | None = None

    @property
    def captured(self) -> int:
        """Frames that came so far."""
        return self._captured

    @property
    def acknowledged(self) -> int:
        """Frames of this start that the gateway holds."""
        uplink = self._uplink
        return 0 if uplink is None else uplink.acknowledged - uplink.acknowledged_earlier

    def run(self, stop: Event, watchdog: Watchdog | None = None) -> None:
        """Work until `stop` is set, or until all is delivered if the settings say so; tell `watchdog` of progress.

        :raises SourceError: the source failed for good; what was captured is in the spool
        :raises StorageError: the spool failed, or another agent uses its folder
        :raises KeyRejected: a key file cannot be used
        """
        config = self._config
        if config.source.record_dir is not None:
            make_folder(config.source.record_dir)
            keep_private(config.source.record_dir)
        self._watchdog = watchdog or self._watchdog
        with only_process(config.data_dir, "agent.lock", "edge agent"):
            keep_private(config.data_dir)
            spool = self._open_spool(stop)
            if spool is None:
                return
            with self._open_parts(spool, stop) as (uplink, camera):
                self._uplink = uplink
                self._watchdog.ready()
                self._capture(spool, uplink, camera, stop)
                camera.close()
                if self._around.leaves_undelivered:
                    return
                self._wait_for_delivery(spool, uplink, camera, stop)

    def _open_spool(self, stop: Event) -> Spool | None:
        """The spool, once no other process holds it; None when told to stop before."""
        while not stop.is_set():
            try:
                spool = Spool(self._config.data_dir, self._config.spool, self.boot_id, time.time_ns())
            except StoreBusy as error:
                self._wait_for_spool(error)
                continue
            self._spool_is_back()
            return spool
        return None

    def _wait_for_spool(self, error: StoreBusy) -> None:
        """Another process holds the spool. That it is waited for is life, too: it was tried for seconds."""
        self._outage.met(error, time.monotonic())
        self._watchdog.waits(self._outage.why)
        self._watchdog.heartbeat()

    def _spool_is_back(self) -> None:
        self._outage.over(time.monotonic())
        self._watchdog.waits(None)

    @contextmanager
    def _open_parts(self, spool: Spool, stop: Event) -> Iterator[tuple[Uplink, Shutter]]:
        config = self._config
        rng = random.Random(self.boot_id)
        if self._link is None and config.uplink.is_bounded:
            self._link = HostLink(config.uplink, config.data_dir)
        try:
            identity = AgentIdentity(config.edge_id, self.boot_id, config.camera)
            self._pacing = self._pacer()
            gather = config.rate.gather_seconds
            uplink = Uplink(
                config.link, identity, spool, rng, self._finish, pacer=self._pacing, gather_seconds=gather
            )
            uplink.doing = Doing(model=self._encoder.model)
            self._place.resume(spool.next_seq)
            camera = Shutter(config, lambda place: self._open_source(place, rng, stop), stop.wait)
            uplink.start()
            try:
                log.info("boot %s of %s", self.boot_id, config.edge_id)
                yield uplink, camera
            finally:
                try:
                    camera.close()
                finally:
                    uplink.stop()  # its thread reads the spool, which is closed below
                self._tell_of_drops(now=float("inf"))
                self._count(spool, now=float("inf"))
                self._write_status(spool, uplink, camera)
                self._sum_up(uplink)
        finally:
            if self._pacing is not None:
                self._pacing.leave()
            if self._link is not None:
                self._link.keep(now_or_never=True)
            spool.close()

    def _pacer(self) -> Pacing | None:
        """What bounds the uplink: the rate of this camera, and its share of the host's link."""
        rate, now = self._config.rate, time.monotonic()
        own = None if rate.uplink_kbps is None else Pacer(rate.uplink_bytes, now)
        return (
            own if self._link is None else self._link.camera(self._config.edge_id, self._config.weight, own)
        )

    def _open_source(self, place: str | None, rng: random.Random, stop: Event) -> Frames:
        if self._around.feed is not None:
            return self._around.feed
        many = self._around.is_one_of_many
        after = self._place.after(place)
        wakes = descriptors(stop)
        return Camera(self._config.source, rng, after, is_patient=many, from_server=many, wakes=wakes)

    def _capture(self, spool: Spool, uplink: Uplink, camera: Shutter, stop: Event) -> None:
        """Capture until told to stop, enough frames are taken, or the source ends."""
        limit = self._config.source.frames
        try:
            while not (stop.is_set() or camera.state == "ended" or self._captured == limit):
                # What cannot be spooled is not captured either: it would have a number, and no place.
                frame = camera.read(self._patience(stop)) if self._outage.why is None else None
                if frame is not None:
                    self._take(frame)
                unsaved = bool(self._batch) or self._outage.why is not None
                if unsaved and time.monotonic() - self._committed_at >= self._config.spool.commit_seconds:
                    self._commit(spool, uplink)
                self._tick(spool, uplink, camera)
        except SourceError:
            # A signal to the whole group ends our capture too, and a little sooner.
            if not stop.wait(_SIGNAL_SECONDS):
                raise
        finally:
            if uplink.failure is None:
                self._batch.extend(self._encoder.take_passed(all_of_them=True))
                self._commit(spool, uplink)
                self._commit_at_last(spool, uplink, stop)
        log.info("captured %d frames", self._captured)

    def _patience(self, stop: Event) -> float:
        """Seconds to wait for a frame: short where a batch waits for the disk, or `stop` is heard by looking only."""
        if self._batch or self._around.feed is not None or not descriptors(stop):
            return _WAIT_SECONDS
        return _IDLE_SECONDS if self._rate is None else _RATE_SECONDS

    def _commit_at_last(self, spool: Spool, uplink: Uplink, stop: Event) -> None:
        """Wait for a spool that another process holds; when told to stop, not for ever. Raises StoreBusy."""
        attempts = 0
        while self._outage.why is not None:
            if stop.is_set():
                attempts += 1
                if attempts > _LAST_COMMITS:
                    raise StoreBusy(f"{len(self._batch)} frames are lost: {self._outage.why}")
            self._commit(spool, uplink)

    def _take(self, captured: Frame) -> None:
        captured = self._dated(captured)
        self._captured += 1
        before = self._encoder.next_seq
        self._last_frame_ns = captured.captured_ns
        self._source_lag_ns = (
            None if captured.source_ns is None else captured.captured_ns - captured.source_ns
        )
        # Behind this line nothing has seen what a privacy mask hides, but for a copy that the settings ask for.
        frame = self._masked(captured)
        reason: PassedReason | None = "unmasked" if frame is None else self._why_pass_over(frame)
        if frame is None:
            self._encoder.withhold()
            self._passed["unmasked"] += 1
        elif reason is None:
            began = time.perf_counter()
            encoded = self._encode(frame)
            seconds = time.perf_counter() - began
            metrics.measure("encode_seconds", seconds, self._config.edge_id)
            times = {"captured_ns": frame.captured_ns, "source_ns": frame.source_ns}
            step("encoded", self._config.edge_id, self.boot_id, encoded.info.seq, **times)
            tracing.captured(self._config.edge_id, self.boot_id, encoded.info.seq, frame.captured_ns, seconds)
            self._gate.sent()
            self._batch.extend(self._encoder.take_passed())
            self._batch.append(encoded)
            if (why := encoded.too_large(self._config.spool.max_bytes)) is not None:
                log.warning("%s; lower source.resize or the quality", why)
                self._too_large += 1
            self._bytes_base += len(encoded.base)
            self._bytes_enhancement += len(encoded.enhancement)
        else:
            self._encoder.pass_over(frame, reason)
            self._passed[reason] += 1
        if captured.place is not None:
            self._place.took(captured.place)
        if self._encoder.next_seq > before:  # one that is thinned out of a video group has no number yet
            self._note(captured, frame, self._encoder.next_seq - 1)

    def _note(self, captured: Frame, masked: Frame | None, seq: int) -> None:
        """Keep the place of a frame that has its number, and its picture where the settings ask for that."""
        if captured.place is not None:
            self._places.append(Taken(seq, captured.place))
        kept = masked if self._config.regions.mask_local else captured
        if self._config.source.record_dir is None or kept is None:
            return
        try:
            record(self._config.source.record_dir, f"{self.boot_id}-{seq:08d}", kept)
        except (DiskFull, Unwritable) as error:
            self._complaints.warning("record", f"a frame is not recorded: {error}", time.monotonic())

    def _dated(self, captured: Frame) -> Frame:
        """The frame with a time that a packet can carry: what a source says of it may be anything."""
        if 0 <= captured.captured_ns <= MAX_NS:
            return captured
        text = f"a frame is said to be taken {captured.captured_ns} ns after 1970; it counts as taken now"
        self._complaints.warning("time", text, time.monotonic())
        return replace(captured, captured_ns=min(max(0, time.time_ns()), MAX_NS))

    def _masked(self, captured: Frame) -> Frame | None:
        """The frame with all masks filled; None where they cannot be made, and so no part of it may pass."""
        try:
            return replace(captured, image=self._masks.hide(captured.image))
        except MaskFailed as error:
            self._complaints.warning("masks", str(error), time.monotonic())
            return None

    def _encode(self, frame: Frame) -> SpooledFrame:
        if self._rate is None:
            return self._encoder.encode(frame)
        self._encoder.base_quality = self._rate.quality
        encoded = self._encoder.encode(frame)
        first = encoded.info.key_seq is None and self._encoder.has_deltas
        self._rate.coded(len(encoded.base), first=first, now=time.monotonic())
        return encoded

    def _why_pass_over(self, frame: Frame) -> PassedReason | None:
        """Why a frame is not coded, if it is not."""
        watched = self._regions.watched(*frame.image.shape[:2])
        if self._gate.is_idle(frame.image, frame.captured_ns / 1e9, watched):
            return "idle"
        if self._rate is not None and not self._rate.is_coded(time.monotonic()):
            return "thinned"
        return None

    def _keep_to_rate(self, spool: Spool, uplink: Uplink, camera: Shutter, now: float) -> None:
        """Tell the rate control how the link does, now and then, and do what it says."""
        if self._rate is None or now < self._rate_at:
            return
        self._rate_at = now + _RATE_SECONDS
        for line in self._rate.news():
            log.warning("%s", line)
        if self._link is not None and self._link.is_exhausted:
            return  # nothing goes before the next day or month: frames are coded as they were last, and wait
        if uplink.state != "up" or camera.state == "ended":
            return  # the gateway is away: frames are coded as before; or nothing newer comes that could go first
        frames, base_bytes = spool.waiting
        overhead = self._rate.overhead_bytes
        self._rate.link(uplink.link_rate, base_bytes + frames * overhead, now)
        if (surplus := self._rate.surplus()) > 0:
            self._give_up(spool, surplus, overhead)

    def _give_up(self, spool: Spool, link_bytes: int, overhead_bytes: int) -> None:
        self._drop(
            lambda: spool.give_up(link_bytes, time.time_ns(), overhead_bytes=overhead_bytes),
            f"that waited for more than {self._config.rate.behind_seconds:g} s of the link: newer ones go first",
        )

    def _let_age(self, spool: Spool, now: float) -> None:
        """What outlives its time goes also while nothing is spooled, as in a pause, and behind the last frame."""
        if now < self._age_at or self._outage.why is not None:
            return
        self._age_at = now + _AGE_SECONDS
        self._drop(
            lambda: spool.age(time.time_ns()),
            f"that were not delivered for {self._config.spool.max_age_seconds:g} s",
        )

    def _drop(self, drop: Callable[[], int], which: str) -> None:
        """Let the spool give up frames, under tombstones; a spool that cannot now does it the next time."""
        try:
            dropped = drop()
        except (DiskFull, StoreBusy) as error:
            log.debug("nothing is given up now: %s", error)
            return
        if dropped:
            self._tombstoned += dropped
            self._encoder.end_group()
            log.warning("%d frames are given up %s", dropped, which)

    def _commit(self, spool: Spool, uplink: Uplink) -> None:
        if self._batch or self._unspooled is not None:
            self._spool_batch(spool, uplink)
        else:
            self._spool_is_back()
        self._committed_at = time.monotonic()
        self._tell_of_drops(self._committed_at)

    def _spool_batch(self, spool: Spool, uplink: Uplink) -> None:
        """Hand the batch to the spool. What fails leaves it here: what is put later would else leave a hole."""
        batch = self._batch
        last = batch[-1].last_seq if batch else -1
        try:
            self._place.about_to_spool([taken for taken in self._places if taken.seq <= last])
            dropped = spool.put(batch, time.time_ns(), before=self._unspooled)
        except DiskFull as error:
            self._lose(batch, error)
        except StoreBusy as error:
            self._wait_for_spool(error)
            return
        else:
            self._unspooled = None
            self._spooled += sum(isinstance(item, SpooledFrame) for item in batch)
            self._tombstoned += dropped
            self._dropped_untold += max(0, dropped - self._too_large)
            self._too_large = 0
            if dropped:
                self._encoder.end_group()  # what is missing may be of the group at hand
            uplink.wake()
            self._spool_is_back()
        self._batch = []
        self._places = [taken for taken in self._places if taken.seq > last]

    def _tell_of_drops(self, now: float) -> None:
        if self._dropped_untold and now - self._dropped_told_at >= _DROPPED_SECONDS:
            log.warning("the spool is full: %d undelivered frames dropped", self._dropped_untold)
            self._dropped_untold, self._dropped_told_at = 0, now

    def _lose(self, batch: list[Spoolable], error: DiskFull) -> None:
        """There is no room even for a tombstone; it is made once there is."""
        if not batch:
            return
        if self._unspooled is None:
            log.error("frames are lost from %d on: %s", batch[0].first_seq, error)
        keys = [frame.needed_seq for frame in batch if frame.needed_seq is not None]
        self._encoder.end_group()
        lost = UnspooledTombstone(batch[0].first_seq, batch[-1].last_seq, keys[-1] if keys else None)
        self._unspooled = lost if self._unspooled is None else self._unspooled.followed_by(lost)
        self._tombstoned += sum(isinstance(item, SpooledFrame) for item in batch)

    def _wait_for_delivery(self, spool: Spool, uplink: Uplink, camera: Shutter, stop: Event) -> None:
        """Keep delivering and answering: for ever, or until all is safe and the lingering is over."""
        safe_at: float | None = None
        while not stop.is_set():
            now = time.monotonic()
            if self._unspooled is not None:
                self._commit(spool, uplink)
            if safe_at is None and self._unspooled is None and self._all_is_safe(spool):
                safe_at = now
            done = safe_at is not None and now - safe_at >= self._config.linger_seconds
            if self._config.exit_when_acknowledged and done:
                self._place.forget()
                return
            self._tick(spool, uplink, camera)
            stop.wait(_WAIT_SECONDS if self._config.exit_when_acknowledged else _IDLE_SECONDS)

    def _all_is_safe(self, spool: Spool) -> bool:
        try:
            waiting = spool.undelivered_boots()
        except StoreBusy as error:
            self._wait_for_spool(error)
            return False
        self._spool_is_back()
        return not waiting

    def _tick(self, spool: Spool, uplink: Uplink, camera: Shutter) -> None:
        """Notice a dead uplink, and write the status when its time has come."""
        if uplink.failure is not None:
            raise uplink.failure
        if not uplink.is_alive():
            raise LinkError("the uplink thread died, see the messages above")
        self._tell_progress(uplink)
        trouble = "" if camera.trouble is None else str(camera.trouble)
        uplink.doing = Doing(camera.state, self._encoder.model, trouble)
        uplink.rest(camera.rest.link)
        uplink.hurry(camera.state != "running")  # no frame comes that others could wait for
        if camera.is_delivering:
            camera.is_delivered = not self._batch and self._all_is_safe(spool)
        if self._link is not None:
            self._link.keep()
        self._keep_to_rate(spool, uplink, camera, time.monotonic())
        self._let_age(spool, time.monotonic())
        said = (self._captured, self._tombstoned, uplink.acknowledged, uplink.enhancement_bytes_sent)
        now = time.monotonic()
        if self._telling_times.is_due((*said, uplink.state, camera.state, camera.trouble), now):
            self._count(spool, now)
            self._write_status(spool, uplink, camera)

    def _tell_progress(self, uplink: Uplink) -> None:
        """Both halves must go on: this loop has come around, and the uplink takes turns.

        Frames may be an hour apart; that the capture lives is the camera's business, which ends what stalls.
        """
        if uplink.turns > self._turns_seen:
            self._turns_seen = uplink.turns
            self._watchdog.heartbeat()

    def _count(self, spool: Spool, now: float) -> None:
        """Count what the spool holds, unless that has just been done and took long."""
        if now < self._count_at or self._outage.why is not None:
            return
        began = time.monotonic()
        try:
            self._counts = spool.counts()
        except StorageError:
            return  # what was last counted stands; whoever writes says what is wrong
        took = time.monotonic() - began
        self._count_at = began + took / _COUNTING_SHARE

    def _sum_up(self, uplink: Uplink) -> None:
        """What came of this start, in one line."""
        pending = "an unknown number" if self._counts is None else self._counts.undelivered
        log.info(
            "stopped: %d frames captured, %d acknowledged (and %d of earlier starts), %d dropped; %s wait in the spool",
            self._captured,
            uplink.acknowledged - uplink.acknowledged_earlier,
            uplink.acknowledged_earlier,
            self._tombstoned,
            pending,
        )

    def _write_status(self, spool: Spool, uplink: Uplink, camera: Shutter) -> None:
        encoder = self._encoder
        status: dict[str, Any] = {
            "time": instant(time.time_ns()),
            "edge_id": self._config.edge_id,
            "boot_id": self.boot_id,
            "camera": self._config.camera,
            "captured": self._captured,
            "encoded": encoder.next_seq,
            "spooled": self._spooled,
            "acknowledged": uplink.acknowledged - uplink.acknowledged_earlier,
            "acknowledged_earlier": uplink.acknowledged_earlier,
            "tombstoned": self._tombstoned,
            "idle": self._passed["idle"],
            "thinned": self._passed["thinned"],
            "unmasked": self._passed["unmasked"],
            "bytes_base": self._bytes_base,
            "bytes_enhancement_stored": self._bytes_enhancement,
            "bytes_enhancement_sent": uplink.enhancement_bytes_sent,
            "encode_ms": {"p50": encoder.milliseconds(0.5), "p95": encoder.milliseconds(0.95)},
            "encode_fps": encoder.frames_per_second(),
            "source": camera.state,
            "source_error": None if camera.trouble is None else type(camera.trouble).__name__,
            "source_trouble": None if camera.trouble is None else str(camera.trouble),
            "uplink": None if self._link is None else self._link.status(),
            "link": uplink.state,
            "link_kbps": None if self._rate is None else round(uplink.link_rate * 8 / 1000, 1),
            "base_quality": encoder.base_quality,
            "clock_offset_seconds": uplink.clock_offset_seconds,
            "last_frame": instant(self._last_frame_ns),
            "source_lag_seconds": None
            if self._source_lag_ns is None
            else round(self._source_lag_ns / 1e9, 3),
            "all_boots": counts_of(self._counts),
            "spool_bytes": spool.size_bytes,
            "disk_free_bytes": free_bytes(self._config.data_dir),
            "pid": os.getpid(),
        }
        status["conditions"] = self._telling.tell(status, spool.dropped(), spool.waiting, time.time())
        write_status(self._config.data_dir, status)
