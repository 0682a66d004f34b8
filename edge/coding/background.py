"""The background of a fixed camera's picture, from the frames seen so far: logic without I/O, time passed in.

Each pixel keeps a settled colour, and a candidate that it shows instead. Samples vote: those that show the candidate
for it, all others against it. With `patience` votes it becomes the settled colour: late enough that what pauses (a car
at a light, somebody who waits) does not get in, while what is put down for good does, and so does a road that is seen
between cars more often than not. A settled colour follows slow changes (dusk) by one level a sample, as a running
median does. When most of the picture differs for a few samples, light or camera have changed: learning begins anew.

The picture handed out as G stays the same until it is worth the key that a new one costs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.shared.errors import ConfigError

U8Image = npt.NDArray[np.uint8]
_Map = npt.NDArray[np.uint8]  # [H,W], 255 where it holds, as OpenCV's masks are: twice as fast as NumPy's


@dataclass(frozen=True)
class BackgroundRules:
    """How slow the background is, and when a new one is handed out."""

    sample_seconds: float = 1.0  # between frames looked at
    patience: int = (
        60  # samples of a pixel's new colour, less those of others, before it counts as background
    )
    first_patience: int = 5  # of these right after the start, when nothing is known yet; grows to `patience`
    difference: int = 16  # levels of any channel from which a pixel is another
    changed_share: float = 0.6  # of the picture that differs when light or camera have changed
    changed_samples: int = 3  # in a row
    renew_share: float = 0.02  # of the picture in which the handed out background is out of date
    renew_seconds: float = 60.0  # at least between two that are handed out, unless light or camera change

    def __post_init__(self) -> None:
        if self.sample_seconds <= 0 or self.renew_seconds < 0:
            raise ConfigError("sample_seconds must be above 0, renew_seconds at least 0")
        if not 1 <= self.first_patience <= self.patience <= 60_000:
            raise ConfigError("patience is from first_patience to 60000 samples, first_patience at least 1")
        if not (0 < self.renew_share <= 1 and 0 < self.changed_share <= 1):
            raise ConfigError("shares lie above 0 and up to 1")
        if not 1 <= self.difference <= 255 or self.changed_samples < 1:
            raise ConfigError("difference is in 1..255, changed_samples at least 1")


class Renewed(enum.Enum):
    """Why a background is handed out."""

    FIRST = "first frame"
    LEARNED = "the scene became known better, or changed in places"
    CHANGED = "light or camera changed"


class Background:
    """The state of one camera. `learn` sees each frame; what it returns is the background of the next group."""

    def __init__(self, rules: BackgroundRules | None = None) -> None:
        self._rules = rules or BackgroundRules()
        self._settled: U8Image | None = None
        self._sampled_at = 0.0

    def learn(self, image: U8Image, now: float) -> tuple[U8Image, Renewed] | None:
        """Look at a frame, uint8[H,W,3] RGB, seen at `now` (seconds, of a clock that may jump).

        Returns a new background, when there is one to hand out, and why. A frame of another size starts anew. The
        picture that is returned is not changed later.
        """
        if self._settled is None or self._settled.shape != image.shape:
            self._restart(image)
            return self._hand_out(now, Renewed.FIRST)
        if 0 <= now - self._sampled_at < self._rules.sample_seconds:
            return None
        self._sampled_at = now
        differs = self._differs(image, self._settled)
        if self._has_changed(differs):
            self._restart(image)
            return self._hand_out(now, Renewed.CHANGED)
        self._settle(image, differs)
        if 0 <= now - self._handed_at < self._rules.renew_seconds and not self._young():
            return None
        if _share(self._differs(self._settled, self._handed)) < self._rules.renew_share:
            return None
        return self._hand_out(now, Renewed.LEARNED)

    def _restart(self, image: U8Image) -> None:
        self._settled = image.copy()
        self._candidate = image.copy()
        self._votes = np.zeros(image.shape[:2], np.uint16)  # samples for the candidate, less those against it
        self._one = np.ones_like(self._votes)
        self._samples = 0
        self._changed = 0

    def _hand_out(self, now: float, why: Renewed) -> tuple[U8Image, Renewed]:
        assert self._settled is not None
        self._sampled_at = self._handed_at = now
        self._handed = self._settled.copy()
        return self._handed, why

    def _differs(self, image: U8Image, other: U8Image) -> _Map:
        red, green, blue = cv2.split(cv2.absdiff(image, other))
        most = cv2.max(cv2.max(red, green), blue)
        _, differs = cv2.threshold(most, self._rules.difference - 1, 255, cv2.THRESH_BINARY)
        return np.asarray(differs, np.uint8)

    def _has_changed(self, differs: _Map) -> bool:
        self._changed = self._changed + 1 if _share(differs) >= self._rules.changed_share else 0
        return self._changed >= self._rules.changed_samples

    def _patience(self) -> int:
        """Short at first, for what moved in the first frames is no background; never longer than has been watched."""
        return min(self._rules.patience, max(self._rules.first_patience, self._samples // 4))

    def _young(self) -> bool:
        """Still learning quickly: a better background is worth its key soon, but not with each sample."""
        return self._patience() < self._rules.patience and self._samples % self._rules.first_patience == 0

    def _settle(self, image: U8Image, differs: _Map) -> None:
        assert self._settled is not None
        self._samples += 1
        candidate, votes = self._candidate, self._votes
        stays = cv2.bitwise_and(differs, cv2.bitwise_not(self._differs(image, candidate)))
        others = cv2.bitwise_xor(differs, stays)
        new = cv2.bitwise_and(others, _mask(votes == 0))
        cv2.copyTo(image, new, candidate)
        voters = cv2.bitwise_or(stays, new)
        cv2.add(votes, self._one, dst=votes, mask=voters)
        cv2.subtract(votes, self._one, dst=votes, mask=cv2.bitwise_not(voters))
        _follow(self._settled, image, cv2.bitwise_not(differs))
        _follow(candidate, image, stays)
        learned = _mask(votes >= self._patience())
        cv2.copyTo(candidate, learned, self._settled)
        votes[learned > 0] = 0


def _mask(where: npt.NDArray[np.bool_]) -> _Map:
    return np.negative(where.view(np.uint8))  # 1 becomes 255


def _share(where: _Map) -> float:
    return cv2.countNonZero(where) / where.size


def _follow(picture: U8Image, image: U8Image, where: cv2.typing.MatLike) -> None:
    """Move `picture` one level towards `image`, in place, where the map says so."""
    pairs = ((image, picture), (picture, image))
    more, less = (cv2.threshold(cv2.subtract(*pair), 0, 1, cv2.THRESH_BINARY)[1] for pair in pairs)
    cv2.add(picture, more, dst=picture, mask=where)
    cv2.subtract(picture, less, dst=picture, mask=where)
