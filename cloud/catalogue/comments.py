"""What people write beside frames for each other. Plain text, of its author alone to delete, gone with the frame.

The audit trail says that somebody wrote or deleted a comment, and never what it said: what is deleted is gone.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from secondlook.cloud.catalogue.doubts import wants_person
from secondlook.cloud.catalogue.reviews import audit_review, get_review
from secondlook.cloud.catalogue.schema import Comment, Review
from secondlook.cloud.catalogue.store import Catalogue
from secondlook.shared.errors import CommentNotFound, ReviewConflict
from secondlook.shared.texts import has_control

MAX_COMMENT_LENGTH = 1000  # characters
MAX_COMMENTS = 200  # of one frame, those too that were deleted


def comment_text(text: str) -> str:
    """A comment as it is stored. Raises ValueError for one that is empty, too long, or no plain text."""
    stripped = text.replace("\r\n", "\n").strip()
    if not stripped:
        raise ValueError("a comment says something")
    if has_control(stripped, lines=True):
        raise ValueError("a comment is text, without NUL and other control characters")
    if len(stripped) > MAX_COMMENT_LENGTH:
        raise ValueError(f"a comment has at most {MAX_COMMENT_LENGTH} characters")
    return stripped


def give_comment(catalogue: Catalogue, review_id: int, *, author: str, text: str, now_ns: int) -> int:
    """Store a comment on a review; returns its number.

    Somebody's last words on a frame, sent again, are not stored again. Raises ValueError, ReviewNotFound,
    ReviewConflict where the frame has as many comments as it may have.
    """
    said = comment_text(text)
    with catalogue.writing() as session:
        comment, is_new = add_comment(session, get_review(session, review_id), author, said, now_ns)
        if is_new:
            audit_review(session, now_ns, author, "comment given", review_id, {"comment_id": comment.id})
        return comment.id


def add_comment(
    session: Session, review: Review, author: str, text: str, now_ns: int
) -> tuple[Comment, bool]:
    """A comment, and whether it is new; the line in the audit trail is the caller's. Raises ReviewConflict."""
    of_frame = Comment.review_id == review.id
    last = session.scalars(select(Comment).where(of_frame).order_by(Comment.id.desc()).limit(1)).first()
    if last is not None and last.deleted_ns is None and (last.author, last.text) == (author, text):
        return last, False
    if (session.scalar(select(func.count()).select_from(Comment).where(of_frame)) or 0) >= MAX_COMMENTS:
        raise ReviewConflict(f"review {review.id} has {MAX_COMMENTS} comments: it takes no more")
    comment = Comment(review_id=review.id, author=author, text=text, written_ns=now_ns)
    wants_person(review)
    session.add(comment)
    session.flush()
    return comment, True


def delete_comment(
    catalogue: Catalogue, comment_id: int, *, actor: str, is_admin: bool = False, now_ns: int
) -> int:
    """Take a comment's text away: its author may, and an admin; returns its review. Deleted ones stay deleted.

    Raises CommentNotFound, ReviewGone, ReviewConflict where it is somebody else's.
    """
    with catalogue.writing() as session:
        review_id = session.scalar(select(Comment.review_id).where(Comment.id == comment_id))
        if review_id is None:
            raise CommentNotFound(f"there is no comment {comment_id}")
        get_review(session, review_id)
        comment = session.get_one(Comment, comment_id, populate_existing=True)
        if comment.author != actor and not is_admin:
            raise ReviewConflict(f"comment {comment_id} is {comment.author}'s: others do not delete it")
        if comment.deleted_ns is None:
            comment.text, comment.deleted_ns = "", now_ns
            session.flush()
            detail = {"comment_id": comment_id, "author": comment.author}
            audit_review(session, now_ns, actor, "comment deleted", review_id, detail)
        return review_id
