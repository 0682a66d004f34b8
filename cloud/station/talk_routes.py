"""The part of the station's API by which people speak with each other: comments on frames, and handing frames over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse, StreamingResponse

from secondlook.cloud.accounts import Role, Scope
from secondlook.cloud.catalogue import Catalogue, delete_comment, give_comment, hand_over, note_export
from secondlook.cloud.station import queries, schema, talk
from secondlook.cloud.station.access import Caller, GuardedRoute, Hearer, may_know
from secondlook.shared.errors import ClaimHeld

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]


def build_talk_router(catalogue: Catalogue, *, now_ns: Callable[[], int]) -> APIRouter:
    """Routes below /api for comments and hand-overs; ``now_ns`` tells the time in Unix nanoseconds."""
    router = APIRouter(prefix="/api", route_class=GuardedRoute)

    @router.get("/colleagues")
    def colleagues() -> list[str]:
        """Whom a frame may be handed to."""
        return talk.colleagues(catalogue, now_ns=now_ns())

    @router.post("/reviews/{review_id}/comments")
    def comment(review_id: Id, body: schema.CommentIn, caller: Caller) -> schema.ReviewDetail:
        """Write something beside a frame, for all who see it. One's last words on it, sent again, count once."""
        author = schema.reviewer_of(body, caller)
        give_comment(catalogue, review_id, author=author, text=body.text, now_ns=now_ns())
        return queries.review_detail(catalogue, review_id, author, may_know=may_know(caller))

    @router.post("/comments/{comment_id}/delete")
    def delete(comment_id: Id, body: schema.ReviewerIn, caller: Caller) -> schema.ReviewDetail:
        """Take the text of a comment of one's own away; admins may do so with any."""
        actor = schema.reviewer_of(body, caller)
        is_admin = caller.role is Role.ADMIN and Scope.ADMIN in caller.scopes
        review_id = delete_comment(catalogue, comment_id, actor=actor, is_admin=is_admin, now_ns=now_ns())
        return queries.review_detail(catalogue, review_id, actor, may_know=may_know(caller))

    @router.post(
        "/reviews/{review_id}/handover",
        response_model=schema.ReviewDetail,
        responses={409: {"model": schema.ClaimRefused}},
    )
    def handover(
        review_id: Id, body: schema.HandoverIn, caller: Caller
    ) -> schema.ReviewDetail | JSONResponse:
        """Hand a frame to a colleague, who is given it next, and nobody else; or back to all. One's claim on it ends.

        409 while somebody else has it open (`holder`), and when nothing is to be judged in it.
        """
        actor = schema.reviewer_of(body, caller)
        if body.to is not None:
            talk.check_colleague(catalogue, body.to)
        try:
            hand_over(catalogue, review_id, actor=actor, to=body.to, comment=body.comment, now_ns=now_ns())
        except ClaimHeld as error:
            return JSONResponse({"detail": str(error), "holder": error.holder}, 409)
        return queries.review_detail(catalogue, review_id, actor, may_know=may_know(caller))

    @router.get("/export/comments.jsonl", response_class=StreamingResponse)
    def export_comments(caller: Caller, hearer: Hearer) -> StreamingResponse:
        """Every comment that stands, one JSON object a line; of frames that are judged blindly one's own alone."""
        note_export(catalogue, caller.name or "local", "comments.jsonl", {}, now_ns=now_ns())
        headers = {"content-disposition": 'attachment; filename="secondlook-comments.jsonl"'}
        lines = talk.comment_lines(catalogue, hearer)
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)

    return router
