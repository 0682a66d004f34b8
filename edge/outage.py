"""What the log says of a gateway that cannot be reached: a line when it goes, and a line when it comes back."""

from __future__ import annotations


class LinkOutage:
    """Follows one link; instants are monotonic seconds handed in as `now`. Each method gives the line to log, if any.

    A link that is not up yet counts as an outage too, told of once it has lasted for `patience_seconds`.
    """

    def __init__(self, gateway: str, patience_seconds: float, now: float) -> None:
        self._gateway = gateway
        self._patience = patience_seconds
        self._since: float | None = now
        self._told: set[str] = set()  # causes, in this outage

    def lost(self, why: str, now: float) -> str | None:
        """The link was given up. Each cause is told once an outage, however often the link is tried again."""
        if self._since is None:
            self._since = now
        if why in self._told:
            return None
        self._told.add(why)
        return f"{why}; frames are kept, and it is tried again"

    def waiting(self, now: float) -> str | None:
        """The link is not up."""
        if self._told or self._since is None or now - self._since < self._patience:
            return None
        self._told.add("")
        return f"gateway {self._gateway} cannot be reached; frames are kept, and it is tried again"

    def back(self, now: float) -> str | None:
        """The gateway said welcome."""
        since, told = self._since, bool(self._told)
        self._since = None
        self._told.clear()
        if since is None:
            return None
        if not told:
            return f"connected to gateway {self._gateway}"
        return f"gateway {self._gateway} is back after {duration(now - since)}"


def duration(seconds: float) -> str:
    """A length of time for people: "0.4 s", "12 s", "3 min 20 s", "5 h 2 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
