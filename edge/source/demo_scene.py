"""The scene of the virtual camera `demo:`: a street from a mast, drawn here, with cars that the shipped detector knows.

A frame depends on its time alone, so that every run and every frame rate show the same traffic. Images are
uint8[432,768,3] RGB, times are seconds, lengths are pixels. The street is drawn as if it ran from left to right over a
square plan, and is turned into the view: the detector knows cars best that drive towards the camera or away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

U8Image = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Colour = tuple[float, float, float]

WIDTH, HEIGHT = 768, 432  # of the view
_PLAN = 900  # side of the plan: more than the view's diagonal, at its scale
_TURN, _SCALE = -66.0, 1.1  # of the plan in the view: degrees, and how much larger
_ROAD = (344, 556)  # rows of the plan between the kerbs
_KERB = 9
_PAVEMENT = 34
_FINE = 4  # a car is drawn so many times as large as it is in the plan
_CAR_LENGTH, _CAR_WIDTH = 104, 50
_MARGIN = 14  # around a car, for its mirrors and its shadow
_SHADOW = (6, 7)  # how far to the right and down shadows fall
_NOISE = 2.0  # standard deviation of the sensor's noise, in levels


@dataclass(frozen=True)
class Lane:
    """Cars of one direction, all equally fast, so that none meets another."""

    row: int  # of the middle
    speed: float  # pixels a second; below zero to the left
    gaps: tuple[int, int]  # from one car's middle to the next, in pixels: the least and the most


_LANES = (
    Lane(row=371, speed=-128.0, gaps=(210, 620)),
    Lane(row=423, speed=-96.0, gaps=(260, 780)),
    Lane(row=477, speed=88.0, gaps=(240, 700)),
    Lane(row=530, speed=117.0, gaps=(230, 640)),
)
_TREES = (  # column, row and radius
    (215, 296, 50),
    (360, 270, 38),
    (505, 300, 46),
    (668, 282, 54),
    (262, 604, 52),
    (430, 626, 40),
    (588, 606, 48),
    (730, 630, 44),
)
_BESIDE = 26  # pixels around a tree that its shadow and its edge may reach


# A part of the picture: float32[h,w,4], RGB weighed by its opacity, then the share of light that it keeps from what is
# below.
Sprite = F32


class Scene:
    """The street. Drawing what does not move takes a moment, each frame then a few milliseconds."""

    def __init__(self) -> None:
        rng = np.random.default_rng(20_251)
        turn = cv2.getRotationMatrix2D((_PLAN / 2, _PLAN / 2), _TURN, _SCALE)
        self._view = np.asarray(turn, np.float64)
        self._view[:, 2] += ((WIDTH - _PLAN) / 2, (HEIGHT - _PLAN) / 2)
        ground = cv2.warpAffine(_ground(rng), self._view, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
        self._ground = np.clip(ground, 0, 255).astype(np.uint8)
        leaves = _cloth(rng, (70, 96, 46), ((2, 20.0), (7, 22.0), (18, 16.0)))
        trees = [self._placed(_tree(rng, leaves, *tree), tree[0], tree[1]) for tree in _TREES]
        self._trees = [tree for tree in trees if tree is not None]
        self._noise = rng.normal(0.0, _NOISE, (HEIGHT + 64, WIDTH + 64, 3)).round().astype(np.int16)

    def image(self, seconds: float) -> U8Image:
        """What the camera sees at a time."""
        view = self._ground.copy()
        cars = [
            self._placed(_car_of(number, car), middle, lane.row)
            for number, lane in enumerate(_LANES)
            for car, middle in cars_of(lane, number, seconds)
        ]
        for found in (*cars, *self._trees):
            if found is not None:
                place, part = found
                below = view[place]
                below[:] = np.clip(below * (1 - part[..., 3:]) + part[..., :3], 0, 255)
        # The noise is one field, looked at from another corner each time.
        top, left = np.random.default_rng(round(seconds * 1000)).integers(0, 64, 2)
        noise = self._noise[top : top + HEIGHT, left : left + WIDTH]
        return np.asarray(cv2.add(view, noise, dtype=cv2.CV_8U), np.uint8)

    def _placed(self, sprite: Sprite, column: float, row: float) -> tuple[tuple[slice, slice], Sprite] | None:
        """A sprite turned into the view, its middle at a place of the plan, and where that is; None if out of sight."""
        rows, columns = sprite.shape[:2]
        matrix = self._view.copy()
        matrix[:, 2] += matrix[:, :2] @ (column - columns / 2, row - rows / 2)
        corners = np.array([(0, 0, 1), (columns, 0, 1), (0, rows, 1), (columns, rows, 1)]) @ matrix.T
        left, top = (max(math.floor(end), 0) for end in corners.min(axis=0))
        right, bottom = (
            min(math.ceil(end), most) for end, most in zip(corners.max(axis=0), (WIDTH, HEIGHT), strict=True)
        )
        if left >= right or top >= bottom:
            return None
        matrix[:, 2] -= (left, top)
        turned = cv2.warpAffine(sprite, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
        return (slice(top, bottom), slice(left, right)), np.asarray(turned, np.float32)


def cars_of(lane: Lane, number: int, seconds: float) -> Iterator[tuple[int, float]]:
    """The cars on the plan, on the lane of this number: which one, and the column of its middle.

    Cars come in rounds of one length and random gaps; a car keeps its number for as long as it is there.
    """
    places, length = _round_of(lane, number)
    travelled = seconds * abs(lane.speed)
    reach = _CAR_LENGTH / 2 + _MARGIN
    first = int((travelled - _PLAN - reach) // length) - 1
    last = int((travelled + reach) // length) + 1
    for lap in range(first, last + 1):
        for index, place in enumerate(places):
            way = travelled - lap * length - place
            if -reach < way < _PLAN + reach:
                yield lap * len(places) + index, way if lane.speed > 0 else _PLAN - way


@lru_cache
def _round_of(lane: Lane, number: int) -> tuple[tuple[int, ...], int]:
    """Where the cars of a round stand from its start, and how long it is."""
    gaps = np.random.default_rng((7, number)).integers(*lane.gaps, size=12)
    ends = np.cumsum(gaps)
    return (0, *map(int, ends[:-1])), int(ends[-1])


@lru_cache(maxsize=64)
def _car_of(number: int, car: int) -> Sprite:
    """A car of the lane of this number, pointing the way it goes."""
    rng = np.random.default_rng((11, number, car + (1 << 20)))
    rows, columns = _CAR_WIDTH + 2 * _MARGIN, _CAR_LENGTH + 2 * _MARGIN
    size = (columns, rows)
    colours, opacity = (
        np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.float32)
        for part in _car(rng, rows * _FINE, columns * _FINE)
    )
    if _LANES[number].speed < 0:
        colours, opacity = colours[:, ::-1].copy(), opacity[:, ::-1].copy()
    shadow = cv2.GaussianBlur(cv2.warpAffine(opacity, _moved(*_SHADOW), size), (0, 0), 2.5)
    return _sprite(colours, opacity, 0.55 * shadow)


def _sprite(colours: F32, opacity: F32, shadow: npt.NDArray[np.floating[Any]]) -> Sprite:
    """Of colours weighed by opacity float32[h,w], and the share of light float[h,w] that is kept from what is below."""
    hidden = 1 - (1 - opacity) * (1 - shadow)
    return np.dstack([colours, hidden]).astype(np.float32)


def _moved(right: int, down: int) -> F32:
    return np.array([[1, 0, right], [0, 1, down]], np.float32)


def _car(rng: np.random.Generator, rows: int, columns: int) -> tuple[F32, F32]:
    """A car from above, its front to the right: colours times opacity, and opacity, float32, both fine."""
    image, opacity = np.zeros((rows, columns, 3), np.float32), np.zeros((rows, columns), np.float32)
    length = _CAR_LENGTH * rng.uniform(0.86, 1.0) * _FINE
    width = _CAR_WIDTH * rng.uniform(0.86, 0.96) * _FINE
    paint = _paint(rng)

    def fill(outline: npt.NDArray[np.float64], colour: Colour, *, solid: bool = False) -> None:
        """Points as shares of half the length and half the width from the middle."""
        points = np.round((outline * (length / 2, width / 2) + (columns / 2, rows / 2)) * 16).astype(np.int32)
        cv2.fillPoly(image, [points], colour, cv2.LINE_AA, 4)
        if solid:
            cv2.fillPoly(opacity, [points], (1.0,), cv2.LINE_AA, 4)

    def of_paint(share: float) -> Colour:
        red, green, blue = (min(part * share, 255.0) for part in paint)
        return red, green, blue

    glass = float(rng.uniform(18, 60))
    dark: Colour = (glass, glass + 4, glass + 9)
    for side in (-1, 1):  # mirrors
        mirror = [(0.38, side * 0.9), (0.46, side * 1.16), (0.40, side * 1.2), (0.33, side * 0.9)]
        fill(np.array(mirror), of_paint(0.7), solid=True)
    fill(_outline(1.0, 1.0), of_paint(0.62), solid=True)
    fill(_outline(0.96, 0.93), of_paint(1.0))
    front, roof, rear, back = np.array([0.46, 0.20, -0.42, -0.68]) + rng.uniform(-0.04, 0.04, 4)
    fill(np.array([(front, -0.76), (front, 0.76), (roof, 0.64), (roof, -0.64)]), dark)
    fill(np.array([(rear, -0.62), (rear, 0.62), (back, 0.72), (back, -0.72)]), dark)
    for side in (-1, 1):
        window = [
            (front - 0.1, side * 0.84),
            (roof - 0.02, side * 0.7),
            (rear, side * 0.68),
            (rear - 0.08, side * 0.82),
        ]
        fill(np.array(window), dark)
        lamp = np.array([(0.97, side * 0.45), (0.9, side * 0.84), (0.82, side * 0.84), (0.93, side * 0.45)])
        fill(lamp, (236.0, 238.0, 226.0))
        fill(lamp * (-1.0, 1.0), (176.0, 34.0, 30.0))
    fill(
        np.array([(roof - 0.06, -0.5), (roof - 0.06, 0.5), (rear + 0.06, 0.48), (rear + 0.06, -0.48)]),
        of_paint(1.1),
    )
    sheen = np.linspace(1.1, 0.84, rows, dtype=np.float32)[:, None, None]
    return np.clip(image * sheen, 0, 255) * opacity[..., None], opacity


def _outline(long: float, wide: float) -> npt.NDArray[np.float64]:
    """A body with round corners: shares of half the length and half the width."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    x, y = (np.sign(wave) * np.abs(wave) ** 0.38 for wave in (np.cos(angle), np.sin(angle)))
    return np.stack([long * x, wide * y * (1 - 0.07 * np.abs(x) ** 3)], 1)


def _paint(rng: np.random.Generator) -> Colour:
    """Mostly white, grey and black, as cars are; else a colour. RGB in 0..255."""
    if rng.random() < 0.6:
        grey = float(rng.choice((232, 196, 128, 66, 34)))
        return grey, grey + 2, grey + 5
    paints = ((168, 28, 34), (36, 66, 138), (30, 92, 72), (196, 168, 118), (110, 24, 38), (70, 128, 180))
    red, green, blue = paints[int(rng.integers(len(paints)))]
    return float(red), float(green), float(blue)


def _ground(rng: np.random.Generator) -> F32:
    """All that lies flat and stays: grass, pavement, kerbs, asphalt and its paint. float32 of the plan, RGB."""
    view = _cloth(rng, (92, 112, 62), ((3, 9.0), (12, 9.0), (70, 12.0)))
    stone = _cloth(rng, (158, 152, 144), ((2, 5.0), (40, 5.0)))
    stone[:, ::24] -= 26
    asphalt = _cloth(rng, (98, 98, 102), ((1, 5.0), (3, 3.0), (90, 7.0)))
    top, bottom = _ROAD
    for start, end in ((top - _KERB - _PAVEMENT, top - _KERB), (bottom + _KERB, bottom + _KERB + _PAVEMENT)):
        view[start:end] = stone[start:end]
        view[start] -= 40
    view[top - _KERB : bottom + _KERB] = 186
    view[top:bottom] = asphalt[top:bottom]
    for lane in _LANES:  # tyres polish the asphalt
        for wheel in (-15, 15):
            view[lane.row + wheel - 5 : lane.row + wheel + 6] -= 7
    middle = (top + bottom) // 2
    for row in (top + 4, bottom - 6, middle - 3, middle + 1):
        view[row : row + 2] = (214, 212, 204)
    for one, other in (_LANES[:2], _LANES[2:]):
        row = (one.row + other.row) // 2
        for column in range(10, _PLAN, 62):
            view[row - 1 : row + 2, column : column + 30] = (218, 217, 210)
    for row in range(top + 12, bottom - 14, 24):  # a crossing
        view[row : row + 12, 384:428] = (208, 207, 200)
    wear = _cloth(rng, (0, 0, 0), ((1, 6.0), (9, 5.0)))
    view[top:bottom] += wear[top:bottom]
    return np.asarray(cv2.GaussianBlur(view, (0, 0), 0.6), np.float32)


def _tree(rng: np.random.Generator, leaves: F32, column: int, row: int, radius: int) -> Sprite:
    """A crown and the shadow that it throws on what passes below, cut from leaves float32 of the plan."""
    side = 2 * (radius + _BESIDE)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    reach = radius * (1 + 0.12 * rng.normal(size=48).clip(-2, 2))
    points = np.stack([side / 2 + reach * np.cos(angle), side / 2 + reach * np.sin(angle)], 1)
    crown = np.zeros((side, side), np.float32)
    cv2.fillPoly(crown, [np.round(points * 16).astype(np.int32)], (1.0,), cv2.LINE_AA, 4)
    crown = np.asarray(cv2.GaussianBlur(crown, (0, 0), 1.5), np.float32)
    shadow = cv2.warpAffine(crown, _moved(3 * _SHADOW[0], 3 * _SHADOW[1]), (side, side))
    part = leaves[row - side // 2 : row + side // 2, column - side // 2 : column + side // 2].clip(0, 255)
    return _sprite(part * crown[..., None], crown, 0.5 * shadow)


def _cloth(rng: np.random.Generator, colour: Sequence[float], grains: Sequence[tuple[int, float]]) -> F32:
    """A rough surface of the plan, float32 RGB: a colour, and noise of several grains.

    Of a grain: its size in pixels, and its standard deviation in levels.
    """
    view = np.full((_PLAN, _PLAN, 3), colour, np.float32)
    for size, deviation in grains:
        small = rng.normal(0, deviation, (_PLAN // size + 2, _PLAN // size + 2)).astype(np.float32)
        view += cv2.resize(small, (_PLAN, _PLAN), interpolation=cv2.INTER_CUBIC)[..., None]
    return view
