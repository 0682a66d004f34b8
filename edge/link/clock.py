"""When to ping, and how far the gateway's clock is from ours by what it answers: logic without I/O, time passed in."""

from __future__ import annotations

import logging

from secondlook.edge.config import LinkConfig

log = logging.getLogger(__name__)

_CLOCK_SECONDS = 2.0  # clocks of host and gateway may differ by so much
_LONGEST_TRIP_SECONDS = 10.0  # an answer that took longer tells nothing of a clock


def ping_pause(config: LinkConfig, is_busy: bool, pinged_at: float, active_at: float) -> float:
    """Seconds of silence before a ping: few while something is under way, and once after that, many from then on.

    So the gateway knows soon that a camera host is idle, and does not miss it between two pings. ``active_at``: when
    the gateway welcomed this host or acknowledged frames last; both instants are monotonic.
    """
    tells = pinged_at < active_at + config.ping_seconds / 2
    return config.ping_seconds if is_busy or tells else config.idle_ping_seconds


class GatewayClock:
    """The clock at the other end of one link."""

    def __init__(self) -> None:
        self.offset_ns = 0  # gateway's wall clock minus ours
        self.offset_seconds: float | None = None  # the same; None until measured
        self._is_off = False
        self._ping: tuple[int, float] | None = None  # wall clock (ns) and monotonic clock when it was sent

    @property
    def is_asked(self) -> bool:
        """Whether a ping waits for its answer."""
        return self._ping is not None

    def disconnected(self) -> None:
        """No answer comes any more to what was asked."""
        self._ping = None

    def asked(self, now_ns: int, now: float) -> None:
        """A ping went; while another one is under way, the answer that comes may be to either."""
        if self._ping is None or now - self._ping[1] > _LONGEST_TRIP_SECONDS:
            self._ping = (now_ns, now)

    def answered(self, gateway_ns: int, now: float) -> None:
        """The gateway's clock was read somewhere between our ping and now."""
        ping, self._ping = self._ping, None
        if ping is None:
            return  # a probe of the gateway's own, on its way for we do not know how long
        trip_seconds = now - ping[1]
        if trip_seconds > _LONGEST_TRIP_SECONDS:
            return
        self.offset_ns = gateway_ns - ping[0] - int(trip_seconds / 2 * 1e9)
        self.offset_seconds = offset = self.offset_ns / 1e9
        is_off = abs(offset) - trip_seconds / 2 > _CLOCK_SECONDS
        if is_off and not self._is_off:
            log.warning(
                "this host's clock is %.1f s %s that of the gateway: times of frames will be wrong",
                abs(offset),
                "behind" if offset > 0 else "ahead of",
            )
        elif self._is_off and not is_off:
            log.info("this host's clock agrees with that of the gateway again")
        self._is_off = is_off
