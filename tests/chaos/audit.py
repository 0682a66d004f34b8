"""After the storm: is every captured frame detected once, or under a tombstone, and do the stores agree?"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import case, func, select

from secondlook.cloud.catalogue import (
    Catalogue,
    DetectedBox,
    Frame,
    Review,
    ReviewState,
    Tombstone,
    open_catalogue,
)
from secondlook.cloud.storage.blobs import Blobs, open_blobs
from secondlook.shared.errors import StoreCorrupt

Identity = tuple[str, str, int]  # edge id, boot id, sequence


@dataclass
class Audit:
    """`frames` counts what was captured: what got its place in a spool, or a tombstone there."""

    frames: int = 0
    tombstones: int = 0
    lost: list[Identity] = field(default_factory=list)
    duplicated: list[Identity] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def audit(catalogue_url: str, blobs_url: str, spools: dict[str, Path]) -> Audit:
    """Look into all stores. Nobody may be writing to them any more."""
    found = Audit()
    captured = {identity for edge, folder in spools.items() for identity in _captured(edge, folder, found)}
    catalogue = open_catalogue(catalogue_url)
    try:
        detected, buried = _detected(catalogue, set(spools)), _buried(catalogue, set(spools))
        _check_blobs(catalogue, open_blobs(blobs_url), set(spools), found)
    finally:
        catalogue.close()
    found.frames, found.tombstones = len(captured), sum(buried.values())
    counts = detected + buried
    found.lost = sorted(captured - set(counts))
    found.duplicated = sorted(identity for identity, count in counts.items() if count > 1)
    strangers = (set(detected) | set(buried)) - captured
    if strangers:
        found.problems.append(f"the catalogue has frames that no spool ever had: {sorted(strangers)[:5]}")
    return found


def _captured(edge: str, folder: Path, found: Audit) -> list[Identity]:
    with closing(sqlite3.connect(folder / "spool.db")) as spool:
        if spool.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            found.problems.append(f"the spool of {edge} is damaged")
        for table, condition in (("frames", "safe = 0"), ("tombstones", "1")):
            (left,) = spool.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchone()
            if left:
                found.problems.append(f"the spool of {edge} still has {left} undelivered {table}")
        boots = spool.execute("SELECT boot_id, next_seq FROM boots").fetchall()
    return [(edge, boot_id, seq) for boot_id, next_seq in boots for seq in range(next_seq)]


def _detected(catalogue: Catalogue, edges: set[str]) -> Counter[Identity]:
    """How often each frame was detected: the detector of the run finds one box a frame.

    One that was stored without a look, for its worker could not keep up, is accounted for, too; with a box it would
    count twice.
    """
    with catalogue.reading() as session:
        rows = session.execute(
            select(
                Frame.edge_id,
                Frame.boot_id,
                Frame.seq,
                func.count(DetectedBox.id) + case((Frame.unseen.is_not(None), 1), else_=0),
            )
            .outerjoin(DetectedBox)
            .where(Frame.edge_id.in_(edges))
            .group_by(Frame.id)
        ).all()
    counts: Counter[Identity] = Counter()
    for edge_id, boot_id, seq, boxes in rows:
        counts[edge_id, boot_id, seq] += boxes
    return counts


def _buried(catalogue: Catalogue, edges: set[str]) -> Counter[Identity]:
    with catalogue.reading() as session:
        tombstones = session.scalars(select(Tombstone).where(Tombstone.edge_id.in_(edges))).all()
        return Counter(
            (tombstone.edge_id, tombstone.boot_id, seq)
            for tombstone in tombstones
            for seq in range(tombstone.first_seq, tombstone.last_seq + 1)
        )


def _check_blobs(catalogue: Catalogue, blobs: Blobs, edges: set[str], found: Audit) -> None:
    """Every layer and image that the catalogue names is there, and is what was named."""
    with catalogue.reading() as session:
        for frame in session.scalars(select(Frame).where(Frame.edge_id.in_(edges))):
            _expect(blobs, frame.base_blob, found, size=frame.base_bytes)
        for review in session.scalars(select(Review)):
            if review.state is ReviewState.READY:
                for key in (review.base_image, review.enhanced_image, review.enhancement_blob):
                    _expect(blobs, key, found)
                _expect(blobs, review.refined_image, found, sha256=review.shown_sha256)
            elif review.state is not ReviewState.EXPIRED or not review.why_expired:
                found.problems.append(f"review {review.id} is left {review.state} ({review.why_expired})")


def _expect(
    blobs: Blobs, key: str | None, found: Audit, *, size: int | None = None, sha256: str | None = None
) -> None:
    try:
        data = blobs.get(str(key))
    except StoreCorrupt as error:
        found.problems.append(str(error))
        return
    if (size is not None and len(data) != size) or (
        sha256 is not None and hashlib.sha256(data).hexdigest() != sha256
    ):
        found.problems.append(f"blob {key} is not what the catalogue says")
