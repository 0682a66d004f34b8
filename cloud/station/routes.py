"""The station's JSON API. Ids are checked numbers; blob keys come from the catalogue, not from requests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from secondlook.cloud.accounts import Principal
from secondlook.cloud.catalogue import (
    NO_SAMPLING,
    Catalogue,
    Review,
    Sampling,
    find_repeated,
    note_export,
    preferences_of,
    record_verdict,
    retry_review,
    set_known,
    set_preferences,
    tried_known,
    undo_verdict,
    want_whole_frame,
)
from secondlook.cloud.decoding.files import media_type
from secondlook.cloud.station import archive, export, queries, schema
from secondlook.cloud.station.access import Caller, GuardedRoute, Hearer, Viewer, may_know
from secondlook.cloud.station.choice import Chosen
from secondlook.cloud.station.classes import ClassBook
from secondlook.cloud.station.history import history as told_history
from secondlook.cloud.storage.blobs import Blobs
from secondlook.shared.errors import (
    BlobMissing,
    DecidedMeanwhile,
    ReviewConflict,
    ReviewGone,
    ReviewNotFound,
    StoreCorrupt,
)
from secondlook.shared.version import __version__

_MAX_ID = 2**63 - 1
Id = Annotated[int, Path(ge=1, le=_MAX_ID)]

_COMMON = 9  # one for each digit

# What a reviewer most likely has on screen comes first.
_VERSIONS: tuple[schema.ImageVersion, ...] = ("refined", "base", "enhanced")


@dataclass(frozen=True)
class Wanted:
    """Which frames an export holds besides those that are decided and beyond doubt."""

    undecided: bool = False
    unsure: bool = False
    contested: bool = False


Wants = Annotated[Wanted, Depends()]


def build_router(
    catalogue: Catalogue,
    blobs: Blobs,
    *,
    title: str,
    root_path: str,
    now_ns: Callable[[], int],
    classes: ClassBook,
    sampling: Sampling = NO_SAMPLING,
    learned_filter: bool = True,
) -> APIRouter:
    """All routes below /api; ``now_ns`` tells the time in Unix nanoseconds."""
    router = APIRouter(prefix="/api", route_class=GuardedRoute)
    _add_reads(router, catalogue, classes, title=title, learned_filter=learned_filter, now_ns=now_ns)
    _add_pictures(router, catalogue, blobs)
    _add_writes(router, catalogue, blobs, classes, sampling, now_ns=now_ns)
    _add_states(router, catalogue, now_ns=now_ns)
    _add_preferences(router, catalogue)
    _add_exports(router, catalogue, blobs, title=title, root_path=root_path, now_ns=now_ns)
    return router


def _add_reads(
    router: APIRouter,
    catalogue: Catalogue,
    classes: ClassBook,
    *,
    title: str,
    learned_filter: bool,
    now_ns: Callable[[], int],
) -> None:
    @router.get("/station")
    def station() -> schema.Station:
        """The station's name, and the classes a reviewer may pick."""
        common = queries.common_classes(catalogue, _COMMON)
        names = classes.names()
        return schema.Station(
            title=title, version=__version__, labels=names, common=common, learned_filter=learned_filter
        )

    @router.get("/summary")
    def summary(viewer: Viewer) -> schema.Summary:
        """Counts, pace and time to go. Ask often: `revision` tells when anything else is worth asking for."""
        return queries.summary(catalogue, now_ns=now_ns(), viewer=viewer)

    @router.get("/reviews")
    def reviews(
        chosen: Chosen,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        offset: Annotated[int, Query(ge=0, le=_MAX_ID)] = 0,
    ) -> schema.ReviewList:
        """Reviews by priority, then age, or in another order; decided ones by their last verdict."""
        return queries.list_reviews(catalogue, chosen, limit=limit, offset=offset)

    @router.get("/reviews/{review_id}")
    def review(review_id: Id, viewer: Viewer, caller: Caller) -> schema.ReviewDetail:
        """Everything about one review; of one that several judge blindly, one's own verdicts alone."""
        return queries.review_detail(catalogue, review_id, viewer, may_know=may_know(caller))

    @router.get("/reviews/{review_id}/burst")
    def burst(review_id: Id, viewer: Viewer) -> list[schema.ReviewRow]:
        """Reviews of the same scene, itself too, that can be judged together, in order of time."""
        return queries.burst(catalogue, review_id, viewer)

    @router.get("/history")
    def history(
        viewer: Viewer,
        caller: Caller,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        before: Annotated[int | None, Query(ge=1, le=_MAX_ID)] = None,
        actor: Annotated[str, Query(max_length=128)] = "",
        people: bool = False,
    ) -> schema.History:
        """The audit trail, newest first; of one `actor`, or, with `people=true`, without what machines did.

        What is a secret from who asks is left out: a page may be short, and `next_before` says whether there is more.
        """
        return told_history(
            catalogue,
            limit=limit,
            before=before,
            actor=actor,
            people=people,
            viewer=viewer,
            may_know=may_know(caller),
        )


def _add_pictures(router: APIRouter, catalogue: Catalogue, blobs: Blobs) -> None:
    @router.get("/reviews/{review_id}/images/{version}", response_class=Response)
    def image(review_id: Id, version: schema.ImageVersion, request: Request) -> Response:
        """A picture, lossless; 410 once retention has deleted it, and where it is lost.

        `X-Content-SHA256` is the hash of exactly these bytes; verdicts name it.
        """
        try:
            data = _picture(catalogue, blobs, review_id, version)
        except BlobMissing as error:
            raise ReviewGone(f"the {version} picture of review {review_id} is lost: {error}") from error
        if data is None:
            raise ReviewNotFound(f"review {review_id} has no {version} picture")
        sha256 = hashlib.sha256(data).hexdigest()
        headers = {"etag": f'"{sha256}"', "x-content-sha256": sha256}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=media_type(data), headers=headers)


def _add_writes(
    router: APIRouter,
    catalogue: Catalogue,
    blobs: Blobs,
    classes: ClassBook,
    sampling: Sampling,
    *,
    now_ns: Callable[[], int],
) -> None:
    def detail(review_id: int, reviewer: str, caller: Principal) -> schema.ReviewDetail:
        return queries.review_detail(catalogue, review_id, reviewer, may_know=may_know(caller))

    @router.post(
        "/reviews/{review_id}/verdicts",
        response_model=schema.ReviewDetail,
        responses={409: {"model": schema.Conflict}},
    )
    def give_verdict(
        review_id: Id, body: schema.VerdictIn, caller: Caller
    ) -> schema.ReviewDetail | JSONResponse:
        """Store a verdict under the name of who is logged in; answers the review as it then stands.

        409 when the review cannot be judged yet, when no picture of it has the hash that was shown, and, with
        `conflict` in the answer, when somebody else decided it since `seen_verdict_id`: both verdicts are kept then.
        """
        label = None if body.label is None else classes.spelling(body.label)
        reviewer = schema.reviewer_of(body, caller)
        verdict = body.as_verdict(reviewer, label)
        try:
            # A verdict that is sent again is answered even when its pictures are gone.
            if find_repeated(catalogue, review_id, verdict) is None:
                if not _was_shown(catalogue, blobs, review_id, body.shown_sha256):
                    raise ReviewConflict(f"no picture of review {review_id} has the hash that was shown")
                record_verdict(catalogue, review_id, verdict, now_ns=now_ns(), sampling=sampling)
        except DecidedMeanwhile as error:
            return _meanwhile(detail(review_id, reviewer, caller), error)
        return detail(review_id, reviewer, caller)

    @router.post("/undo")
    def undo_last(body: schema.ReviewerIn, caller: Caller) -> schema.ReviewDetail:
        """Take back the reviewer's last standing verdict, wherever it was. Call again to go further back."""
        reviewer = schema.reviewer_of(body, caller)
        undone = undo_verdict(catalogue, reviewer=reviewer, now_ns=now_ns())
        return detail(undone.review_id, reviewer, caller)

    @router.post("/verdicts/{verdict_id}/undo")
    def undo_one(verdict_id: Id, body: schema.ReviewerIn, caller: Caller) -> schema.ReviewDetail:
        """Take back one verdict; only its own reviewer can."""
        reviewer = schema.reviewer_of(body, caller)
        undone = undo_verdict(catalogue, reviewer=reviewer, now_ns=now_ns(), verdict_id=verdict_id)
        return detail(undone.review_id, reviewer, caller)


def _add_states(router: APIRouter, catalogue: Catalogue, *, now_ns: Callable[[], int]) -> None:
    """What is fetched of a frame, and what it is for."""

    def detail(review_id: int, reviewer: str, caller: Principal) -> schema.ReviewDetail:
        return queries.review_detail(catalogue, review_id, reviewer, may_know=may_know(caller))

    @router.post("/reviews/{review_id}/retry")
    def retry(review_id: Id, body: schema.ReviewerIn, caller: Caller) -> schema.ReviewDetail:
        """Ask the camera host once more for the full quality of an expired review."""
        reviewer = schema.reviewer_of(body, caller)
        retry_review(catalogue, review_id, actor=reviewer, now_ns=now_ns())
        return detail(review_id, reviewer, caller)

    @router.post("/reviews/{review_id}/whole")
    def whole(review_id: Id, body: schema.ReviewerIn, caller: Caller) -> schema.ReviewDetail:
        """Ask the camera host for all of a frame of which a crop is shown; that is shown meanwhile."""
        reviewer = schema.reviewer_of(body, caller)
        want_whole_frame(catalogue, review_id, actor=reviewer, now_ns=now_ns())
        return detail(review_id, reviewer, caller)

    @router.post("/reviews/{review_id}/known")
    def know(review_id: Id, body: schema.KnownIn, caller: Caller) -> schema.ReviewDetail:
        """Have reviewers tried with a decided frame, or no longer: it is mixed in with their work."""
        reviewer = schema.reviewer_of(body, caller)
        set_known(catalogue, review_id, body.known, actor=reviewer, now_ns=now_ns())
        return detail(review_id, reviewer, caller)


def _add_preferences(router: APIRouter, catalogue: Catalogue) -> None:
    @router.get("/preferences")
    def preferences(caller: Caller, reviewer: Annotated[str, Query(max_length=64)] = "") -> schema.Chosen:
        """What one has chosen; without a log-in, what `reviewer` has."""
        return schema.Chosen(**preferences_of(catalogue, caller.name or reviewer))

    @router.post("/preferences")
    def choose(body: schema.ChosenIn, caller: Caller) -> schema.Chosen:
        """Choose for oneself."""
        chosen = schema.Chosen(learned_filter=body.learned_filter)
        set_preferences(catalogue, schema.reviewer_of(body, caller), chosen.model_dump())
        return chosen


def _add_exports(
    router: APIRouter,
    catalogue: Catalogue,
    blobs: Blobs,
    *,
    title: str,
    root_path: str,
    now_ns: Callable[[], int],
) -> None:
    def decided(what: str, caller: Caller, chosen: Chosen, wanted: Wanted) -> Iterator[Review]:
        asked: dict[str, Any] = {**vars(wanted), **chosen.described()}
        note_export(catalogue, _name(caller), what, asked, now_ns=now_ns())
        reviews = queries.exported_reviews(catalogue, decided_only=not wanted.undecided, choice=chosen)
        return export.chosen(reviews, unsure=wanted.unsure, contested=wanted.contested)

    def picture(key: str) -> bytes | None:
        try:
            return blobs.get(key)
        except StoreCorrupt:
            return None

    @router.get("/export/coco.json", response_class=StreamingResponse)
    def export_coco(caller: Caller, chosen: Chosen, wanted: Wants) -> StreamingResponse:
        """Decided frames as a COCO data set, corrections applied; of a camera, class, score or reason where asked for.

        `undecided=true` adds those still open, `unsure=true` those of which a reviewer was unsure or that
        hold more than has a box, `contested=true` those that two people decided differently.
        """
        reviews = decided("coco.json", caller, chosen, wanted)
        parts = export.coco_parts(reviews, description=f"{title}: reviewed frames", root_path=root_path)
        return StreamingResponse(parts, media_type="application/json", headers=_download("coco.json"))

    @router.get("/export/yolo.zip", response_class=StreamingResponse)
    def export_yolo(caller: Caller, chosen: Chosen, wanted: Wants) -> StreamingResponse:
        """The same frames as a YOLO data set with their pictures: `images/`, `labels/`, `data.yaml`."""
        parts = archive.yolo_parts(decided("yolo.zip", caller, chosen, wanted), picture)
        return StreamingResponse(parts, media_type="application/zip", headers=_download("yolo.zip"))

    @router.get("/export/frames.zip", response_class=StreamingResponse)
    def export_frames(caller: Caller, chosen: Chosen, wanted: Wants) -> StreamingResponse:
        """The same frames with their pictures and a line of JSON each: `images/`, `frames.jsonl`."""
        reviews = decided("frames.zip", caller, chosen, wanted)
        parts = archive.jsonl_parts(reviews, picture, root_path=root_path)
        return StreamingResponse(parts, media_type="application/zip", headers=_download("frames.zip"))

    @router.get("/export/verdicts.jsonl", response_class=StreamingResponse)
    def export_verdicts(caller: Caller, hearer: Hearer) -> StreamingResponse:
        """Every verdict that is kept, one JSON object a line, undone ones included; of frames that are judged blindly
        one's own alone."""
        note_export(catalogue, _name(caller), "verdicts.jsonl", {}, now_ns=now_ns())
        with catalogue.reading() as session:
            known = tried_known(session, hearer.judge) if hearer.judge else []
        reviews = queries.exported_reviews(catalogue, decided_only=False)
        lines = export.verdict_lines(reviews, hearer, hidden=known)
        return StreamingResponse(
            lines, media_type="application/x-ndjson", headers=_download("verdicts.jsonl")
        )


def _meanwhile(review: schema.ReviewDetail, error: DecidedMeanwhile) -> schema.ReviewDetail | JSONResponse:
    """The answer to a verdict on what somebody else decided; where that has become a secret, as if nobody had."""
    other = next((entry for entry in review.verdicts if entry.id == error.other_id), None)
    if other is None:
        return review
    conflict = schema.Conflict(detail=str(error), conflict=other, review=review)
    return JSONResponse(conflict.model_dump(mode="json"), 409)


def _picture(
    catalogue: Catalogue, blobs: Blobs, review_id: int, version: schema.ImageVersion
) -> bytes | None:
    key = queries.image_key(catalogue, review_id, version)
    try:
        return None if key is None else blobs.get(key)
    except BlobMissing as error:
        if queries.is_deleting(catalogue, review_id):
            raise ReviewGone(
                f"the pictures of review {review_id} are gone: they were kept for as long as was set"
            ) from error
        raise


def _was_shown(catalogue: Catalogue, blobs: Blobs, review_id: int, sha256: str) -> bool:
    for version in _VERSIONS:
        try:
            data = _picture(catalogue, blobs, review_id, version)
        except StoreCorrupt:
            continue  # a picture that is gone cannot have been shown; another one may
        if data is not None and hashlib.sha256(data).hexdigest() == sha256:
            return True
    small = queries.thumb_key_of(catalogue, review_id)
    try:
        return small is not None and hashlib.sha256(blobs.get(small)).hexdigest() == sha256
    except StoreCorrupt:
        return False  # nobody has asked for it


def _name(caller: Principal) -> str:
    """Whom the audit trail names; the one user of a station without log-in has no name."""
    return caller.name or "local"


def _download(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="secondlook-{name}"'}
