"""The process that tells: one at a time for a catalogue, a thread for each sink.

A sink's turn is: pass what has happened since its cursor into the queue of its messages, in one transaction; send what
is due. Where its receiver is away it waits, the longer the longer that lasts, and its messages with it; nothing of one
sink waits for another.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy import exists, or_, select

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import deliveries
from secondlook.cloud.catalogue.feed import Cursor, Event, look, newest
from secondlook.cloud.catalogue.hosts import followed
from secondlook.cloud.notify.messages import camera_message, cooldown_key, message_of, pause_seconds
from secondlook.cloud.notify.sinks import Sink
from secondlook.cloud.receivers import NotifyConfig
from secondlook.cloud.station.api.cameras import CAMERA, camera_changes
from secondlook.shared.cooldown import Cooldown
from secondlook.shared.errors import TRANSIENT_ERRORS, DeliveryFailed
from secondlook.shared.outage import LimitedLog, Outage

log = logging.getLogger(__name__)

_NAME = "notify"
_LEASE_SECONDS = 30.0
_EVENTS_AT_ONCE = 500
_SENT_AT_ONCE = 50
_BREATH_SECONDS = 0.05
_NANOSECONDS = 1_000_000_000


class Turns:
    """The turns of one sink."""

    def __init__(
        self,
        catalogue: cat.Catalogue,
        sink: Sink,
        config: NotifyConfig,
        *,
        stop: threading.Event,
        now_ns: Callable[[], int] = time.time_ns,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        self._catalogue, self._sink, self._config = catalogue, sink, config
        self._stop, self._now_ns, self._heartbeat = stop, now_ns, heartbeat
        self._rests_until_ns = 0  # its receiver did not answer: all of its messages wait
        self._failures = 0  # in a row
        self._cooldown = Cooldown(sink.wanted.cooldown_seconds)
        self._log = LimitedLog(log, seconds=60.0)

    def turn(self) -> bool:
        """Pass on and send; whether there is more to do at once. Raises StorageError."""
        more = self._collect()
        return self._send() or more

    def _collect(self) -> bool:
        name, wanted = self._sink.name, self._sink.wanted
        if (
            deliveries.count_waiting(self._catalogue, name, self._config.max_waiting)
            >= self._config.max_waiting
        ):
            self._log.warning("full", f"{name}: {self._config.max_waiting} messages wait", time.monotonic())
            return False  # what happens stays in the catalogue
        before = deliveries.cursor_of(self._catalogue, name)
        now_ns = self._now_ns()
        if before is None:
            # What happened before there was this sink is not told of.
            events: Sequence[Event] = ()
            after, more = str(newest(self._catalogue)), True
        else:
            found = look(self._catalogue, Cursor.parse(before), wanted.interest, limit=_EVENTS_AT_ONCE)
            events, after, more = found.events, str(found.cursor), found.more
        cooldown = self._cooldown.copy()  # it holds once the messages are in the queue
        messages = self._messages(events, cooldown, now_ns)
        noted: dict[str, deliveries.CameraNote] = {}
        if CAMERA in wanted.kinds:
            noted, told = self._cameras(now_ns)
            messages += told
        if (after != before or noted) and deliveries.move_on(
            self._catalogue, name, before, after, messages, noted, now_ns=now_ns
        ):
            self._cooldown = cooldown
        return more

    def _messages(self, events: Sequence[Event], cooldown: Cooldown, now_ns: int) -> list[deliveries.Message]:
        """Of the events that the sink wants to hear of, and has not heard of just now."""
        messages = []
        for event in events:
            if self._sink.wanted.wants(event) and self._is_news(event):
                passed_over = cooldown.take(cooldown_key(event), now_ns / _NANOSECONDS)
                if passed_over is not None:
                    messages.append(message_of(event, passed_over))
        return messages

    def _is_news(self, event: Event) -> bool:
        """Whether a detection is the first of its object that the sink wants to hear of; other events are."""
        wanted, box = self._sink.wanted, event.row
        if not wanted.once_per_object or not isinstance(box, cat.DetectedBox) or box.object_id is None:
            return True
        other = cat.DetectedBox
        earlier = exists().where(
            other.object_id == box.object_id,
            or_(other.frame_id < box.frame_id, (other.frame_id == box.frame_id) & (other.id < box.id)),
            other.score >= wanted.min_score,
        )
        if wanted.labels:
            earlier = earlier.where(other.label.in_(sorted(wanted.labels)))
        with self._catalogue.reading() as session:
            return not session.scalar(select(earlier))

    def _cameras(self, now_ns: int) -> tuple[dict[str, deliveries.CameraNote], list[deliveries.Message]]:
        wanted = self._sink.wanted
        with self._catalogue.reading() as session:
            rows = {row.edge_id: row for row in session.scalars(select(cat.Camera))}
            by_events = followed(session, rows.values(), now_ns=now_ns)
        known = [row for name, row in rows.items() if not wanted.cameras or name in wanted.cameras]
        noted = deliveries.cameras_noted(self._catalogue, self._sink.name)
        changed = camera_changes(
            known,
            noted,
            silent_seconds=self._config.silent_seconds,
            now_ns=now_ns,
            followed=by_events,
        )
        told = [camera_message(rows[name], note) for name, note in changed.items()]
        return changed, told

    def _send(self) -> bool:
        if self._now_ns() < self._rests_until_ns:
            return False
        due = deliveries.due_deliveries(
            self._catalogue, self._sink.name, now_ns=self._now_ns(), limit=_SENT_AT_ONCE
        )
        for delivery in due:
            if self._stop.is_set():
                return False
            self._heartbeat()
            try:
                self._sink.send(delivery.message)
            except DeliveryFailed as error:
                self._put_off(delivery, str(error))
                return False
            self._failures = 0
            deliveries.end_delivery(self._catalogue, delivery.id)
        return len(due) == _SENT_AT_ONCE

    def _put_off(self, delivery: deliveries.Delivery, error: str) -> None:
        """The message waits by its own count, the sink by how often it failed in a row: one bad message among good
        ones holds them up for a moment only."""
        now_ns = self._now_ns()
        chance = random.random()
        next_ns = now_ns + int(pause_seconds(delivery.attempts, chance) * _NANOSECONDS)
        self._rests_until_ns = now_ns + int(pause_seconds(self._failures, chance) * _NANOSECONDS)
        self._failures += 1
        given_up = now_ns - delivery.created_ns >= self._config.give_up_hours * 3600 * _NANOSECONDS
        deliveries.put_off_delivery(
            self._catalogue, delivery.id, error, next_ns=next_ns, dead_ns=now_ns if given_up else None
        )
        if given_up:
            log.error(
                "%s: gave up message %s (%s): %s", delivery.sink, delivery.id, delivery.message.kind, error
            )
            gone = deliveries.trim_dead(self._catalogue, delivery.sink, self._config.max_dead)
            if gone:
                log.error("%s: the dead-letter list is full; threw away the %d oldest", delivery.sink, gone)
        else:
            self._log.warning("failed", f"{delivery.sink}: message {delivery.id}: {error}", time.monotonic())


class Notifier:
    """Gives every sink its turns until `stop` is set, while this process holds the lease."""

    def __init__(
        self,
        catalogue: cat.Catalogue,
        sinks: Sequence[Sink],
        config: NotifyConfig,
        *,
        owner: str,
        stop: threading.Event,
        now_ns: Callable[[], int] = time.time_ns,
        heartbeat: Callable[[], None] = lambda: None,
        waits: Callable[[str | None], None] = lambda _why: None,
    ) -> None:
        self._catalogue, self._config, self._owner, self._stop = catalogue, config, owner, stop
        self._now_ns, self._heartbeat, self._waits = now_ns, heartbeat, waits
        self._turns = [
            Turns(catalogue, sink, config, stop=stop, now_ns=now_ns, heartbeat=heartbeat) for sink in sinks
        ]
        self._outage = Outage(log)
        self._leased_until = float("-inf")

    def run(self) -> None:
        """Until `stop` is set."""
        with ThreadPoolExecutor(max(len(self._turns), 1)) as pool:
            at_work: dict[Turns, Future[bool]] = {}
            again_at = dict.fromkeys(self._turns, 0.0)
            while not self._stop.is_set():
                try:
                    may_send = self._has_lease()
                    for turns, future in list(at_work.items()):
                        if future.done():
                            del at_work[turns]
                            pause = 0.0 if future.result() else self._config.interval_seconds
                            again_at[turns] = time.monotonic() + pause
                            self._outage.over(time.monotonic())
                    for turns in self._turns:
                        if may_send and turns not in at_work and time.monotonic() >= again_at[turns]:
                            at_work[turns] = pool.submit(turns.turn)
                except TRANSIENT_ERRORS as error:
                    self._outage.met(error, time.monotonic())
                    again_at = dict.fromkeys(self._turns, time.monotonic() + 1.0)
                    self._stop.wait(1.0)
                self._waits(self._outage.why)
                self._heartbeat()
                self._stop.wait(_BREATH_SECONDS)
        if self._leased_until > time.monotonic():
            deliveries.release_sender(self._catalogue, _NAME, self._owner)

    def _has_lease(self) -> bool:
        """Renewed when half of it has passed; another process that holds it is asked again as often."""
        now = time.monotonic()
        if now < self._leased_until - _LEASE_SECONDS / 2:
            return True
        held = deliveries.take_sender(
            self._catalogue, _NAME, self._owner, lease_seconds=_LEASE_SECONDS, now_ns=self._now_ns()
        )
        if held:
            self._leased_until = now + _LEASE_SECONDS
        else:
            self._stop.wait(1.0)
        return held
