"""Which frames reviewers are tried with: an admin chooses them among those that are decided and beyond doubt."""

from __future__ import annotations

from secondlook.cloud.catalogue.blind import ask_no_more
from secondlook.cloud.catalogue.reviews import audit_review, get_review
from secondlook.cloud.catalogue.schema import KnownFrame, Review, ReviewState
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.cloud.catalogue.verdicts import is_doubtful
from secondlook.shared.errors import ReviewConflict


def set_known(catalogue: Catalogue, review_id: int, known: bool, *, actor: str, now_ns: int) -> None:
    """Let a decided frame be one by which reviewers are tried, or no longer; who has it before them is let off.

    Raises ReviewNotFound, ReviewConflict where it is not decided, or in doubt.
    """
    with catalogue.writing() as session:
        review = get_review(session, review_id)
        row = session.get(KnownFrame, review_id)
        if (row is not None) is known:
            return
        if row is not None:
            session.delete(row)
            session.flush()
            ask_no_more(session, review_id)
        else:
            _check(review)
            session.add(KnownFrame(review_id=review_id, since_ns=now_ns, chosen_by=actor))
        session.flush()
        what = "known frame chosen" if known else "known frame dropped"
        audit_review(session, now_ns, actor, what, review_id, {})


def _check(review: Review) -> None:
    if review.state is not ReviewState.DECIDED:
        raise ReviewConflict(f"review {review.id} is {review.state.value}: only what is decided can be known")
    if review.crop is not None:  # to fetch the rest for those who are tried would tell them
        raise ReviewConflict(f"review {review.id} shows a crop: only what is shown whole can be known")
    if (
        review.refined_image is None and review.enhancement_blob is not None
    ):  # no other frame to be judged looks so
        raise ReviewConflict(f"review {review.id} was settled, and never refined: it tries nobody")
    if is_doubtful(review):
        raise ReviewConflict(f"review {review.id} is in doubt, and tries nobody")
