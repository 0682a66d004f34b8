"""What one demo run did, in numbers: read from the agent's status, the catalogue, the blobs and the frames.

Nothing here is an estimate. Bytes are those of real layers, times are the ones stored with each frame, and
quality is measured against the very frames that were captured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sqlalchemy import func, select

from secondlook.cloud.catalogue import Catalogue, Frame, Review, ReviewState, Tombstone
from secondlook.cloud.demo.edgestatus import EdgeTotals
from secondlook.cloud.storage.blobs import Blobs
from secondlook.shared.errors import StoreCorrupt

_JPEG_QUALITY = 90
_MILLISECOND_NS = 1_000_000
_SECOND_NS = 1_000_000_000

U8Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Counts:
    """How far the frames and reviews of a run have come."""

    detected: int
    duplicated: int
    tombstoned: int
    reviews_created: int
    reviews_refined: int
    reviews_settled: int
    reviews_expired: int

    @property
    def reviews_open(self) -> int:
        return self.reviews_created - self.reviews_refined - self.reviews_settled - self.reviews_expired


def count(catalogue: Catalogue, boots: Iterable[str]) -> Counts:
    """Count the frames and reviews of the agent starts `boots` in the catalogue."""
    of_run = Frame.boot_id.in_(tuple(boots))
    with catalogue.reading() as session:
        detected = session.scalar(select(func.count()).select_from(Frame).where(of_run)) or 0
        instants = session.scalar(
            select(func.count()).select_from(
                select(Frame.edge_id, Frame.captured_ns).where(of_run).distinct().subquery()
            )
        )
        gaps = session.execute(
            select(Tombstone.first_seq, Tombstone.last_seq).where(Tombstone.boot_id.in_(tuple(boots)))
        ).all()
        reviews = session.execute(
            select(Review.refined_ns, Review.state, Review.enhancement_blob).join(Review.frame).where(of_run)
        ).all()
    return Counts(
        detected=detected,
        duplicated=detected - (instants or 0),
        tombstoned=sum(last - first + 1 for first, last in gaps),
        reviews_created=len(reviews),
        reviews_refined=sum(row.refined_ns is not None for row in reviews),
        # Full quality without a refined picture, whatever a person made of that.
        reviews_settled=sum(row.refined_ns is None and row.enhancement_blob is not None for row in reviews),
        reviews_expired=sum(
            row.refined_ns is None
            and row.enhancement_blob is None
            and row.state in (ReviewState.EXPIRED, ReviewState.DECIDED)
            for row in reviews
        ),
    )


def make_report(
    catalogue: Catalogue, blobs: Blobs, frames_folder: Path | None, edge: EdgeTotals, boots: Sequence[str]
) -> dict[str, Any]:
    """The report of a run, ready for JSON. `frames_folder` holds the captured frames, where they were recorded."""
    counts = count(catalogue, boots)
    of_run = Frame.boot_id.in_(tuple(boots))
    with catalogue.reading() as session:
        times = session.execute(select(Frame.captured_ns, Frame.detected_ns).where(of_run)).all()
        refined = session.execute(
            select(Review, Frame).join(Review.frame).where(of_run, Review.refined_ns.is_not(None))
        ).all()
    return {
        "frames": {
            "captured": edge.captured,
            "encoded": edge.encoded,
            "acknowledged": edge.acknowledged,
            "detected": counts.detected,
            "lost": max(0, edge.captured - counts.detected - counts.tombstoned),
            "duplicated": max(counts.duplicated, counts.detected - edge.captured, 0),
        },
        "bytes": {
            "base": edge.bytes_base,
            "enhancement_stored": edge.bytes_enhancement_stored,
            "enhancement_sent": edge.bytes_enhancement_sent,
            "source_jpeg": None
            if frames_folder is None
            else sum(_jpeg_bytes(path) for boot in boots for path in frames_folder.glob(f"{boot}-*.png")),
        },
        "reviews": {
            "created": counts.reviews_created,
            "refined": counts.reviews_refined,
            "settled": counts.reviews_settled,
            "expired": counts.reviews_expired,
        },
        "quality_db": _quality(blobs, frames_folder, [(review, frame) for review, frame in refined]),
        "latency_ms": {
            "encode": {name: _rounded(edge.encode_ms.get(name), 1) for name in ("p50", "p95")},
            "capture_to_detection": percentiles([detected - captured for captured, detected in times]),
            "review_to_refined": percentiles(
                [
                    review.refined_ns - review.created_ns
                    for review, _ in refined
                    if review.refined_ns is not None
                ]
            ),
            "request_to_refined": percentiles(
                [
                    review.refined_ns - review.requested_ns
                    for review, _ in refined
                    if review.refined_ns is not None and review.requested_ns is not None
                ]
            ),
        },
        "fps": {
            "encode": _rounded(edge.encode_fps, 2),
            "end_to_end": _rate([captured for captured, _ in times], [detected for _, detected in times]),
        },
    }


def percentiles(durations_ns: Sequence[int]) -> dict[str, float | None]:
    """Median and 95th percentile in milliseconds of durations in nanoseconds; None where there are none."""
    if not durations_ns:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.asarray(durations_ns, np.float64) / _MILLISECOND_NS, (50, 95))
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}


def psnr_db(image: U8Image, original: U8Image) -> float:
    """PSNR of two uint8 images of one shape; 99 dB stands for identical ones."""
    error = np.mean((image.astype(np.float64) - original.astype(np.float64)) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255.0**2 / error))


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _rate(captured_ns: Sequence[int], detected_ns: Sequence[int]) -> float | None:
    """Frames a second from the first capture to the last detection."""
    if not captured_ns:
        return None
    return round(len(captured_ns) * _SECOND_NS / max(1, max(detected_ns) - min(captured_ns)), 2)


def _quality(
    blobs: Blobs, frames_folder: Path | None, refined: Sequence[tuple[Review, Frame]]
) -> dict[str, float | None]:
    """Mean over the refined reviews of the PSNR of each picture a reviewer may see; None without any, or a record."""
    values: dict[str, list[float]] = {"base": [], "enhanced": [], "refined": []}
    for review, frame in refined:
        if frames_folder is None:
            break
        original = _read(frames_folder / f"{frame.boot_id}-{frame.seq:08d}.png")
        keys = {"base": review.base_image, "enhanced": review.enhanced_image, "refined": review.refined_image}
        for name, key in keys.items():
            if key is not None:
                values[name].append(psnr_db(_decode(blobs.get(key), key), original))
    return {name: round(float(np.mean(each)), 3) if each else None for name, each in values.items()}


def _jpeg_bytes(path: Path) -> int:
    _, data = cv2.imencode(".jpg", _read(path), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return len(data)


def _read(path: Path) -> U8Image:
    try:
        return _decode(path.read_bytes(), str(path))
    except FileNotFoundError as cause:
        raise StoreCorrupt(f"the agent left no record of a frame: {path}") from cause


def _decode(data: bytes, name: str) -> U8Image:
    """A PNG as OpenCV sees it: BGR, which serves to compare and to make a JPEG."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise StoreCorrupt(f"not a picture: {name}")
    return image.astype(np.uint8, copy=False)
