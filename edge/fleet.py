"""Several cameras in one process: an agent each, in a thread of its own; models are loaded once.

A camera that fails is started again after a pause that doubles, and one that hangs is named; neither concerns the
others. What an agent may hang in, the source, is a process of its own besides. What remains common to all is this
process: who kills it stops them all, and what was spooled is not lost.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Literal

from secondlook.edge.agent import Agent, Surroundings
from secondlook.edge.backoff import Backoff
from secondlook.edge.config import CodecConfig, EdgeConfig
from secondlook.edge.link.hostlink import HostLink
from secondlook.edge.site import Site
from secondlook.edge.telling import TellingTimes
from secondlook.shared.errors import SecondlookError, StorageError
from secondlook.shared.faults import unforeseen_named
from secondlook.shared.files import keep_private, only_process, write_atomically
from secondlook.shared.layers import Encoded, Key, LayeredCodec, Layers, U8Image
from secondlook.shared.stop import Stop
from secondlook.shared.watchdog import Watchdog

log = logging.getLogger(__name__)

HOST_FILE = "host.json"
_TURN_SECONDS = 1.0
_HANGS_SECONDS = 60.0  # without progress
_STOP_SECONDS = 20.0  # for an agent to end
_PAUSE_SECONDS = (2.0, 300.0)  # before a camera that failed is started again: the first one, and the longest
_WELL_SECONDS = 120.0  # of work after which the next pause is the first one again

State = Literal["running", "failed", "hangs", "done"]


class OneAtATime:
    """A codec that several agents use, each waiting for the others: it serves one thread at a time."""

    def __init__(self, codec: LayeredCodec) -> None:
        self._codec = codec
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._codec.name

    @property
    def model_hash(self) -> bytes:
        return self._codec.model_hash

    def encode(
        self,
        image: U8Image,
        *,
        base_quality: int,
        quality: int,
        sequence: int = 0,
        key: Key | None = None,
        change_levels: float | None = None,
    ) -> Encoded:
        more = {} if change_levels is None else {"change_levels": change_levels}
        with self._lock:
            return self._codec.encode(
                image, base_quality=base_quality, quality=quality, sequence=sequence, key=key, **more
            )

    def decode_base(self, base: bytes, *, key: bytes | None = None) -> U8Image:
        with self._lock:
            return self._codec.decode_base(base, key=key)

    def decode_enhanced(self, base: bytes, enhancement: bytes, *, key: Layers | None = None) -> U8Image:
        with self._lock:
            return self._codec.decode_enhanced(base, enhancement, key=key)


class Codecs:
    """Codecs by model, threads and device, opened once. Use from any thread."""

    def __init__(self, open_codec: Callable[[CodecConfig], LayeredCodec]) -> None:
        self._open = open_codec
        self._codecs: dict[tuple[object, ...], OneAtATime] = {}
        self._lock = threading.Lock()

    def get(self, config: CodecConfig) -> LayeredCodec:
        """Raises ModelNotFound, ModelCorrupt, DeviceUnavailable."""
        which = (config.model, config.threads, config.device)
        with self._lock:
            if which not in self._codecs:
                self._codecs[which] = OneAtATime(self._open(config))
            return self._codecs[which]


@dataclass
class _Member:
    """One camera: its settings, and the agent that serves it now."""

    config: EdgeConfig
    backoff: Backoff
    stop: Event = field(default_factory=Stop)
    thread: threading.Thread | None = None
    watchdog: Watchdog = field(default_factory=Watchdog)
    state: State = "running"
    failure: Exception | None = None  # of the latest run
    began_at: float = 0.0
    again_at: float = 0.0

    def status(self) -> dict[str, object]:
        return {"state": self.state, "why": None if self.failure is None else str(self.failure)}


class Fleet:
    """The cameras of one host. `run` belongs to one thread."""

    def __init__(
        self,
        site: Site,
        codecs: Codecs,
        reread: Callable[[], Site],
        begin: Callable[[EdgeConfig, Surroundings, Event, Watchdog], None] | None = None,
    ) -> None:
        """`reread` reads the configuration again, or raises ConfigError. `begin` runs one agent until it ends."""
        self._site = site
        self._codecs = codecs
        self._reread = reread
        self._begin = begin or self._run_agent
        self._link = _link_of(site)
        self._members: dict[str, _Member] = {}
        self._telling_times = TellingTimes()

    def run(self, stop: Event, reload: Event, watchdog: Watchdog) -> None:
        """Work until `stop` is set, or until every camera is done. `reload` asks to read the configuration again.

        :raises StorageError: another process uses the folder of this host
        """
        with only_process(self._site.data_dir, "host.lock", "edge host"):
            keep_private(self._site.data_dir)
            self._start_missing(time.monotonic())
            watchdog.ready()
            try:
                while not stop.is_set() and not self._is_done():
                    if reload.is_set():
                        reload.clear()
                        self._reload()
                    self._look_after(time.monotonic(), watchdog)
                    stop.wait(_TURN_SECONDS)
            finally:
                names = list(self._members)
                self._stop(names)
                self._write_status({name: {"state": "stopped", "why": None} for name in names})

    def states(self) -> dict[str, State]:
        """By edge id, in the order of the file."""
        return {edge_id: member.state for edge_id, member in self._members.items()}

    def _is_done(self) -> bool:
        return all(member.state == "done" for member in self._members.values())

    def _run_agent(self, config: EdgeConfig, around: Surroundings, stop: Event, watchdog: Watchdog) -> None:
        Agent(config, self._codecs.get(config.codec), around).run(stop, watchdog)

    def _start_missing(self, now: float) -> None:
        for config in self._site.cameras:
            if config.edge_id not in self._members:
                backoff = Backoff(*_PAUSE_SECONDS, random.Random())
                self._members[config.edge_id] = member = _Member(config, backoff)
                self._start(member, now)

    def _start(self, member: _Member, now: float) -> None:
        member.state, member.began_at, member.watchdog = "running", now, Watchdog()
        member.failure = None
        member.thread = threading.Thread(
            target=self._live, args=(member,), name=member.config.edge_id, daemon=True
        )
        member.thread.start()

    def _live(self, member: _Member) -> None:
        """Body of a camera's thread."""
        around = Surroundings(link=self._link, is_one_of_many=True)
        try:
            with unforeseen_named(SecondlookError, OSError):
                self._begin(member.config, around, member.stop, member.watchdog)
        except (SecondlookError, OSError) as error:
            member.failure = error

    def _look_after(self, now: float, watchdog: Watchdog) -> None:
        for edge_id, member in self._members.items():
            self._look_at(edge_id, member, now)
        # One camera that hangs is no reason to stop the others; when all do, somebody else has to help.
        if any(member.state != "hangs" for member in self._members.values()):
            watchdog.heartbeat()
        if self._telling_times.is_due(self.states(), now):
            self._write_status()

    def _look_at(self, edge_id: str, member: _Member, now: float) -> None:
        assert member.thread is not None
        if member.thread.is_alive():
            hangs = member.watchdog.has_started and member.watchdog.age_seconds > _HANGS_SECONDS
            if hangs and member.state != "hangs":
                log.error("camera %s hangs: no progress for %.0f s", edge_id, member.watchdog.age_seconds)
            elif member.state == "hangs" and not hangs:
                log.info("camera %s goes on", edge_id)
            member.state = "hangs" if hangs else "running"
        elif member.state in ("running", "hangs"):
            if member.failure is None:
                member.state = "done"
                return
            if now - member.began_at >= _WELL_SECONDS:
                member.backoff.reset()
            pause = member.backoff.next()
            member.state, member.again_at = "failed", now + pause
            log.error("camera %s failed, and begins again in %.0f s: %s", edge_id, pause, member.failure)
        elif member.state == "failed" and now >= member.again_at:
            self._start(member, now)

    def _reload(self) -> None:
        """Cameras that are new, gone or changed begin, end or begin anew; the others do not notice."""
        try:
            with unforeseen_named(SecondlookError):
                site = self._reread()
        except SecondlookError as error:
            log.error("the configuration is not taken, and all goes on as before: %s", error)
            return
        if site.data_dir != self._site.data_dir or not site.has_tables:
            log.error("the configuration is not taken: data_dir and the kind of configuration need a restart")
            return
        wanted = {config.edge_id: config for config in site.cameras}
        gone = [edge_id for edge_id, member in self._members.items() if wanted.get(edge_id) != member.config]
        new = [edge_id for edge_id in wanted if edge_id not in self._members]
        self._stop(gone)
        if site.host.uplink != self._site.host.uplink:
            self._link = _link_of(site)
        self._site = site
        self._start_missing(time.monotonic())
        self._members = {edge_id: self._members[edge_id] for edge_id in wanted}
        log.info(
            "the configuration is taken: %d cameras, %d new, %d changed, %d gone",
            len(wanted),
            len(new),
            sum(edge_id in wanted for edge_id in gone),
            sum(edge_id not in wanted for edge_id in gone),
        )

    def _stop(self, edge_ids: list[str]) -> None:
        """End these cameras, all at once, and forget them."""
        members = {edge_id: self._members.pop(edge_id) for edge_id in edge_ids}
        for member in members.values():
            member.stop.set()
        until = time.monotonic() + _STOP_SECONDS
        for edge_id, member in members.items():
            if member.thread is not None:
                member.thread.join(max(0.0, until - time.monotonic()))
                if member.thread.is_alive():
                    log.error("camera %s does not end, and is left alone", edge_id)

    def _write_status(self, stopped: dict[str, dict[str, object]] | None = None) -> None:
        running = {edge_id: member.status() for edge_id, member in self._members.items()}
        status = {
            "time": time.time(),
            "cameras": stopped or running,
            "uplink": None if self._link is None else self._link.status(),
        }
        try:
            path, data = self._site.data_dir / HOST_FILE, json.dumps(status, indent=1).encode()
            write_atomically(path, data, synced=False)
        except StorageError as error:
            log.warning("the status is out of date: %s", error)


def _link_of(site: Site) -> HostLink | None:
    uplink = site.host.uplink
    return HostLink(uplink, site.data_dir) if uplink.is_bounded else None
