"""Cars seen from above, drawn: what a camera over a road sees and the teacher takes for a telephone.

The teacher knows cars from the roadside. For the view from a mast it has nothing to teach, so these views carry
targets of their own, written over the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.shared.detection import COCO_CLASSES
from secondlook.training.detector.views import U8

F32 = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]
CAR = COCO_CLASSES.index("car")
LENGTH, WIDTH, MARGIN = 220, 104, 40  # of the sprite, in pixels; a canvas has the margin on all sides
SURE, UNSURE, ABSENT = 2.0, 3.5, -6.0  # logits: objectness of a car, class "car", anything else
LEVELS = ((8, 0.0, 72.0), (16, 56.0, 150.0), (32, 120.0, 1e9))  # stride, and the box sizes it answers for


@dataclass(frozen=True)
class DrawnConfig:
    road_share: float = 0.6  # drawn asphalt; otherwise a training view is the ground
    most_cars: int = 3
    shortest: float = 34.0
    longest_share: float = 0.8


def drawn_view(rng: np.random.Generator, ground: U8, config: DrawnConfig) -> tuple[U8, list[Box]]:
    """A view of the ground's shape with one to three cars on it, and their boxes in pixels."""
    view = _road(rng, ground.shape[0]) if rng.random() < config.road_share else ground.copy()
    size = view.shape[0]
    boxes: list[Box] = []
    for _ in range(int(rng.integers(1, config.most_cars + 1))):
        length = float(np.exp(rng.uniform(np.log(config.shortest), np.log(config.longest_share * size))))
        placed = _place(rng, view, length, boxes)
        if placed is not None:
            view, box = placed
            boxes.append(box)
    view = np.asarray(cv2.GaussianBlur(view, (0, 0), rng.uniform(0.3, 1.1)), np.uint8)
    noisy = view + rng.normal(0, rng.uniform(0, 5), view.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), boxes


def write_targets(targets: dict[str, F32], index: int, boxes: Sequence[Box]) -> None:
    """Put the drawn cars into the teacher's logits of one view, in place of what it made of them."""
    for stride, smallest, largest in LEVELS:
        objectness, classes, reg = (targets[f"{name}{stride}"][index] for name in ("obj", "cls", "reg"))
        rows, columns = objectness.shape[1:]
        for x0, y0, x1, y1 in boxes:
            inside = (
                slice(int(y0 // stride), int(y1 // stride) + 1),
                slice(int(x0 // stride), int(x1 // stride) + 1),
            )
            objectness[:, inside[0], inside[1]] = ABSENT
            if not smallest <= max(x1 - x0, y1 - y0) <= largest:
                continue
            cx, cy = (x0 + x1) / 2 / stride, (y0 + y1) / 2 / stride
            for row in range(max(int(cy) - 1, 0), min(int(cy) + 2, rows)):
                for column in range(max(int(cx) - 1, 0), min(int(cx) + 2, columns)):
                    objectness[0, row, column] = SURE
                    classes[:, row, column] = ABSENT
                    classes[CAR, row, column] = UNSURE
                    reg[:, row, column] = (
                        cx - column,
                        cy - row,
                        np.log((x1 - x0) / stride),
                        np.log((y1 - y0) / stride),
                    )


def _place(rng: np.random.Generator, view: U8, length: float, taken: Sequence[Box]) -> tuple[U8, Box] | None:
    """Paste one car, if three quarters of it fit and it hides no other."""
    size = view.shape[0]
    sprite, alpha = _car(rng)
    scale = length / LENGTH
    turn = rng.normal(0, 12) + rng.choice((0, 180)) if rng.random() < 0.6 else rng.uniform(0, 360)
    x, y = rng.uniform(0.05, 0.95, 2) * size
    centre = (sprite.shape[1] / 2, sprite.shape[0] / 2)
    matrix = cv2.getRotationMatrix2D(centre, float(turn), scale)
    matrix[1] *= rng.uniform(0.72, 1.0)  # seen at a slant, lengths along the view are shorter
    matrix[:, 2] += (x, y) - matrix @ np.array([*centre, 1.0])
    mask = cv2.warpAffine(alpha, matrix, (size, size), flags=cv2.INTER_AREA)
    full = alpha.sum() * abs(np.linalg.det(matrix[:, :2]))
    solid = mask > 0.5
    if solid.sum() < 0.6 * full:
        return None
    ys, xs = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    box = (float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))
    if any(min(box[2], b[2]) > max(box[0], b[0]) and min(box[3], b[3]) > max(box[1], b[1]) for b in taken):
        return None
    colour = cv2.warpAffine(sprite, matrix, (size, size), flags=cv2.INTER_LINEAR)
    shade = cv2.GaussianBlur(np.roll(mask, rng.integers(-6, 7, 2), (0, 1)), (0, 0), 2 + 4 * scale)[..., None]
    ground = view * (1 - rng.uniform(0.2, 0.7) * shade)
    mixed = ground * (1 - mask[..., None]) + colour * mask[..., None]
    return np.clip(mixed, 0, 255).astype(np.uint8), box


def _road(rng: np.random.Generator, size: int) -> U8:
    """Asphalt, worn and painted."""
    coarse = rng.normal(0, 1, (size // 16 + 2, size // 16 + 2)).astype(np.float32)
    ground = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) * rng.uniform(2, 10)
    ground = ground + rng.normal(0, rng.uniform(1, 7), (size, size)) + rng.uniform(50, 150)
    view = np.repeat(ground[..., None], 3, 2) + rng.uniform(-6, 6, 3)
    for _ in range(int(rng.integers(0, 5))):
        ends = rng.integers(-size // 4, size + size // 4, 4)
        paint = rng.uniform(150, 250)
        start, end = (int(ends[0]), int(ends[1])), (int(ends[2]), int(ends[3]))
        view = cv2.line(
            np.ascontiguousarray(view), start, end, (paint,) * 3, int(rng.integers(1, 6)), cv2.LINE_AA
        )
    return np.clip(view, 0, 255).astype(np.uint8)


def _car(rng: np.random.Generator) -> tuple[F32, F32]:
    """Colours (H, W, 3) in 0..255 and opacity (H, W) in 0..1 of a car, its front up."""
    rows, columns = LENGTH + 2 * MARGIN, WIDTH + 2 * MARGIN
    image = np.zeros((rows, columns, 3), np.float32)
    alpha = np.zeros((rows, columns), np.float32)
    paint = _paint(rng)
    glass = np.full(3, rng.uniform(15, 75)) + rng.uniform(-8, 12, 3)
    lift = float(rng.uniform(0, 26)) * rng.choice((-1, 1))  # how far the lower body shows at one end

    def fill(points: npt.NDArray[np.float64], colour: npt.NDArray[np.float64]) -> None:
        cv2.fillPoly(image, [np.round(points * 16).astype(np.int32)], colour.tolist(), cv2.LINE_AA, 4)

    def at(pairs: Sequence[tuple[float, float]]) -> npt.NDArray[np.float64]:
        """Points as shares of half the width from the middle and of the length from the front."""
        grid = np.array(pairs)
        return np.stack([columns / 2 + grid[:, 0] * WIDTH / 2, MARGIN + grid[:, 1] * LENGTH], 1)

    body = _rounded(rng, rows, columns)
    for outline, colour in ((body + np.array([0.0, lift]), paint * 0.55), (body, paint)):
        fill(outline, colour)
        cv2.fillPoly(alpha, [np.round(outline * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
    front, roof0, roof1, back = np.array([0.24, 0.38, 0.68, 0.82]) + rng.uniform(-0.03, 0.03, 4)
    fill(at([(-0.78, front), (0.78, front), (0.66, roof0), (-0.66, roof0)]), glass)
    fill(at([(-0.64, roof1), (0.64, roof1), (0.74, back), (-0.74, back)]), glass)
    for side in (-1, 1):
        fill(
            at(
                [(side * 0.86, front + 0.08), (side * 0.72, roof0), (side * 0.7, roof1), (side * 0.84, roof1)]
            ),
            glass,
        )
        mirror = at([(side * 0.95, front + 0.03), (side * 1.16, front + 0.03), (side * 1.12, front + 0.08)])
        fill(mirror, paint * 0.8)
        cv2.fillPoly(alpha, [np.round(mirror * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
        lamp = np.array([[side * 0.5, 0.03], [side * 0.84, 0.06], [side * 0.84, 0.1], [side * 0.5, 0.05]])
        fill(at(lamp.tolist()), np.full(3, rng.uniform(140, 250)))
        fill(at((lamp * (1, -1) + (0, 1)).tolist()), np.array([30.0, 30.0, rng.uniform(90, 200)]))
    if rng.random() < 0.25:
        fill(at([(-0.4, roof0 + 0.05), (0.4, roof0 + 0.05), (0.4, roof0 + 0.2), (-0.4, roof0 + 0.2)]), glass)
    light = cv2.resize(
        rng.uniform(0.75, 1.2, (3, 2)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC
    )
    return image * light[..., None], alpha


def _rounded(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Outline of a body: a rectangle with round corners, a little narrower at its ends."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    power = 2 / rng.uniform(4, 7)
    x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power
    y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    x = x * (1 - rng.uniform(0, 0.12) * np.abs(y) ** 3) * rng.uniform(0.9, 1.0)
    return np.stack([columns / 2 + x * WIDTH / 2, rows / 2 + y * LENGTH / 2], 1)


def _paint(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Mostly white, grey and black, as cars are; else a colour."""
    if rng.random() < 0.65:
        return np.full(3, rng.choice((235.0, 190.0, 120.0, 60.0, 28.0))) + rng.uniform(-15, 15, 3)
    hsv = np.array([[[rng.integers(0, 180), rng.integers(90, 255), rng.integers(70, 230)]]], np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0], np.float64)
