"""What an operator must hear of by itself: conditions as a table, each with when it begins and when it is over.

Logic without I/O: whoever has figures hands them in with the time, and hears of what began and what ended. One table
serves the log, the metric, the alert and `secondlook status` alike. A condition begins once its figure has been at or
beyond `begins` for `hold_seconds`, and is over once it has been at or within `ends` for `rest_seconds`: a figure that
swings about one limit says nothing twice. docs/troubleshooting.md has a paragraph for each name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from secondlook.shared.errors import ConfigError
from secondlook.shared.mail import check_addresses
from secondlook.shared.settings import DAY_SECONDS, MAX_BYTES, Seconds, Settings, within

Severity = Literal["warning", "critical"]


@dataclass(frozen=True)
class WatchConfig(Settings):
    """When a process says by itself that something is wrong: in the log, as metric, and in `secondlook status`."""

    # a camera whose host delivers no frame or tombstone for this long is silent; longer than the pause between frames
    silent_seconds: Annotated[float, within(1, 7 * DAY_SECONDS, "seconds")] = 60.0
    queue_seconds: Seconds = 60.0  # the oldest frame may wait for a worker so long
    link_seconds: Seconds = 60.0  # the oldest frame may wait for the link so long while it is up
    clock_seconds: Seconds = 2.0  # clocks of camera host and gateway may differ by so much
    # less is free on the disk of the data folder
    low_disk_bytes: Annotated[int, within(0, MAX_BYTES, "bytes")] = 768 << 20
    # a camera that is well again for less than this is not over it: its coming and going makes one event
    settle_seconds: Seconds = 300.0
    # of policy.max_open_reviews wait for a person
    reviews_share: Annotated[float, within(0.01, 1, "")] = 0.8
    unrefined_seconds: Seconds = 300.0  # the oldest review may wait for a refiner so long
    # posted to as JSON when a condition begins and when it ends, http:// or https://; nothing is posted without it
    webhook: str | None = None
    webhook_secret_file: Path | None = (
        None  # whsec_ and base64, for its owner's eyes alone: signs what is posted
    )
    email: tuple[
        str, ...
    ] = ()  # addresses that get a mail, by the server of [smtp], when one begins and when it ends
    # by webhook and e-mail: one that begins again within so long waits, and is told of if it lasts; 0 = every one
    cooldown_seconds: Annotated[float, within(0, 7 * DAY_SECONDS, "seconds")] = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.webhook is not None and not self.webhook.startswith(("http://", "https://")):
            raise ConfigError(f"webhook {self.webhook!r} does not begin with http:// or https://")
        check_addresses("email", self.email)


@dataclass(frozen=True)
class Condition:
    """One row of the table. It begins above its limit, or, where `ends` is above `begins`, below it."""

    name: str
    severity: Severity
    begins: float
    ends: float
    text: str  # of the log line: {subject} and {value} are filled in
    cure: str
    unit: Literal["seconds", "bytes", "share", "count"] = "seconds"
    hold_seconds: float = 0.0
    rest_seconds: float = 0.0

    def has_begun(self, value: float) -> bool:
        """Whether one figure alone, without its past, is at or beyond the limit."""
        return value <= self.begins if self.ends > self.begins else value >= self.begins

    def is_over(self, value: float) -> bool:
        return value >= self.ends if self.ends > self.begins else value <= self.ends

    def line(self, subject: str, value: float) -> str:
        return self.text.format(subject=subject, value=shown(value, self.unit))


@dataclass(frozen=True)
class Active:
    """A condition that holds now, of one subject: a camera host, a worker, a folder; instants are those handed in."""

    name: str
    subject: str
    severity: Severity
    since: float
    value: float
    text: str
    cure: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Change:
    """A condition has begun, or is over."""

    began: bool
    condition: Active
    seconds: float = 0.0  # that it lasted

    @property
    def line(self) -> str:
        now = self.condition
        return now.text if self.began else f"over after {shown(self.seconds, 'seconds')}: {now.text}"


def conditions(config: WatchConfig) -> dict[str, Condition]:
    """The table, by name."""
    rows = (*_of_camera_hosts(config), *_of_the_site(config), *_of_an_agent(config), *_of_processes())
    return {row.name: row for row in rows}


def _of_camera_hosts(config: WatchConfig) -> tuple[Condition, ...]:
    """What a gateway sees of camera hosts."""
    return (
        Condition(
            "camera-away",
            "critical",
            20.0,
            10.0,
            "camera host {subject} is away: nothing was heard of it for {value}",
            "is the host up, and its agent (systemctl status secondlook-edge)? Its log names link and key",
        ),
        Condition(
            "camera-silent",
            "warning",
            config.silent_seconds,
            config.silent_seconds / 2,
            "camera {subject} is silent: its host is connected and has delivered no frame for {value}",
            "look at `source` and `last_frame` in the host's status.json; `secondlook doctor --edge` tries the camera",
        ),
        Condition(
            "key-refused",
            "critical",
            1.0,
            0.0,
            "{subject} is refused: its key was revoked or has ended",
            "`secondlook keys list` shows it; `secondlook keys rotate` or `keys admit` lets it in",
            unit="count",
        ),
        Condition(
            "clock-off",
            "warning",
            config.clock_seconds,
            config.clock_seconds / 2,
            "the clock of {subject} is {value} off: times of its frames are wrong",
            "let the host follow a time server (chrony, systemd-timesyncd)",
        ),
    )


def _of_the_site(config: WatchConfig) -> tuple[Condition, ...]:
    """What a gateway sees of queue and workers, a station of reviews, and everybody of disks."""
    return (
        Condition(
            "queue-old",
            "warning",
            config.queue_seconds,
            config.queue_seconds / 2,
            "the oldest frame of the queue has waited for {value}: workers are behind or away",
            "start more workers, or have cameras send less (source.fps, [idle])",
            hold_seconds=5.0,
        ),
        Condition(
            "frames-dead",
            "warning",
            1.0,
            0.0,
            "{value} frames were given up after too many attempts",
            "`secondlook queue dead list` says why; then `queue dead requeue` or `purge`",
            unit="count",
        ),
        Condition(
            "worker-away",
            "warning",
            15.0,
            10.0,
            "{subject} is away: nothing was heard of it for {value}",
            "is the process up (systemctl status), and can it reach the gateway? Its key may have ended",
        ),
        Condition(
            "worker-behind",
            "warning",
            1.0,
            0.0,
            "{subject} cannot keep up: {value} frames were stored and not looked at",
            "start more workers, have cameras send less (source.fps, [idle]), or take a faster worker.detector",
            unit="count",
        ),
        Condition(
            "reviews-waiting",
            "warning",
            config.reviews_share,
            config.reviews_share * 0.75,
            "{value} of the reviews that may be open are: people are behind, and the least urgent will be skipped",
            "have them decided, or ask for fewer ([policy])",
            unit="share",
        ),
        Condition(
            "reviews-unrefined",
            "warning",
            config.unrefined_seconds,
            config.unrefined_seconds / 5,
            "the oldest review has waited for a refiner for {value}",
            "is a refiner up (systemctl status 'secondlook-refiner@*')? `secondlook status` shows who is heard",
        ),
        Condition(
            "disk-low",
            "critical",
            float(config.low_disk_bytes),
            max(1.0, config.low_disk_bytes * 1.25),
            "the disk of {subject} is low: {value} are free",
            "give it room, or keep less ([retention], spool.max_bytes)",
            unit="bytes",
        ),
    )


def _of_an_agent(config: WatchConfig) -> tuple[Condition, ...]:
    """What an agent sees of its link, spool and camera."""
    return (
        Condition(
            "link-down",
            "warning",
            15.0,
            1.0,
            "the gateway of {subject} has not been reached for {value}; frames are kept",
            "try `secondlook doctor --edge`: it names network, port and key",
        ),
        Condition(
            "link-slow",
            "warning",
            config.link_seconds,
            config.link_seconds / 3,
            "frames of {subject} wait for the link for {value}: it is slower than its camera, or catches up",
            "give [rate] the link's rate, or send less: docs/thin-links.md",
            hold_seconds=5.0,
        ),
        Condition(
            "spool-filling",
            "critical",
            0.8,
            0.6,
            "the spool of {subject} is {value} full of frames that are not delivered; it will drop frames",
            "mend the link, or give spool.max_bytes room",
            unit="share",
        ),
        Condition(
            "camera-lost",
            "critical",
            20.0,
            1.0,
            "the source of {subject} delivers nothing for {value}",
            "is the camera up, and its address and password right? `secondlook doctor --edge` tries it",
        ),
    )


def _of_processes() -> tuple[Condition, ...]:
    """What `secondlook status` finds for itself, since nobody is there to tell."""
    return (
        Condition(
            "gateway-away",
            "critical",
            1.0,
            0.0,
            "the gateway does not answer at {subject}",
            "is it up (systemctl status secondlook-gateway)? Its log names what it waits for",
            unit="count",
        ),
        Condition(
            "station-away",
            "critical",
            1.0,
            0.0,
            "the station does not answer at {subject}",
            "is it up (systemctl status secondlook-station)? Its log says why it ended",
            unit="count",
        ),
        Condition(
            "retention-late",
            "warning",
            3.0,
            2.0,
            "{subject} has not run for {value} of its intervals: nothing is deleted",
            "is it up (systemctl status secondlook-retention)? Its log says what it waits for",
            unit="count",
        ),
    )


NAMES = tuple(conditions(WatchConfig()))


@dataclass
class _State:
    """Of one condition and subject: since when its figure is beyond, or back within, the limit."""

    beyond_since: float | None = None
    within_since: float | None = None
    active: Active | None = None


@dataclass
class Conditions:
    """What holds now. Instants are seconds of one clock, handed in."""

    table: Mapping[str, Condition]
    _states: dict[tuple[str, str], _State] = field(default_factory=dict)

    def observe(self, name: str, values: Mapping[str, float | None], now: float) -> list[Change]:
        """Take in the figures of one condition, by subject; what began and what ended by that.

        A figure of None is not known, and changes nothing. A subject that is not among them is watched no more, and
        what held of it is over.
        """
        changes = []
        for subject, value in values.items():
            if value is not None:
                change = self._take(self.table[name], subject, value, now)
                if change is not None:
                    changes.append(change)
        gone = [key for key in self._states if key[0] == name and key[1] not in values]
        for key in gone:
            state = self._states.pop(key)
            if state.active is not None:
                changes.append(Change(False, state.active, max(0.0, now - state.active.since)))
        return changes

    def _take(self, row: Condition, subject: str, value: float, now: float) -> Change | None:
        state = self._states.setdefault((row.name, subject), _State())
        if state.active is None:
            if not row.has_begun(value):
                state.beyond_since = None
                return None
            since = state.beyond_since = now if state.beyond_since is None else min(state.beyond_since, now)
            if now - since < row.hold_seconds:
                return None
            state.active, state.within_since = _active(row, subject, value, now), None
            return Change(True, state.active)
        if not row.is_over(value):
            state.within_since = None
            state.active = _active(row, subject, value, state.active.since)
            return None
        within_since = state.within_since = (
            now if state.within_since is None else min(state.within_since, now)
        )
        if now - within_since < row.rest_seconds:
            return None
        ended, state.active, state.beyond_since = state.active, None, None
        return Change(False, ended, max(0.0, now - ended.since))

    @property
    def active(self) -> list[Active]:
        """What holds now, the critical first, and each kind the longest first."""
        held = [state.active for state in self._states.values() if state.active is not None]
        return sorted(held, key=lambda one: (one.severity != "critical", one.since, one.name, one.subject))


def judge(
    table: Mapping[str, Condition], figures: Iterable[tuple[str, str, float | None]], now: float
) -> list[Active]:
    """What figures without a past say, as (name, subject, figure): for a command that looks once."""
    return [
        _active(table[name], subject, value, now)
        for name, subject, value in figures
        if value is not None and table[name].has_begun(value)
    ]


def _active(row: Condition, subject: str, value: float, since: float) -> Active:
    return Active(row.name, subject, row.severity, since, value, row.line(subject, value), row.cure)


def shown(value: float, unit: str) -> str:
    """A figure for people."""
    if unit == "bytes":
        return f"{value / 1e6:.0f} MB" if value < 1e10 else f"{value / 1e9:.1f} GB"
    if unit == "share":
        return f"{value:.0%}"
    if unit == "count":
        return f"{value:.0f}"
    if value < 10:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
