"""The agent of a camera host: capture → encode → spool → uplink, until stopped or done.

The thread that runs `Agent.run` captures and encodes and writes batches to the spool; the uplink has its own
thread; the source has its own process. A frame counts as captured when it reaches the encoder: that is when
it gets its sequence number.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import cv2

from secondlook.edge.camera import Camera, Frame
from secondlook.edge.config import EdgeConfig
from secondlook.edge.encode import FrameEncoder
from secondlook.edge.place import PlaceKeeper, Taken
from secondlook.edge.spool import Spool
from secondlook.edge.spoolrows import SpooledFrame, UnspooledTombstone
from secondlook.edge.uplink import AgentIdentity, Uplink
from secondlook.shared.errors import DiskFull, LinkError, StoreBusy
from secondlook.shared.files import storage_error, write_atomically
from secondlook.shared.packetfields import MAX_BASE_BYTES, MAX_ENHANCEMENT_BYTES
from secondlook.shared.sqlite import make_folder
from secondlook.shared.watchdog import Watchdog

if TYPE_CHECKING:
    from secondlook.shared.layers import LayeredCodec

log = logging.getLogger(__name__)

_STATUS_SECONDS = 1.0
_WAIT_SECONDS = 0.1


class Agent:
    """One start of the agent: a boot id of its own, frames numbered from 0."""

    def __init__(self, config: EdgeConfig, codec: LayeredCodec) -> None:
        """Opens nothing yet; `run` does."""
        self.boot_id = secrets.token_hex(16)
        self._config = config
        self._encoder = FrameEncoder(codec, config.codec)
        self._batch: list[SpooledFrame] = []  # encoded, not yet on disk
        self._places: list[Taken] = []  # of the batch, in a source that can be read on
        self._too_large = 0  # frames of the batch that no spool takes
        self._place = PlaceKeeper(config.data_dir, config.source, self.boot_id)
        self._unspooled: UnspooledTombstone | None = None  # what a full disk has cost since the last commit
        self._committed_at = 0.0
        self._status_at = 0.0
        self._captured = self._spooled = self._tombstoned = 0
        self._bytes_base = self._bytes_enhancement = 0
        self._watchdog = Watchdog()
        self._turns_seen = 0  # of the uplink, when progress was last told

    def run(self, stop: Event, watchdog: Watchdog | None = None) -> None:
        """Work until `stop` is set, or until all is delivered if the settings say so; tell `watchdog` of progress.

        :raises SourceError: the source failed for good; what was captured is in the spool
        :raises StorageError: the spool failed, or another agent uses its folder
        :raises KeyRejected: a key file cannot be used
        """
        config = self._config
        if config.source.record_dir is not None:
            make_folder(config.source.record_dir)
        self._watchdog = watchdog or self._watchdog
        with self._open_parts() as (spool, uplink, camera):
            self._watchdog.ready()
            self._capture(spool, uplink, camera, stop)
            camera.close()
            self._wait_for_delivery(spool, uplink, camera, stop)

    @contextmanager
    def _open_parts(self) -> Iterator[tuple[Spool, Uplink, Camera]]:
        config = self._config
        rng = random.Random(self.boot_id)
        with _only_agent(config.data_dir):
            spool = Spool(config.data_dir, config.spool, self.boot_id, time.time_ns())
            try:
                identity = AgentIdentity(config.edge_id, self.boot_id, config.camera)
                uplink = Uplink(config.link, identity, spool, rng)
                camera = Camera(config.source, rng, self._place.resume(spool.next_seq))
                uplink.start()
                try:
                    log.info("boot %s of %s", self.boot_id, config.edge_id)
                    yield spool, uplink, camera
                finally:
                    camera.close()
                    uplink.stop()
                    self._write_status(uplink, camera)
            finally:
                spool.close()

    def _capture(self, spool: Spool, uplink: Uplink, camera: Camera, stop: Event) -> None:
        """Capture until told to stop, enough frames are taken, or the source ends."""
        limit = self._config.source.frames
        try:
            while not (stop.is_set() or camera.state == "ended" or self._captured == limit):
                frame = camera.read(_WAIT_SECONDS)
                if frame is not None:
                    self._take(frame)
                if self._batch and time.monotonic() - self._committed_at >= self._config.spool.commit_seconds:
                    self._commit(spool, uplink)
                self._tick(uplink, camera)
        finally:
            if uplink.failure is None:
                self._commit(spool, uplink)
        log.info("captured %d frames", self._captured)

    def _take(self, frame: Frame) -> None:
        seq = self._encoder.next_seq
        self._captured += 1
        if self._config.source.record_dir is not None:
            _record(self._config.source.record_dir / f"{self.boot_id}-{seq:08d}.png", frame)
        encoded = self._encoder.encode(frame)
        self._too_large += self._is_too_large(encoded)
        if frame.place is not None:
            self._places.append(Taken(seq, frame.place))
        self._batch.append(encoded)
        self._bytes_base += len(encoded.base)
        self._bytes_enhancement += len(encoded.enhancement)

    def _is_too_large(self, frame: SpooledFrame) -> bool:
        """Say why a frame goes under a tombstone that no spool and no packet can hold."""
        limits = (
            ("base layer", len(frame.base), MAX_BASE_BYTES),
            ("enhancement", len(frame.enhancement), MAX_ENHANCEMENT_BYTES),
            ("two layers", frame.size_bytes, self._config.spool.max_bytes),
        )
        for what, size, most in limits:
            if size > most:
                log.warning(
                    "frame %d is too large (%dx%d): %s of %d bytes, at most %d are possible; lower source.resize or"
                    " the quality",
                    frame.seq,
                    frame.width,
                    frame.height,
                    what,
                    size,
                    most,
                )
                return True
        return False

    def _commit(self, spool: Spool, uplink: Uplink) -> None:
        if self._batch or self._unspooled is not None:
            batch, self._batch = self._batch, []
            places, self._places = self._places, []
            self._place.about_to_spool(places)
            try:
                dropped = spool.put(batch, time.time_ns(), before=self._unspooled)
            except DiskFull as error:
                self._lose(batch, error)
            else:
                self._unspooled = None
                self._spooled += len(batch)
                self._tombstoned += dropped
                if dropped > self._too_large:
                    log.warning(
                        "%d undelivered frames dropped: the spool is full, or they were too old, or deltas of such",
                        dropped - self._too_large,
                    )
                self._too_large = 0
                uplink.wake()
        self._committed_at = time.monotonic()

    def _lose(self, batch: list[SpooledFrame], error: DiskFull) -> None:
        """There is no room even for a tombstone; it is made once there is."""
        if not batch:
            return
        if self._unspooled is None:
            log.error("frames are lost from %d on: %s", batch[0].seq, error)
        keys = [frame.seq for frame in batch if frame.key_seq is None]
        lost = UnspooledTombstone(batch[0].seq, batch[-1].seq, keys[-1] if keys else None)
        self._unspooled = lost if self._unspooled is None else self._unspooled.followed_by(lost)
        self._tombstoned += len(batch)

    def _wait_for_delivery(self, spool: Spool, uplink: Uplink, camera: Camera, stop: Event) -> None:
        """Keep delivering and answering: for ever, or until all is safe and the lingering is over."""
        safe_at: float | None = None
        while not stop.is_set():
            now = time.monotonic()
            if self._unspooled is not None:
                self._commit(spool, uplink)
            if safe_at is None and self._unspooled is None and not spool.undelivered_boots():
                safe_at = now
            done = safe_at is not None and now - safe_at >= self._config.linger_seconds
            if self._config.exit_when_acknowledged and done:
                self._place.forget()
                return
            self._tick(uplink, camera)
            stop.wait(_WAIT_SECONDS)

    def _tick(self, uplink: Uplink, camera: Camera) -> None:
        """Notice a dead uplink, and write the status when its time has come."""
        if uplink.failure is not None:
            raise uplink.failure
        if not uplink.is_alive():
            raise LinkError("the uplink thread died, see the messages above")
        self._tell_progress(uplink)
        if time.monotonic() - self._status_at >= _STATUS_SECONDS:
            self._status_at = time.monotonic()
            self._write_status(uplink, camera)

    def _tell_progress(self, uplink: Uplink) -> None:
        """Both halves must go on: this loop has come around, and the uplink takes turns.

        Frames may be an hour apart; that the capture lives is the camera's business, which ends what stalls.
        """
        if uplink.turns > self._turns_seen:
            self._turns_seen = uplink.turns
            self._watchdog.heartbeat()

    def _write_status(self, uplink: Uplink, camera: Camera) -> None:
        encoder = self._encoder
        status = {
            "edge_id": self._config.edge_id,
            "boot_id": self.boot_id,
            "camera": self._config.camera,
            "captured": self._captured,
            "encoded": encoder.next_seq,
            "spooled": self._spooled,
            "acknowledged": uplink.acknowledged,
            "tombstoned": self._tombstoned,
            "bytes_base": self._bytes_base,
            "bytes_enhancement_stored": self._bytes_enhancement,
            "bytes_enhancement_sent": uplink.enhancement_bytes_sent,
            "encode_ms": {"p50": encoder.milliseconds(0.5), "p95": encoder.milliseconds(0.95)},
            "encode_fps": encoder.frames_per_second(),
            "source": camera.state,
            "link": uplink.state,
            "pid": os.getpid(),
        }
        try:
            write_atomically(self._config.data_dir / "status.json", json.dumps(status, indent=1).encode())
        except DiskFull as error:
            log.warning("the status is out of date: %s", error)


@contextmanager
def _only_agent(folder: Path) -> Iterator[None]:
    """Hold the lock that keeps a second agent out of the folder. The system drops it if we are killed."""
    make_folder(folder)
    path = folder / "agent.lock"
    try:
        stream = path.open("w")
    except OSError as error:
        raise storage_error(path, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreBusy(f"{folder} is in use by another edge agent") from error
        yield


def _record(path: Path, frame: Frame) -> None:
    """Keep a captured frame as PNG, compressed little but fast. Raises DiskFull or Unwritable."""
    image = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    write_atomically(path, data.tobytes())
