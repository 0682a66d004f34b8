"""What people say of reviews: verdicts, their undoing, and when a review counts as decided.

A verdict speaks of the whole frame or of one box; the last one that stands counts. A review is decided once
a person confirmed, rejected or was unsure of the whole frame, found nothing in it or something without a box, or gave
a verdict on every box in it. A missed object only adds a box: more may follow. Verdicts are never changed or deleted;
undoing one marks it.

Two people may have the same frame before them. Who says which verdicts they had seen, and is told that somebody else
decided meanwhile, has a verdict in conflict: both are kept, and the frame is contested until one of them is undone or
somebody who has seen both gives a verdict on the whole frame. Of a sample, people judge frames without knowing what
others said (``blind``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.blind import (
    NO_SAMPLING,
    Sampling,
    counting_verdicts,
    forget_known,
    frame_opinion,
    is_probe,
    mix_in_known,
    note_opinion,
    note_probe,
    probes_of,
    state_to_judge,
    tell_or_withhold,
    withholds,
)
from secondlook.cloud.catalogue.feed import unindexed
from secondlook.cloud.catalogue.judged import note_judged
from secondlook.cloud.catalogue.opinions import BLIND, DOUBT, FrameOpinion, same_opinion
from secondlook.cloud.catalogue.reviews import audit_review, get_review, move_review
from secondlook.cloud.catalogue.schema import (
    Claim,
    Handover,
    KnownFrame,
    Retention,
    Review,
    ReviewState,
    Rule,
    Verdict,
    VerdictKind,
)
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.shared import metrics, tracing
from secondlook.shared.errors import DecidedMeanwhile, KeyReused, ReviewConflict
from secondlook.shared.logs import step
from secondlook.shared.texts import class_key, class_name, has_control

Box = tuple[float, float, float, float]

MAX_NOTE_LENGTH = 1000
REVIEWER_PATTERN = r"[^\x00-\x1f\x7f-\x9f]{1,64}"
KEY_PATTERN = r"[A-Za-z0-9._-]{8,64}"

_OF_FRAMES_ALONE = frozenset({VerdictKind.NO_OBJECT, VerdictKind.INCOMPLETE})
_WHOLE_FRAME = frozenset({VerdictKind.CONFIRM, VerdictKind.REJECT, VerdictKind.UNSURE}) | _OF_FRAMES_ALONE
_OF_ONE_BOX = frozenset({VerdictKind.WRONG_CLASS, VerdictKind.CORRECTED})
_PLACED = frozenset({VerdictKind.MISSED_OBJECT, VerdictKind.CORRECTED})
_LABELLED = _OF_ONE_BOX | _PLACED
_OPEN = frozenset({ReviewState.READY, ReviewState.EXPIRED})


@dataclass(frozen=True)
class NewVerdict:
    """A verdict as a person gives it. ``ValueError`` when its parts do not make sense together.

    ``shown_sha256`` is the hash of the very image on the person's screen. ``box_index`` counts the frame's
    detections from 0 in the order of their ids; None speaks of the whole frame. ``box`` (x0, y0, x1, y1 in
    pixels of the frame) is where a missed object is, or where a corrected box should be, ``label`` its class, or
    the right class where the machine's was wrong.

    A verdict that may be sent more than once carries the same ``idempotency_key`` each time. ``seen_verdict_id`` is
    the highest number among the verdicts of this review that the person had seen, 0 when there were none; None asks
    for no check.
    """

    kind: VerdictKind
    reviewer: str
    shown_sha256: str
    note: str = ""
    box_index: int | None = None
    label: str | None = None
    box: Box | None = None
    idempotency_key: str | None = None
    seen_verdict_id: int | None = None

    def __post_init__(self) -> None:
        name = self.reviewer
        if re.fullmatch(REVIEWER_PATTERN, name) is None or name != name.strip() or has_control(name):
            raise ValueError("a reviewer's name is 1 to 64 printable characters")
        if re.fullmatch(r"[0-9a-f]{64}", self.shown_sha256) is None:
            raise ValueError("shown_sha256 is 64 lower-case hex digits")
        if has_control(self.note, lines=True):
            raise ValueError("a note is text, without NUL and other control characters")
        if len(self.note) > MAX_NOTE_LENGTH:
            raise ValueError(f"a note has at most {MAX_NOTE_LENGTH} characters")
        if self.box_index is not None and self.box_index < 0:
            raise ValueError("box_index counts from 0")
        if self.idempotency_key is not None and re.fullmatch(KEY_PATTERN, self.idempotency_key) is None:
            raise ValueError("an idempotency key is 8 to 64 of letters, digits and . _ -")
        if self.seen_verdict_id is not None and self.seen_verdict_id < 0:
            raise ValueError("seen_verdict_id is 0 or the number of a verdict")
        self._check_correction()

    def _check_correction(self) -> None:
        corrects = self.kind in _LABELLED
        if corrects != (self.label is not None):
            raise ValueError(
                "a wrong class, a corrected box and a missed object name a label, other verdicts do not"
            )
        if self.label is not None and class_name(self.label) != self.label:
            raise ValueError("a label is a class name in NFC, without blanks around it")
        if self.kind in _OF_ONE_BOX and self.box_index is None:
            raise ValueError("a wrong class and a corrected box name their box_index")
        if self.kind is VerdictKind.MISSED_OBJECT and self.box_index is not None:
            raise ValueError("a missed object has no box_index")
        if self.kind in _OF_FRAMES_ALONE and self.box_index is not None:
            raise ValueError(f"{self.kind.value} speaks of the whole frame and has no box_index")
        if (self.kind in _PLACED) != (self.box is not None):
            raise ValueError("a missed object and a corrected box, and nothing else, come with a box")
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if not all(map(math.isfinite, self.box)) or not (0 <= x0 < x1 and 0 <= y0 < y1):
                raise ValueError("a box is x0 < x1, y0 < y1, in pixels of the frame")


@dataclass(frozen=True)
class UndoneVerdict:
    """Which verdict no longer stands, and of which review it was."""

    verdict_id: int
    review_id: int


def record_verdict(
    catalogue: Catalogue,
    review_id: int,
    verdict: NewVerdict,
    *,
    now_ns: int,
    sampling: Sampling = NO_SAMPLING,
) -> int:
    """Store what a person said of a review; returns the verdict's number.

    ``sampling``: which frames are judged by others too, or are a test of this person. A verdict
    whose key is stored already is not stored again, and is answered as it was the first time.

    Raises ReviewNotFound, ReviewConflict (not ready to be judged, no such box, or a box outside the frame), KeyReused,
    and DecidedMeanwhile when another person decided the frame unseen: the verdict is stored all the same.
    """
    try:
        with catalogue.writing() as session:
            review = get_review(session, review_id)
            repeated = _stored(session, review_id, verdict)
            entry = repeated or _add(session, review, verdict, sampling, now_ns)
            other = _named(review, entry.conflicts_with)
            frame = (review.frame.edge_id, review.frame.boot_id, review.frame.seq)
            shown_ns = review.refined_ns or review.created_ns
    except IntegrityError:
        # The same key came for another review at the same moment; now it is there to be found.
        found = find_repeated(catalogue, review_id, verdict)
        if found is None:
            raise
        return found
    if repeated is None:
        metrics.count("frames_reviewed_total", verdict.kind.value)
        step("judged", *frame, review=review_id)
        tracing.span("judge", *frame, shown_ns, now_ns, review=review_id, verdict=verdict.kind.value)
    return _answer(entry, other)


def find_repeated(catalogue: Catalogue, review_id: int, verdict: NewVerdict) -> int | None:
    """The number of a verdict that is stored already under this key; None when it is new.

    Raises KeyReused, and DecidedMeanwhile when that was the answer the first time.
    """
    with catalogue.reading() as session:
        entry = _stored(session, review_id, verdict)
        if entry is None:
            return None
        return _answer(entry, _named(entry.review, entry.conflicts_with))


def undo_verdict(
    catalogue: Catalogue, *, reviewer: str, now_ns: int, verdict_id: int | None = None
) -> UndoneVerdict:
    """Take back one standing verdict of a reviewer: ``verdict_id``, or the last one given.

    The review is open again when what is left does not decide it. Raises ReviewConflict when there is nothing
    to undo.
    """
    while True:
        with catalogue.writing() as session:
            number, review_id = _standing_verdict(session, reviewer, verdict_id)
            # The review first, as whoever gives a verdict locks it: two that lock in two orders wait for each other.
            review = get_review(session, review_id)
            entry = session.get_one(Verdict, number)
            if entry.undone_ns is None:
                _undo(session, review, entry, now_ns)
                return UndoneVerdict(number, review_id)
        # Another window of this person has undone it meanwhile.


def _undo(session: Session, review: Review, entry: Verdict, now_ns: int) -> None:
    reviewer, before, secret = entry.reviewer, review.state, entry.withheld
    vouched = _vouched(session, review)
    entry.undone_ns = now_ns
    told: list[Verdict] = []
    if entry.probe:
        complete = _is_complete(session, review, reviewer)
        note_probe(session, review, reviewer, complete=complete, now_ns=now_ns)
    else:
        told = _settle(session, review, reviewer, NO_SAMPLING, now_ns)
    dropped = _unknown_now(session, review, before, vouched)
    detail: dict[str, object] = {
        "verdict_id": entry.id,
        "verdict": entry.verdict.value,
        "state_before": before.value,
        "state_after": review.state.value,
    }
    if secret:
        detail["withheld"] = True
    audit_review(session, now_ns, reviewer, "verdict undone", review.id, detail)
    _note_told(session, review, told, now_ns)
    if dropped is not None:
        audit_review(session, now_ns, "station", "known frame dropped", review.id, dropped)


def _vouched(session: Session, review: Review) -> FrameOpinion | None:
    """Of a known frame, the decision that an admin chose it for; None of any other."""
    if review.state is not ReviewState.DECIDED or session.get(KnownFrame, review.id) is None:
        return None
    return frame_opinion(review, counting_verdicts(review))


def _unknown_now(
    session: Session, review: Review, before: ReviewState, vouched: FrameOpinion | None
) -> dict[str, object] | None:
    """A decided frame whose decision is undone, in doubt or another one than was ``vouched`` for tries nobody any more.

    What the audit trail says of it, where it was a known one until now.
    """
    if before is not ReviewState.DECIDED:
        return None
    if review.state is not ReviewState.DECIDED:
        why = "it is not decided any more"
    elif is_doubtful(review):
        why = "its decision is in doubt"
    elif vouched is not None and not same_opinion(vouched, frame_opinion(review, counting_verdicts(review))):
        why = "its decision changed"
    else:
        return None
    return {"why": why} if forget_known(session, review.id) else None


def is_decided(box_count: int, verdicts: Sequence[Verdict]) -> bool:
    """Whether the verdicts that stand settle a frame with ``box_count`` detections."""
    standing = [entry for entry in verdicts if entry.undone_ns is None]
    if any(entry.box_index is None and entry.verdict in _WHOLE_FRAME for entry in standing):
        return True
    judged = {entry.box_index for entry in standing if entry.box_index is not None}
    return box_count > 0 and len(judged) == box_count


def conflict_of(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The last verdict that contests another one, where both stand, differ, and nobody settled it since."""
    standing = {entry.id: entry for entry in verdicts if entry.undone_ns is None}
    last = None
    for entry in standing.values():
        if entry.conflicts_with is not None:
            other = standing.get(entry.conflicts_with)
            if other is not None and _meaning(other) != _meaning(entry):
                last = entry
        elif last is not None and entry.box_index is None and entry.verdict in _WHOLE_FRAME:
            last = None
    return last


def is_doubtful(review: Review) -> bool:
    """Whether a frame's decision leaves anything open, so that nobody can be measured by it."""
    opinion = frame_opinion(review, counting_verdicts(review))
    unsure = opinion.open or opinion.unsure or DOUBT in opinion.boxes
    return unsure or conflict_of(review.verdicts) is not None


def _meaning(entry: Verdict) -> tuple[object, ...]:
    moved = (entry.x0, entry.y0, entry.x1, entry.y1) if entry.verdict is VerdictKind.CORRECTED else None
    return entry.verdict, entry.box_index, class_key(entry.label or ""), moved


def _stored(session: Session, review_id: int, verdict: NewVerdict) -> Verdict | None:
    """The verdict that came with this key before. Raises KeyReused when it was another one."""
    if verdict.idempotency_key is None:
        return None
    entry = session.scalars(
        select(Verdict).where(
            Verdict.reviewer == verdict.reviewer, Verdict.idempotency_key == verdict.idempotency_key
        )
    ).one_or_none()
    if entry is None:
        return None
    given = _row(review_id, verdict, 0)
    same = ("review_id", "note", "x0", "y0", "x1", "y1", "shown_sha256")
    if _meaning(entry) != _meaning(given) or any(getattr(entry, n) != getattr(given, n) for n in same):
        raise KeyReused(f"the key {verdict.idempotency_key} belongs to verdict {entry.id}, which differs")
    return entry


def _add(session: Session, review: Review, verdict: NewVerdict, sampling: Sampling, now_ns: int) -> Verdict:
    probe = is_probe(session, review.id, verdict.reviewer)
    given = probes_of(session, review.id, verdict.reviewer) if probe else review.verdicts
    _check_against_frame(review, verdict, given)
    before = review.state
    # One that was skipped may have been on the person's screen when that came about; one that is settled can be opened.
    on_screen = before in (ReviewState.SKIPPED, ReviewState.SETTLED) and review.base_image is not None
    if before not in _OPEN | {ReviewState.DECIDED} and not on_screen:
        raise ReviewConflict(f"review {review.id} is {before.value} and cannot be judged yet")
    other = None if probe else _unseen_decision(review, verdict)
    entry = _row(review.id, verdict, now_ns)
    frame = review.frame
    entry.frame_id, entry.captured_ns, entry.edge_id = frame.id, frame.captured_ns, frame.edge_id
    entry.conflicts_with = None if other is None else other.id
    entry.probe = probe
    vouched = _vouched(session, review)
    if probe:
        session.add(entry)
    else:
        review.verdicts.append(entry)
    session.flush()
    done, told = _file(session, review, entry, sampling, now_ns)
    dropped = _unknown_now(session, review, before, vouched)
    if done:
        for kind in (Claim, Handover):
            session.execute(delete(kind).where(kind.review_id == review.id))
    detail: dict[str, object] = {
        "verdict_id": entry.id,
        "verdict": verdict.kind.value,
        "box_index": verdict.box_index,
        "label": verdict.label,
        "box": None if verdict.box is None else list(verdict.box),
        "note": verdict.note,
        "shown_sha256": verdict.shown_sha256,
        "codec_model": review.codec_model,
        "postfilter": review.postfilter,
        "state_before": before.value,
        "state_after": review.state.value,
    }
    if other is not None:
        detail["conflicts_with"] = other.id
    if entry.withheld:
        detail["withheld"] = True
    audit_review(session, now_ns, verdict.reviewer, "verdict given", review.id, detail)
    _note_told(session, review, told, now_ns)
    if dropped is not None:
        audit_review(session, now_ns, "station", "known frame dropped", review.id, dropped)
    return entry


def _note_told(session: Session, review: Review, told: Sequence[Verdict], now_ns: int) -> None:
    """Who follows what happens hears now of verdicts that were withheld when they were given."""
    for entry in told:
        detail = {"verdict_id": entry.id, "verdict": entry.verdict.value}
        audit_review(session, now_ns, "station", "verdict told", review.id, detail)


def _file(
    session: Session, review: Review, entry: Verdict, sampling: Sampling, now_ns: int
) -> tuple[bool, list[Verdict]]:
    """What follows from a new verdict: whether its giver is done with the frame, and which others may be told of."""
    told: list[Verdict] = []
    complete = _is_complete(session, review, entry.reviewer)
    if entry.probe:
        note_probe(session, review, entry.reviewer, complete=complete, now_ns=now_ns)
    else:
        told = _settle(session, review, entry.reviewer, sampling, now_ns)
    done = complete or review.state is ReviewState.DECIDED
    if done and sampling.draws_known(entry.id):
        mix_in_known(session, entry.reviewer, now_ns=now_ns)
    return done, told


def _is_complete(session: Session, review: Review, reviewer: str) -> bool:
    """Whether what a person says, alone, decides a frame."""
    probe = is_probe(session, review.id, reviewer)
    given = probes_of(session, review.id, reviewer) if probe else review.verdicts
    return is_decided(len(review.frame.detections), [v for v in given if v.reviewer == reviewer])


def _unseen_decision(review: Review, verdict: NewVerdict) -> Verdict | None:
    """Another person's verdict that this one's giver had not seen, on a frame that is decided."""
    if verdict.seen_verdict_id is None or review.state is not ReviewState.DECIDED:
        return None
    unseen = [
        entry
        for entry in review.verdicts
        if entry.undone_ns is None
        and entry.id > verdict.seen_verdict_id
        and entry.reviewer != verdict.reviewer
    ]
    return unseen[-1] if unseen else None


def _named(review: Review, verdict_id: int | None) -> Verdict | None:
    return next((entry for entry in review.verdicts if entry.id == verdict_id), None)


def _answer(entry: Verdict, other: Verdict | None) -> int:
    if other is None:
        return entry.id
    raise DecidedMeanwhile(
        f"{other.reviewer} decided this frame meanwhile: {other.verdict.value.replace('_', ' ')}; both are kept",
        verdict_id=entry.id,
        other_id=other.id,
    )


def _settle(
    session: Session, review: Review, reviewer: str, sampling: Sampling, now_ns: int
) -> list[Verdict]:
    """Move a review to the state its standing verdicts give it, and its frame to the class that goes with it.

    ``reviewer``: whose verdicts changed. Gives the verdicts that were withheld, and are not any more.
    """
    complete = is_decided(
        len(review.frame.detections), [entry for entry in review.verdicts if entry.reviewer == reviewer]
    )
    double = note_opinion(session, review, reviewer, complete=complete, sampling=sampling, now_ns=now_ns)
    if double is None:
        decided = is_decided(len(review.frame.detections), review.verdicts)
    else:
        decided = double.stage not in BLIND
    if decided:
        state = ReviewState.DECIDED
    else:
        state = state_to_judge(review)
    if state is not review.state:
        move_review(review, state)
    if state is not ReviewState.DECIDED:
        kept = Retention.UNDECIDED
    else:
        sampled = any(reason.rule == Rule.AUDIT for reason in review.reasons)
        kept = Retention.AUDIT if sampled else Retention.DECIDED
    # Also where the state stays: who looks at a decided frame again wants it kept from then on.
    review.frame.retention, review.frame.retention_ns = kept, now_ns
    note_judged(session, review, contested=conflict_of(review.verdicts) is not None)
    return tell_or_withhold(review, withholds(review, double, sampling))


def _standing_verdict(session: Session, reviewer: str, verdict_id: int | None) -> tuple[int, int]:
    """The number of a verdict that stands, and of its review."""
    # From the last one back: by the index of reviewers, all of theirs would be sorted.
    query = select(Verdict.id, Verdict.review_id)
    query = query.where(unindexed(Verdict.reviewer) == reviewer, Verdict.undone_ns.is_(None))
    if verdict_id is not None:
        query = query.where(Verdict.id == verdict_id)
    found = session.execute(query.order_by(Verdict.id.desc()).limit(1)).one_or_none()
    if found is None:
        what = "verdict" if verdict_id is None else f"verdict {verdict_id}"
        raise ReviewConflict(f"there is no {what} of {reviewer} to undo")
    return found.id, found.review_id


def _check_against_frame(review: Review, verdict: NewVerdict, given: Sequence[Verdict]) -> None:
    frame = review.frame
    if verdict.box_index is not None and verdict.box_index >= len(frame.detections):
        raise ReviewConflict(f"review {review.id} has no box {verdict.box_index}")
    if verdict.box is not None and (verdict.box[2] > frame.width or verdict.box[3] > frame.height):
        raise ReviewConflict(f"the box leaves the frame of review {review.id}")
    if verdict.kind is VerdictKind.NO_OBJECT:
        drawn = any(v.undone_ns is None and v.verdict is VerdictKind.MISSED_OBJECT for v in given)
        if frame.detections or drawn:
            raise ReviewConflict(f"review {review.id} has boxes: reject them, or undo those that were drawn")


def _row(review_id: int, verdict: NewVerdict, now_ns: int) -> Verdict:
    x0, y0, x1, y1 = (None, None, None, None) if verdict.box is None else verdict.box
    return Verdict(
        review_id=review_id,
        reviewer=verdict.reviewer,
        verdict=verdict.kind,
        note=verdict.note,
        box_index=verdict.box_index,
        label=verdict.label,
        x0=x0,
        y0=y0,
        x1=x1,
        y1=y1,
        decided_ns=now_ns,
        shown_sha256=verdict.shown_sha256,
        idempotency_key=verdict.idempotency_key,
    )
