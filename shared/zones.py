"""Zones of a camera's view: polygons in shares of the frame, `EDGE: x,y x,y x,y`, and what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secondlook.shared.errors import ConfigError

ANY_EDGE = "*"
_MOST_CORNERS = 64
Point = tuple[float, float]


@dataclass(frozen=True)
class Zone:
    """`edge_id`: of whom, or `*`; `corners`: x and y in 0..1 of the frame's width and height, at least three."""

    edge_id: str
    corners: tuple[Point, ...]

    def holds(self, point: Point) -> bool:
        """Whether a point lies inside, by the rule of odd crossings."""
        x, y = point
        inside = False
        for (x0, y0), (x1, y1) in zip(self.corners, (*self.corners[1:], self.corners[0]), strict=True):
            if (y0 > y) != (y1 > y) and x < x0 + (x1 - x0) * (y - y0) / (y1 - y0):
                inside = not inside
        return inside


def parse_zone(text: str) -> Zone:
    """Read `gate: 0.1,0.2 0.9,0.2 0.9,1`. Raises ConfigError."""
    edge_id, colon, rest = text.partition(":")
    corners = []
    for corner in rest.split():
        try:
            x, y = map(float, corner.split(","))
        except ValueError as error:
            raise ConfigError(f"zone {text!r}: {corner!r} is no corner as 0.25,0.5") from error
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ConfigError(f"zone {text!r}: {corner!r} is not within 0..1, shares of width and height")
        corners.append((x, y))
    if not colon or not edge_id.strip() or not 3 <= len(corners) <= _MOST_CORNERS:
        raise ConfigError(
            f"zone {text!r} is not as 'gate: 0.1,0.2 0.9,0.2 0.9,1', a camera host or * and three corners or more"
        )
    return Zone(edge_id.strip(), tuple(corners))


def stands_in(zones: Sequence[Zone], edge_id: str, point: Point) -> bool:
    """Whether a point lies in one of the zones of a camera host; where it has none, everywhere counts."""
    own = [zone for zone in zones if zone.edge_id in (edge_id, ANY_EDGE)]
    return not own or any(zone.holds(point) for zone in own)
