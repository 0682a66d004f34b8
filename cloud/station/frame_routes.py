"""The part of the station's API that is about all frames."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from secondlook.cloud.catalogue import Catalogue, Rule, VerdictKind, ask_for_review
from secondlook.cloud.decoding.files import media_type
from secondlook.cloud.station import frames, queries, schema
from secondlook.cloud.station.access import Caller, GuardedRoute, Viewer, may_know
from secondlook.cloud.station.frame_pictures import FramePictures
from secondlook.cloud.station.search import FrameSearch, parse_cursor
from secondlook.shared.errors import BitstreamError, FrameNotFound, ModelError

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
Instant = Annotated[datetime | None, Query(description="ISO 8601; without an offset, UTC.")]

_NEIGHBOUR_SECONDS = 1.0


def build_frame_router(
    catalogue: Catalogue, pictures: FramePictures, *, now_ns: Callable[[], int]
) -> APIRouter:
    """Routes below /api/frames; ``now_ns`` tells the time in Unix nanoseconds."""
    router = APIRouter(prefix="/api", route_class=GuardedRoute)
    _add_frames(router, catalogue, pictures, now_ns=now_ns)
    return router


def _add_frames(
    router: APIRouter, catalogue: Catalogue, pictures: FramePictures, *, now_ns: Callable[[], int]
) -> None:
    @router.get("/frames")
    def search(
        viewer: Viewer,
        camera: Annotated[str | None, Query(max_length=64)] = None,
        label: Annotated[str | None, Query(max_length=64)] = None,
        min_score: Annotated[float, Query(ge=0, le=1)] = 0.0,
        max_score: Annotated[float, Query(ge=0, le=1)] = 1.0,
        since: Instant = None,
        until: Instant = None,
        verdict: VerdictKind | None = None,
        reason: Rule | None = None,
        object: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Frames that show it.")] = None,
        unseen: Annotated[bool, Query(description="Frames that no machine looked at.")] = False,
        before: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 60,
    ) -> schema.FramePage:
        """All stored frames, the latest first; `before` is the `next` of the page before. Where few of many frames fit,
        a page may be short, even empty, and still have a `next`: go on from there."""
        search = FrameSearch(
            edge_id=camera,
            label=label,
            scores=(min_score, max_score),
            since_ns=schema.nanoseconds(since, 0),
            until_ns=schema.nanoseconds(until, 2**63 - 1),
            verdict=verdict,
            rule=reason,
            object_id=object,
            unseen=unseen,
            before=parse_cursor(before),
            viewer=viewer,
        )
        return frames.find_frames(catalogue, search, limit=limit)

    @router.get("/frames/{frame_id}")
    def frame(frame_id: Id, viewer: Viewer) -> schema.FrameDetail:
        """One frame, and what was found in it."""
        return frames.frame_detail(catalogue, frame_id, viewer)

    @router.get("/frames/{frame_id}/neighbours")
    def around(frame_id: Id) -> list[schema.Neighbour]:
        """The frames one second before and after, itself too, in order of time."""
        return frames.neighbours(catalogue, frame_id, seconds=_NEIGHBOUR_SECONDS)

    @router.get("/frames/{frame_id}/thumb", response_class=Response)
    def thumb(frame_id: Id) -> Response:
        """A small picture of the base layer, WebP; its `X-Content-SHA256` may be named in a verdict."""
        return _picture(pictures.thumb, frame_id)

    @router.get("/frames/{frame_id}/base", response_class=Response)
    def base(frame_id: Id) -> Response:
        """The picture of the base layer, lossless."""
        return _picture(pictures.base, frame_id)

    @router.post("/frames/{frame_id}/review")
    def ask(frame_id: Id, body: schema.ReviewerIn, caller: Caller) -> schema.ReviewDetail:
        """Have a frame reviewed that nobody asked for: its full quality is fetched, and it joins the queue."""
        actor = schema.reviewer_of(body, caller)
        number = ask_for_review(catalogue, frame_id, actor=actor, now_ns=now_ns())
        return queries.review_detail(catalogue, number, actor, may_know=may_know(caller))


def _picture(made: Callable[[int], bytes], frame_id: int) -> Response:
    try:
        data = made(frame_id)
    except (BitstreamError, ModelError) as error:
        raise FrameNotFound(f"the picture of frame {frame_id} cannot be made here: {error}") from error
    headers = {"x-content-sha256": hashlib.sha256(data).hexdigest()}
    return Response(data, media_type=media_type(data), headers=headers)
