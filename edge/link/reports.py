"""What people are told of a camera host by itself: when a report is due, and what is in it.

Logic without I/O; instants are monotonic seconds and wall clock nanoseconds, handed in as ``now`` and ``now_ns``. A
report goes when something changed, and now and then while frames wait; a link on which nothing happens carries none.
"""

from __future__ import annotations

from dataclasses import dataclass

from secondlook.shared.packet import CODE, Report

LOOK_SECONDS = 1.0  # between two looks at what is to be told
_APART_SECONDS = 10.0  # between two reports, at least
_AGAIN_SECONDS = 30.0  # between two reports of frames that wait
_WAITING_NS = 5_000_000_000  # frames that were captured later are on their way
_MAX_TEXT = 200


@dataclass(frozen=True)
class Doing:
    """How the agent does: the state of its source, what makes its base layers, what is wrong with the source."""

    source: str = "running"
    model: str = ""
    trouble: str = ""


class Reports:
    """Those of one agent, on one connection after the other."""

    def __init__(self) -> None:
        self._told: Report | None = None  # on this connection
        self._told_at = 0.0
        self._looked_at = float("-inf")
        self._refused = False

    def connected(self) -> None:
        """A new connection, perhaps to another gateway: nothing was told there."""
        self._told, self._refused = None, False
        self._looked_at = float("-inf")

    def refused(self) -> bool:
        """The gateway rejects a packet; True if that may have been a report: it gets no more of them."""
        was_told = self._told is not None and not self._refused
        self._refused = self._refused or was_told
        return was_told

    def is_due(self, now: float) -> bool:
        """Whether to look at what is to be told."""
        if self._refused or now - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = now
        return True

    def next(
        self,
        doing: Doing,
        waiting: tuple[int, int | None],
        *,
        now: float,
        now_ns: int,
        leaves: bool = False,
    ) -> Report | None:
        """The report to send now, if any. `waiting`: frames that are not delivered, when the oldest was captured.

        `leaves`: the connection is about to be closed on purpose, and news cannot wait.
        """
        report = _report(doing, waiting, now_ns)
        told = self._told
        if self._refused:
            return None
        if told is None or (leaves and _kind(report) != _kind(told)):
            return report
        pause = _APART_SECONDS
        if _kind(report) == _kind(told):
            if not report.waiting:
                return None
            pause = _AGAIN_SECONDS
        return report if now - self._told_at >= pause else None

    def sent(self, report: Report, now: float) -> None:
        self._told, self._told_at = report, now


def _report(doing: Doing, waiting: tuple[int, int | None], now_ns: int) -> Report:
    frames, oldest_ns = waiting
    if oldest_ns is None or now_ns - oldest_ns <= _WAITING_NS:
        frames, oldest_ns = 0, None
    else:
        oldest_ns = max(0, oldest_ns)  # an earlier version took any time that a file said
    source = doing.source.replace(" ", "-")
    known = source if CODE.fullmatch(source) else "unknown"
    return Report(frames, oldest_ns, known, _printable(doing.model), _printable(doing.trouble))


def _kind(report: Report) -> tuple[bool, str, str, str]:
    """What of a report is news by itself."""
    return report.waiting > 0, report.source, report.model, report.trouble


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:_MAX_TEXT]
