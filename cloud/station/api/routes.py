"""The routes of the versioned API. What they send is in `schema`, what they read in `queries`."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from secondlook.cloud.accounts import Role, Scope
from secondlook.cloud.catalogue import (
    Audience,
    Catalogue,
    ReviewState,
    Sampling,
    ask_for_review,
    delete_comment,
    find_repeated,
    give_comment,
    hand_over,
    record_verdict,
    undo_verdict,
)
from secondlook.cloud.decoding.files import media_type
from secondlook.cloud.station import talk
from secondlook.cloud.station.access import Caller, Hearer
from secondlook.cloud.station.api import queries, schema
from secondlook.cloud.station.api.events import CameraWatch, Listening, Stream, place_of
from secondlook.cloud.station.api.guard import ApiRoute
from secondlook.cloud.station.api.limits import CallerLimits
from secondlook.cloud.station.api.pictures import LayerPictures
from secondlook.cloud.station.api.queries import Found, Paging, Said, Seen
from secondlook.cloud.station.classes import ClassBook
from secondlook.cloud.station.problems import MEDIA_TYPE
from secondlook.cloud.station.schema import (
    CommentIn,
    HandoverIn,
    ReviewerIn,
    VerdictIn,
    reviewer_of,
)
from secondlook.shared.errors import DecidedMeanwhile, FrameNotFound, ReviewConflict
from secondlook.shared.version import __version__

Id = Annotated[int, Path(ge=1, le=2**63 - 1, examples=[1042])]
State = Annotated[ReviewState | None, Query(description="Whose review is in this state.")]
Pages = Annotated[Paging, Depends()]
OfFrames = Annotated[Seen, Depends()]
OfBoxes = Annotated[Found, Depends()]
Sayings = Annotated[Said, Depends()]
Listens = Annotated[Listening, Depends()]

_TITLE = "Secondlook API"
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.Problem, "content": {MEDIA_TYPE: {}}, "description": why}
    for status, why in (
        (400, "The request itself is not understood."),
        (401, "No token, or none that is good."),
        (403, "The token's role or scopes do not reach so far."),
        (422, "A parameter is unknown, out of range, or not what it should be."),
        (429, "Too many requests; `Retry-After` says when to come again."),
        (503, "The catalogue does not answer."),
    )
}
_MISSING: dict[int | str, dict[str, Any]] = {
    404: {"model": schema.Problem, "content": {MEDIA_TYPE: {}}, "description": "There is none."}
}
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": schema.Problem, "content": {MEDIA_TYPE: {}}, "description": "What is there forbids it."}
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/webp": {}, "image/png": {}}, "description": "The picture's file."},
    304: {"description": "It is the one that `If-None-Match` names."},
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "Events named by their kind, whose data is an `EventData`; `hello` and `alive` have none.",
    }
}
_SECURITY = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "`secondlook tokens new`; scopes read, review, admin, unsettled.",
    },
    "session": {"type": "apiKey", "in": "cookie", "name": "secondlook", "description": "A person's log-in."},
}


def build_api(
    catalogue: Catalogue,
    pictures: LayerPictures,
    *,
    sampling: Sampling,
    classes: ClassBook,
    silent_seconds: float,
    now_ns: Callable[[], int],
) -> APIRouter:
    """All routes below /api/v1; ``now_ns`` tells the time in Unix nanoseconds."""
    router = APIRouter(prefix="/api/v1", route_class=ApiRoute, responses=_REFUSALS)
    _add_lists(router, catalogue)
    _add_further_lists(router, catalogue)
    _add_single(router, catalogue)
    _add_pictures(router, pictures)
    _add_events(router, catalogue, silent_seconds=silent_seconds, now_ns=now_ns)
    _add_writes(router, catalogue, pictures, sampling, classes, now_ns=now_ns)
    _add_talk(router, catalogue, now_ns=now_ns)

    @router.get("/openapi.json", include_in_schema=False)
    def openapi(request: Request) -> JSONResponse:
        return JSONResponse(description(router, str(request.scope.get("root_path", ""))))

    return router


def description(router: APIRouter, root_path: str = "") -> dict[str, Any]:
    """The OpenAPI document of the versioned API alone."""
    document = get_openapi(
        title=_TITLE,
        version=__version__,
        description="docs/api.md says what may be relied on.",
        routes=router.routes,
        servers=[{"url": root_path}] if root_path else None,
    )
    document.setdefault("components", {})["securitySchemes"] = _SECURITY
    for operations in document["paths"].values():
        for method, operation in operations.items():
            scope = "read" if method == "get" else "review"
            operation["security"] = [{"token": [scope]}, {"session": []}]
    return document


def _add_lists(router: APIRouter, catalogue: Catalogue) -> None:
    @router.get("/cameras", operation_id="listCameras")
    def cameras() -> schema.Page[schema.Camera]:
        """Every camera host, in one page."""
        return schema.Page[schema.Camera](items=queries.list_cameras(catalogue), next="", more=False)

    @router.get("/frames", operation_id="listFrames")
    def frames(
        paging: Pages,
        seen: OfFrames,
        found: OfBoxes,
        hearer: Hearer,
        state: State = None,
        unseen: Annotated[
            bool | None, Query(description="true: no machine looked at it; false: one did.")
        ] = None,
    ) -> schema.Page[schema.Frame]:
        """Stored frames with their detections; `label` and scores: those that hold such a detection."""
        return queries.list_frames(catalogue, paging, seen, found, state, unseen, hearer)

    @router.get("/detections", operation_id="listDetections")
    def detections(
        paging: Pages,
        seen: OfFrames,
        found: OfBoxes,
        object: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Of one object.")] = None,
    ) -> schema.Page[schema.Detection]:
        """What machines found."""
        return queries.list_detections(catalogue, paging, seen, found, object)

    @router.get("/objects", operation_id="listObjects")
    def objects(paging: Pages, seen: OfFrames, found: OfBoxes) -> schema.Page[schema.SeenObject]:
        """Things that cameras had in view, each over its frames; `since` and `until`: in view between them."""
        return queries.list_objects(catalogue, paging, seen, found)

    @router.get("/reviews", operation_id="listReviews")
    def reviews(
        paging: Pages,
        seen: OfFrames,
        found: OfBoxes,
        hearer: Hearer,
        state: State = None,
        handed_to: Annotated[
            str | None, Query(max_length=128, description="That wait for one person.")
        ] = None,
    ) -> schema.Page[schema.Review]:
        """Frames that people are to see; `label` and scores: those that hold such a detection."""
        return queries.list_reviews(catalogue, paging, seen, found, state, handed_to, hearer)

    @router.get("/verdicts", operation_id="listVerdicts")
    def verdicts(paging: Pages, seen: OfFrames, said: Sayings, hearer: Hearer) -> schema.Page[schema.Verdict]:
        """What people said; undone verdicts stay in the list, and say when they were undone.

        Others' verdicts on a frame in double review are left out until it is decided, but for tokens with the scope
        `unsettled`. Follow events to miss none.
        """
        return queries.list_verdicts(catalogue, paging, seen, said, hearer)


def _add_further_lists(router: APIRouter, catalogue: Catalogue) -> None:
    @router.get("/comments", operation_id="listComments")
    def comments(
        paging: Pages,
        seen: OfFrames,
        hearer: Hearer,
        author: Annotated[str | None, Query(max_length=128, description="Of one person.")] = None,
        review: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="On one frame.")] = None,
    ) -> schema.Page[schema.Comment]:
        """What people wrote beside frames; deleted comments stay in the list, without their text."""
        return queries.list_comments(catalogue, paging, seen, author, review, hearer)

    @router.get("/tombstones", operation_id="listTombstones")
    def tombstones(
        paging: Pages,
        seen: OfFrames,
        reason: Annotated[str | None, Query(max_length=255, description="Of one reason.")] = None,
    ) -> schema.Page[schema.Tombstone]:
        """Frames that were dropped; here `since` and `until` are of when the gateway heard of it."""
        return queries.list_tombstones(catalogue, paging, seen, reason)


def _add_single(router: APIRouter, catalogue: Catalogue) -> None:
    @router.get("/cameras/{edge_id}", operation_id="getCamera", responses=_MISSING)
    def camera(edge_id: Annotated[str, Path(max_length=64, examples=["gate-north"])]) -> schema.Camera:
        """One camera host."""
        return queries.camera(catalogue, edge_id)

    @router.get("/cameras/{edge_id}/events", operation_id="listCameraEvents", responses=_MISSING)
    def camera_events(
        edge_id: Annotated[str, Path(max_length=64, examples=["gate-north"])],
    ) -> schema.Page[schema.CameraTrouble]:
        """When a camera was stalled or offline, the latest first, in one page."""
        found = queries.camera_events(catalogue, edge_id)
        return schema.Page[schema.CameraTrouble](items=found, next="", more=False)

    @router.get("/frames/{frame_id}", operation_id="getFrame", responses=_MISSING)
    def frame(frame_id: Id) -> schema.Frame:
        """One frame with its detections."""
        return queries.frame(catalogue, frame_id)

    @router.get("/reviews/{review_id}", operation_id="getReview", responses=_MISSING)
    def review(review_id: Id, hearer: Hearer) -> schema.Review:
        """One review."""
        return queries.review(catalogue, review_id, hearer)

    @router.get("/verdicts/{verdict_id}", operation_id="getVerdict", responses=_MISSING)
    def verdict(verdict_id: Id, hearer: Hearer) -> schema.Verdict:
        """One verdict."""
        return queries.verdict(catalogue, verdict_id, hearer)

    @router.get("/comments/{comment_id}", operation_id="getComment", responses=_MISSING)
    def comment(comment_id: Id, hearer: Hearer) -> schema.Comment:
        """One comment."""
        return queries.comment(catalogue, comment_id, hearer)


def _add_pictures(router: APIRouter, pictures: LayerPictures) -> None:
    @router.get("/frames/{frame_id}/pictures", operation_id="listPictures", responses=_MISSING)
    def listed(frame_id: Id) -> schema.Page[schema.Picture]:
        """The pictures that there are of a frame, by layer, with the hashes of their bytes."""
        return schema.Page[schema.Picture](items=pictures.listed(frame_id), next="", more=False)

    @router.get(
        "/frames/{frame_id}/pictures/{name}",
        operation_id="getPicture",
        response_class=Response,
        responses={**_MISSING, **_FILE},
    )
    def picture(
        frame_id: Id,
        name: Annotated[
            str,
            Path(
                pattern="^(base|enhanced|refined|thumb|[0-9a-f]{64})$",
                description="A layer, or the SHA-256 of a picture, as verdicts name it.",
                examples=["base"],
            ),
        ],
        request: Request,
    ) -> Response:
        """One picture's file, lossless but for `thumb`; `ETag` and `X-Content-SHA256` are the hash of its bytes."""
        data = pictures.get(frame_id, name)
        sha256 = hashlib.sha256(data).hexdigest()
        headers = {"etag": f'"{sha256}"', "x-content-sha256": sha256}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=media_type(data), headers=headers)


def _add_events(
    router: APIRouter, catalogue: Catalogue, *, silent_seconds: float, now_ns: Callable[[], int]
) -> None:
    @router.get("/events", operation_id="streamEvents", response_class=StreamingResponse, responses=_STREAM)
    async def events(request: Request, wanted: Listens, hearer: Hearer) -> Response:
        """What happens, as server-sent events, from a cursor on: detections, tombstones, reviews, verdicts, comments.

        `camera` tells whether camera hosts deliver: of each when the stream begins, then of changes. `label` and
        `min_score` narrow detections alone. Retention takes events away with what they tell of.
        """
        limits: CallerLimits = request.app.state.api_limits
        after = request.headers.get("last-event-id") or wanted.after
        place = await run_in_threadpool(place_of, catalogue, after)
        if not limits.open_stream():
            return JSONResponse(
                {"detail": "all places for streams are taken; try again later"}, 429, {"retry-after": "5"}
            )
        watch = CameraWatch(catalogue, wanted.camera, silent_seconds=silent_seconds, now_ns=now_ns)
        stream = Stream(
            catalogue,
            wanted.interest(hearer),
            wanted.seconds,
            may_listen=lambda: request.app.state.authorizer.still_admits(request),
            stopping=request.app.state.stopping,
            cameras=watch if wanted.hears_of_cameras else None,
        )
        return _Streamed(stream.parts(place), limits.close_stream)


class _Streamed(StreamingResponse):
    """A stream that gives its place back however it ends, also when nothing of it was sent."""

    def __init__(self, parts: AsyncIterator[str], ended: Callable[[], None]) -> None:
        # Proxies that collect answers before they pass them on are told not to.
        super().__init__(parts, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self._ended = ended

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def _add_writes(
    router: APIRouter,
    catalogue: Catalogue,
    pictures: LayerPictures,
    sampling: Sampling,
    classes: ClassBook,
    *,
    now_ns: Callable[[], int],
) -> None:
    @router.post(
        "/reviews/{review_id}/verdicts",
        operation_id="giveVerdict",
        status_code=201,
        responses={**_MISSING, **_CONFLICT},
    )
    def give_verdict(review_id: Id, body: VerdictIn, caller: Caller) -> schema.Verdict:
        """Say what is in a frame, in the name of the token's user. Sent again with the same key, it counts once.

        409 when the review cannot be judged yet, when no picture of its frame has the hash that was shown, and when
        somebody else decided it since `seen_verdict_id`: both verdicts are kept then. A `label` that differs from a
        class in use by its case alone is stored, and answered, as that is written.
        """
        label = None if body.label is None else classes.spelling(body.label)
        verdict = body.as_verdict(reviewer_of(body, caller), label)
        audience = Audience(verdict.reviewer)
        try:
            number = find_repeated(catalogue, review_id, verdict)
            if number is None:
                _check_shown(queries.review(catalogue, review_id, audience), body.shown_sha256)
                number = record_verdict(catalogue, review_id, verdict, now_ns=now_ns(), sampling=sampling)
        except DecidedMeanwhile as error:
            if queries.hears(catalogue, error.other_id, audience):
                raise
            number = error.verdict_id  # by now others judge the frame without knowing of the other verdict
        return queries.verdict(catalogue, number, audience)

    def _check_shown(review: schema.Review, sha256: str) -> None:
        try:
            pictures.get(review.frame_id, sha256)
        except FrameNotFound as error:
            raise ReviewConflict(f"no picture of review {review.id} has the hash that was shown") from error

    @router.post(
        "/verdicts/{verdict_id}/undo", operation_id="undoVerdict", responses={**_MISSING, **_CONFLICT}
    )
    def undo(verdict_id: Id, body: ReviewerIn, caller: Caller) -> schema.Verdict:
        """Take back a verdict of one's own."""
        reviewer = reviewer_of(body, caller)
        undone = undo_verdict(catalogue, reviewer=reviewer, now_ns=now_ns(), verdict_id=verdict_id)
        return queries.verdict(catalogue, undone.verdict_id, Audience(reviewer))

    @router.post("/frames/{frame_id}/review", operation_id="askForReview", responses=_MISSING)
    def ask(frame_id: Id, body: ReviewerIn, caller: Caller) -> schema.Review:
        """Have a frame reviewed that nobody asked for: its full quality is fetched, and it joins the queue."""
        actor = reviewer_of(body, caller)
        number = ask_for_review(catalogue, frame_id, actor=actor, now_ns=now_ns())
        return queries.review(catalogue, number, Audience(actor))


def _add_talk(router: APIRouter, catalogue: Catalogue, *, now_ns: Callable[[], int]) -> None:
    @router.post(
        "/reviews/{review_id}/comments",
        operation_id="giveComment",
        status_code=201,
        responses={**_MISSING, **_CONFLICT},
    )
    def give(review_id: Id, body: CommentIn, caller: Caller) -> schema.Comment:
        """Write something beside a frame. One's last words on it, sent again, count once."""
        author = reviewer_of(body, caller)
        number = give_comment(catalogue, review_id, author=author, text=body.text, now_ns=now_ns())
        return queries.comment(catalogue, number, Audience(author))

    @router.post(
        "/comments/{comment_id}/delete", operation_id="deleteComment", responses={**_MISSING, **_CONFLICT}
    )
    def delete(comment_id: Id, body: ReviewerIn, caller: Caller) -> schema.Comment:
        """Take the text of a comment of one's own away; admins may do so with any."""
        actor = reviewer_of(body, caller)
        is_admin = caller.role is Role.ADMIN and Scope.ADMIN in caller.scopes
        delete_comment(catalogue, comment_id, actor=actor, is_admin=is_admin, now_ns=now_ns())
        return queries.comment(catalogue, comment_id, Audience(actor))

    @router.post(
        "/reviews/{review_id}/handover", operation_id="handOver", responses={**_MISSING, **_CONFLICT}
    )
    def handover(review_id: Id, body: HandoverIn, caller: Caller) -> schema.Review:
        """Hand a frame to a colleague, who is given it next, and nobody else; or back to all, with `to` null."""
        actor = reviewer_of(body, caller)
        if body.to is not None:
            talk.check_colleague(catalogue, body.to)
        hand_over(catalogue, review_id, actor=actor, to=body.to, comment=body.comment, now_ns=now_ns())
        return queries.review(catalogue, review_id, Audience(actor))
