"""`secondlook audit`: do ledger, catalogue and blobs agree, and is every frame accounted for?

It reads, and changes nothing; a site may run meanwhile. What is on its way between two stores is told apart from what
is lost: frames that wait in the queue, blobs that are younger than `retention.grace_minutes`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue import (
    AuditEntry,
    Catalogue,
    Frame,
    Retention,
    Review,
    ReviewState,
    Tombstone,
    Verdict,
)
from secondlook.cloud.catalogue.retention import wanted_blobs
from secondlook.cloud.storage.blobs import Blobs
from secondlook.cloud.storage.ledger import Ledger
from secondlook.shared.errors import StoreCorrupt
from secondlook.shared.link import Received

_AT_ONCE = 500
_NAMED = 20  # of each kind, in the report
_OF_QUEUE = ("dead-letter-limit", "dead-letter-purged", "reference-missing")


@dataclass
class Agreement:
    """What was found. Lists name the first twenty; counts are of all. `frames` are those in the catalogue."""

    cameras: int = 0
    boots: int = 0
    received: int | None = None  # frames by the ledger; None where it was not to be had
    queued: int | None = None  # waiting, leased or dead; None where no gateway answered
    frames: int = 0
    unseen: int = 0  # those of them that no machine looked at
    deleted: int = 0  # frames, by the entries of retention in the audit trail
    tombstones: int = 0
    tombstoned: int = 0  # frames
    by_reason: dict[str, int] = field(default_factory=dict)
    reviews: dict[str, int] = field(default_factory=dict)
    verdicts: int = 0
    conflicts: int = 0  # verdicts that another person's had decided unseen
    blobs: int = 0
    blob_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # of problems, by kind
    problems: list[str] = field(default_factory=list)

    def problem(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= _NAMED:
            self.problems.append(f"{kind}: {text}")

    @property
    def agrees(self) -> bool:
        return not self.counts

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "counts": dict(self.counts), "agrees": self.agrees}


def look(
    catalogue: Catalogue,
    blobs: Blobs,
    ledger: Ledger | None,
    *,
    queued: int | None,
    before: float,
    with_hashes: bool = False,
) -> Agreement:
    """Compare the stores.

    ``queued``: frames that the gateway holds, None where that is not known. ``before``: Unix seconds; blobs that are
    younger may be ahead of their rows. ``with_hashes``: read every picture that people judged, too.
    """
    found = Agreement(queued=queued)
    # The ledger first: what is received meanwhile may be filed by the time that the catalogue is read.
    known = {} if ledger is None else {(edge, boot): frames for edge, boot, frames in ledger.boots()}
    if ledger is not None:
        found.received = sum(known.values())
    _count(catalogue, found)
    _look_at_boots(catalogue, ledger, set(known), found)
    _balance(found)
    _look_at_blobs(catalogue, blobs, found, before=before, with_hashes=with_hashes)
    return found


def _count(catalogue: Catalogue, found: Agreement) -> None:
    with catalogue.reading() as session:
        found.frames = session.scalar(select(func.count()).select_from(Frame)) or 0
        unseen = select(func.count()).select_from(Frame).where(Frame.unseen.is_not(None))
        found.unseen = session.scalar(unseen) or 0
        found.cameras = session.scalar(select(func.count(Frame.edge_id.distinct()))) or 0
        rows = session.execute(
            select(
                Tombstone.reason, func.count(), func.sum(Tombstone.last_seq - Tombstone.first_seq + 1)
            ).group_by(Tombstone.reason)
        ).all()
        found.tombstones = sum(many for _, many, _ in rows)
        found.by_reason = {reason: int(frames) for reason, _, frames in rows}
        found.tombstoned = sum(found.by_reason.values())
        states = session.execute(select(Review.state, func.count()).group_by(Review.state)).all()
        found.reviews = {state.value: many for state, many in states}
        found.verdicts = session.scalar(select(func.count()).select_from(Verdict)) or 0
        conflicts = select(func.count()).select_from(Verdict).where(Verdict.conflicts_with.is_not(None))
        found.conflicts = session.scalar(conflicts) or 0
        deletions = session.scalars(select(AuditEntry.detail).where(AuditEntry.action == "frames deleted"))
        found.deleted = sum(int(detail.get("frames", 0)) for detail in deletions)
        _look_at_reviews(session, found)


def _look_at_reviews(session: Session, found: Agreement) -> None:
    undecided = session.scalars(
        select(Review.id)
        .outerjoin(Verdict, (Verdict.review_id == Review.id) & Verdict.undone_ns.is_(None))
        .where(Review.state == ReviewState.DECIDED, Verdict.id.is_(None))
    )
    for id_ in undecided:
        found.problem("review", f"review {id_} is decided without a verdict")
    pictureless = session.scalars(
        select(Review.id).where(Review.state == ReviewState.READY, Review.base_image.is_(None))
    )
    for id_ in pictureless:
        found.problem("review", f"review {id_} is ready without a picture")


def _look_at_boots(
    catalogue: Catalogue, ledger: Ledger | None, known: set[tuple[str, str]], found: Agreement
) -> None:
    """Every sequence of every boot: filed, under a tombstone, both, or nowhere."""
    with catalogue.reading() as session:
        names = set(known)
        for table in (Frame, Tombstone):
            rows = session.execute(select(table.edge_id, table.boot_id).distinct())
            names |= {(edge_id, boot_id) for edge_id, boot_id in rows}
        found.boots = len(names)
        for edge_id, boot_id in sorted(names):
            received = None if ledger is None else ledger.received(edge_id, boot_id)
            _look_at_boot(session, edge_id, boot_id, received, found)


def _look_at_boot(
    session: Session, edge_id: str, boot_id: str, received: Received | None, found: Agreement
) -> None:
    filed = _ranges(
        session.scalars(
            select(Frame.seq)
            .where(Frame.edge_id == edge_id, Frame.boot_id == boot_id)
            .order_by(Frame.seq)
            .execution_options(yield_per=10_000)
        )
    )
    buried = session.execute(
        select(Tombstone.first_seq, Tombstone.last_seq)
        .where(Tombstone.edge_id == edge_id, Tombstone.boot_id == boot_id)
        .order_by(Tombstone.first_seq)
    ).all()
    covered = Received()
    for first, last in filed:
        covered.add(first, last)
    for first, last in buried:
        for one, other in _overlaps(filed, first, last):
            found.problem("doubled", f"{edge_id} {boot_id} {one}-{other} is filed, and under a tombstone")
        covered.add(first, last)
    if received is None:
        return
    top = max((last for _, last in received.parts()), default=-1)
    for whole in received.missing(0, top):
        for first, last in covered.missing(*whole):
            found.problem("gap", f"{edge_id} {boot_id} {first}-{last} never came, and later frames did")
    for first, last in covered.parts():
        for one, other in received.missing(
            first, min(last, top)
        ):  # what is newer came after the ledger was read
            found.problem(
                "ledger", f"{edge_id} {boot_id} {one}-{other} is in the catalogue, and not in the ledger"
            )


def _balance(found: Agreement) -> None:
    """Frames that the ledger took: filed, deleted since, waiting, or given up; what is over is nowhere."""
    if found.queued is None or found.received is None:
        return
    given_up = sum(found.by_reason.get(reason, 0) for reason in _OF_QUEUE)
    over = found.received - found.frames - found.deleted - found.queued - given_up
    if over > 0:
        found.problem(
            "lost",
            f"{over} frames were received, and are neither filed nor queued, deleted or under a tombstone",
        )


def _look_at_blobs(
    catalogue: Catalogue, blobs: Blobs, found: Agreement, *, before: float, with_hashes: bool
) -> None:
    sizes: dict[str, int] = {}
    old: list[str] = []
    for blob in blobs.listing():
        sizes[blob.key] = blob.bytes
        found.blob_bytes += blob.bytes
        if blob.modified < before:
            old.append(blob.key)
    found.blobs = len(sizes)
    for chunk in _chunks(old):
        for key in set(chunk) - wanted_blobs(catalogue, chunk):
            if blobs.exists(key):
                found.problem("orphan", f"blob {key} has no row; `secondlook retention` sweeps it out")
    with catalogue.reading() as session:
        frames = session.execute(
            select(Frame.base_blob, Frame.base_bytes)
            .where(Frame.retention != Retention.DELETING)
            .execution_options(yield_per=10_000)
        )
        for key, size in frames:
            _expect(blobs, sizes, key, found, size=size)
        reviews = session.execute(
            select(
                Review.id,
                Review.enhancement_blob,
                Review.base_image,
                Review.enhanced_image,
                Review.refined_image,
                Review.shown_sha256,
            )
            .join(Frame)
            .where(Frame.retention != Retention.DELETING)
        ).all()
    for id_, *keys, sha256 in reviews:
        named = [key for key in keys if key is not None]
        for key in named:
            _expect(blobs, sizes, key, found)
        if with_hashes and sha256 is not None and named:
            _check_hash(blobs, named[-1], sha256, id_, found)


def _expect(
    blobs: Blobs, sizes: dict[str, int], key: str, found: Agreement, *, size: int | None = None
) -> None:
    """A row's blob; one that came after the listing is looked for once more."""
    if key not in sizes:
        if not blobs.exists(key):
            found.problem("missing", f"blob {key} is named by a row, and not there")
    elif size is not None and sizes[key] != size:
        found.problem("size", f"blob {key} has {sizes[key]} bytes, and its row says {size}")


def _check_hash(blobs: Blobs, key: str, sha256: str, review: int, found: Agreement) -> None:
    try:
        data = blobs.get(key)
    except StoreCorrupt as error:
        found.problem("missing", str(error))
        return
    if hashlib.sha256(data).hexdigest() != sha256:
        found.problem("hash", f"review {review}: {key} is not the picture that people were shown")


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _overlaps(parts: list[tuple[int, int]], first: int, last: int) -> Iterator[tuple[int, int]]:
    for one, other in parts:
        if one <= last and other >= first:
            yield max(one, first), min(other, last)


def _chunks(keys: list[str]) -> Iterator[list[str]]:
    rest = iter(keys)
    while chunk := list(itertools.islice(rest, _AT_ONCE)):
        yield chunk
