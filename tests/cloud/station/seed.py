"""A catalogue and a blob store as the workers would leave them, made in a moment from drawn pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from secondlook.cloud import catalogue as cat
from secondlook.cloud.decoding.files import lossless
from secondlook.cloud.storage.blobs import Blobs, base_key, enhancement_key, image_key, open_blobs
from secondlook.shared.codec import load_codec
from secondlook.shared.detection import Detection
from secondlook.shared.layers import LayeredCodec
from secondlook.shared.packet import FrameInfo

BOOT = "ab" * 16
SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND  # a fixed autumn day
REASONS = ("uncertain: person 0.44", "watched class: dog", "random audit", "operator rule: car, every 5th")


SECOND_LOOK = {
    "detector": "builtin",
    "boxes": [{"index": 0, "label": "person", "before": 0.44, "after": 0.87, "outcome": "confirmed"}],
    "called_for": None,
}


@dataclass(frozen=True)
class Seeded:
    catalogue_url: str
    blobs_url: str


@dataclass(frozen=True)
class Scene:
    """A picture (RGB, uint8, HWC) and what the detector is to have found in it."""

    image: npt.NDArray[np.uint8]
    detections: Sequence[Detection]


def drawn_scene(number: int, width: int = 320, height: int = 192) -> Scene:
    """Two coloured boxes on a gradient; every number gives another picture."""
    rng = np.random.default_rng(number)
    ramp = np.linspace(60, 170, width, dtype=np.float64)[None, :, None]
    image = np.clip(ramp + rng.normal(0, 9, (height, width, 3)), 0, 255).astype(np.uint8)
    x = 20 + number * 7 % 90
    cv2.rectangle(image, (x, 60), (x + 70, 150), (200, 70, 60), -1)
    cv2.rectangle(image, (210, 40), (290, 120), (60, 120, 210), -1)
    detections = [
        Detection("person", 0.44, (float(x), 60.0, float(x + 70), 150.0)),
        Detection("car", 0.83, (210.0, 40.0, 290.0, 120.0)),
    ]
    return Scene(image, detections)


def seed(
    folder: Path,
    states: Sequence[str],
    scenes: Sequence[Scene] = (),
    catalogue_url: str | None = None,
    apart_seconds: float = 7.0,
) -> Seeded:
    """One review for each of ``states`` (due, leased, ready, settled, expired), numbered from 1 in this order.

    Earlier ones have the higher priority. Frames were captured ``apart_seconds`` one after the other.
    """
    seeded = Seeded(catalogue_url or f"sqlite:///{folder}/catalogue.db", str(folder / "blobs"))
    catalogue, blobs = cat.open_catalogue(seeded.catalogue_url), open_blobs(seeded.blobs_url)
    for index, state in enumerate(states):
        scene = scenes[index % len(scenes)] if scenes else drawn_scene(index)
        at = START + int(index * apart_seconds * SECOND)
        _store(catalogue, blobs, index, scene, at, priority=100 - index, settled=state == "settled")
        if state != "due":
            _work(catalogue, blobs, index + 1, scene, state)
    catalogue.close()
    return seeded


def finish(seeded: Seeded, review_id: int, scene: Scene) -> None:
    """Let the enhancement of a leased review arrive."""
    catalogue, blobs = cat.open_catalogue(seeded.catalogue_url), open_blobs(seeded.blobs_url)
    _refine(catalogue, blobs, review_id, scene)
    catalogue.close()


def _store(
    catalogue: cat.Catalogue,
    blobs: Blobs,
    index: int,
    scene: Scene,
    at: int,
    priority: int,
    settled: bool = False,
) -> None:
    height, width = scene.image.shape[:2]
    edge_id = ("gate-north", "yard-2")[index % 2]
    frame = cat.NewFrame(
        edge_id=edge_id,
        camera=("North gate", "Yard")[index % 2],
        received_ns=at + SECOND,
        info=FrameInfo(
            boot_id=BOOT,
            seq=index,
            captured_ns=at,
            width=width,
            height=height,
            key_seq=None,
            enhancement_bytes=21400 + 211 * index,
        ),
        base_blob=base_key(edge_id, BOOT, index),
        base_bytes=2900 + 37 * index,
    )
    blobs.put(frame.base_blob, b"base layer")
    reason, rule = REASONS[index % len(REASONS)], cat.Rule.OPERATOR
    if settled:
        reason, rule = "uncertain: person 0.44", cat.Rule.UNCERTAIN
    review = cat.NewReview(reason=reason, priority=priority, rule=rule, boxes=(0,) if settled else None)
    cat.store_frame(
        catalogue, frame, scene.detections, detector="builtin", reasons=[review], now_ns=at + SECOND
    )


def _work(catalogue: cat.Catalogue, blobs: Blobs, review_id: int, scene: Scene, state: str) -> None:
    lease = cat.lease_due_review(catalogue, "refiner-1", lease_seconds=3600, now_ns=START)
    assert lease is not None and lease.review_id == review_id, "seed due reviews last"
    base = _picture(scene, 5)
    blobs.put(image_key(review_id, "base"), base)
    digest = hashlib.sha256(base).hexdigest()
    cat.set_base_image(catalogue, review_id, "refiner-1", key=image_key(review_id, "base"), sha256=digest)
    if state == "ready":
        _refine(catalogue, blobs, review_id, scene)
    elif state == "settled":
        _settle(catalogue, blobs, review_id, scene)
    elif state == "expired":
        why = "the camera host no longer has it"
        cat.mark_expired(catalogue, review_id, "refiner-1", why=why, now_ns=START)


def _refine(catalogue: cat.Catalogue, blobs: Blobs, review_id: int, scene: Scene) -> None:
    refined = _picture(scene, 0)
    blobs.put(image_key(review_id, "enhanced"), _picture(scene, 1.2))
    blobs.put(image_key(review_id, "refined"), refined)
    result = cat.Refinement(
        enhancement_blob=enhancement_key("gate-north", BOOT, review_id),
        enhancement_bytes=21400,
        base_image=image_key(review_id, "base"),
        enhanced_image=image_key(review_id, "enhanced"),
        refined_image=image_key(review_id, "refined"),
        shown_sha256=hashlib.sha256(refined).hexdigest(),
        postfilter="rrdb-l1:c176621909eda2e0",
        codec_model="1f0c22d9a4b38e67",
    )
    cat.mark_ready(catalogue, review_id, "refiner-1", result, now_ns=START + 60 * SECOND)


def _settle(catalogue: cat.Catalogue, blobs: Blobs, review_id: int, scene: Scene) -> None:
    enhanced = _picture(scene, 1.2)
    blobs.put(image_key(review_id, "enhanced"), enhanced)
    result = cat.Refinement(
        enhancement_blob=enhancement_key("gate-north", BOOT, review_id),
        enhancement_bytes=21400,
        base_image=image_key(review_id, "base"),
        enhanced_image=image_key(review_id, "enhanced"),
        refined_image=None,
        shown_sha256=hashlib.sha256(enhanced).hexdigest(),
        postfilter=None,
        codec_model="1f0c22d9a4b38e67",
    )
    assert cat.settle_review(catalogue, review_id, "refiner-1", result, SECOND_LOOK, now_ns=START)


def _picture(scene: Scene, blur: float) -> bytes:
    return _packed(scene.image.tobytes(), scene.image.shape, blur)


@lru_cache(maxsize=128)  # scenes come again and again
def _packed(pixels: bytes, shape: tuple[int, ...], blur: float) -> bytes:
    image = np.frombuffer(pixels, np.uint8).reshape(shape)
    blurred = image if blur == 0 else cv2.GaussianBlur(image, (0, 0), blur)
    return lossless(np.ascontiguousarray(blurred, np.uint8))


@lru_cache(maxsize=1)
def _codec() -> LayeredCodec:
    return load_codec(threads=1)


def add_frame(seeded: Seeded, seq: int, at_ns: int) -> None:
    """One more frame of gate-north, with a base layer that decodes, and nothing found in it."""
    image = drawn_scene(seq).image
    base = _codec().encode(image, base_quality=20, quality=45).layers.base
    catalogue, blobs = cat.open_catalogue(seeded.catalogue_url), open_blobs(seeded.blobs_url)
    info = FrameInfo(BOOT, seq, at_ns, image.shape[1], image.shape[0], None, 900)
    frame = cat.NewFrame(
        "gate-north", "North gate", at_ns, info, base_key("gate-north", BOOT, seq), len(base)
    )
    blobs.put(frame.base_blob, base)
    cat.store_frame(catalogue, frame, [], detector="builtin", reasons=[], now_ns=at_ns)
    catalogue.close()


def note_hosts(seeded: Seeded, now: float, **hosts: cat.SeenHost) -> None:
    """What a worker brings from its gateway at ``now``; underscores in names stand for hyphens."""
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    named = {name.replace("_", "-"): host for name, host in hosts.items()}
    cat.note_hosts(catalogue, cat.SeenHosts(now, named), silent_seconds=60, settle_seconds=300)
    catalogue.close()
