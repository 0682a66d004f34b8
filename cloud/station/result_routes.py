"""The part of the station's API that hands out results to programs: the feedback set, objects, changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from secondlook.cloud.catalogue import Catalogue, Review, note_export
from secondlook.cloud.station import export, feedback, queries, results, schema
from secondlook.cloud.station.access import Caller, GuardedRoute
from secondlook.cloud.station.choice import Chosen
from secondlook.cloud.station.frame_pictures import FramePictures
from secondlook.cloud.storage.blobs import Blobs
from secondlook.shared.errors import BitstreamError, FrameNotFound, ModelError, StoreCorrupt

_MAX_ID = 2**63 - 1


def build_result_router(
    catalogue: Catalogue,
    blobs: Blobs,
    pictures: FramePictures,
    *,
    title: str,
    root_path: str,
    now_ns: Callable[[], int],
) -> APIRouter:
    """Routes below /api/export that are not about data sets in common formats."""
    router = APIRouter(prefix="/api/export", route_class=GuardedRoute)
    of_frame = _feedback_pictures(blobs, pictures)

    @router.get("/feedback.zip", response_class=StreamingResponse)
    def export_feedback(caller: Caller, chosen: Chosen) -> StreamingResponse:
        """Confirmed, corrected and missed objects with base pictures, originals and base layers: `labels.json`,
        `seen/`, `originals/`, `layers/`, ready for `secondlook train detector --from MODEL --labels labels.json`."""
        _note(caller, "feedback.zip", **chosen.described())
        decided = queries.exported_reviews(catalogue, decided_only=True, choice=chosen)
        certain = export.chosen(decided, unsure=False, contested=False)
        parts = feedback.feedback_parts(certain, of_frame, description=f"{title}: feedback set")
        return _download(parts, "feedback.zip", "application/zip")

    @router.get("/objects.jsonl", response_class=StreamingResponse)
    def export_objects(
        caller: Caller,
        camera: Annotated[str | None, Query(max_length=64)] = None,
        label: Annotated[str | None, Query(max_length=64)] = None,
    ) -> StreamingResponse:
        """One JSON object a line for each thing that cameras had in view: since when and until when, in how many
        frames, and what people said of it."""
        asked = {"camera": camera, "class": label}
        _note(caller, "objects.jsonl", **{name: value for name, value in asked.items() if value is not None})
        lines = results.object_lines(catalogue, edge_id=camera, label=label)
        return _download(lines, "objects.jsonl", "application/x-ndjson")

    @router.get("/changes")
    def export_changes(
        caller: Caller,
        since: Annotated[datetime | None, Query(description="ISO 8601; without an offset, UTC.")] = None,
        after: Annotated[int | None, Query(ge=0, le=_MAX_ID)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 200,
    ) -> schema.Changes:
        """Frames whose verdicts changed, as they now stand, page by page: `after` is the `next` of the page before; it
        stays good, so that a program goes on where it left off. `secondlook pull` does that.

        The audit trail has a line for the first page, and for each other one that hands something out.
        """
        since_ns = schema.nanoseconds(since, 0)
        page = results.changes(catalogue, since_ns=since_ns, after=after, limit=limit, root_path=root_path)
        if after is None:
            _note(caller, "changes", **({} if since is None else {"since": since.isoformat()}))
        elif page.frames:
            _note(caller, "changes", after=after, frames=len(page.frames))
        return page

    def _note(caller: Caller, what: str, **asked: object) -> None:
        note_export(catalogue, caller.name or "local", what, dict(asked), now_ns=now_ns())

    return router


def _feedback_pictures(blobs: Blobs, pictures: FramePictures) -> feedback.FeedbackPictures:
    def blob(key: str | None) -> bytes | None:
        try:
            return None if key is None else blobs.get(key)
        except StoreCorrupt:
            return None

    def seen(review: Review) -> bytes | None:
        try:
            return pictures.base(review.frame_id)
        except (BitstreamError, FrameNotFound, ModelError, StoreCorrupt):
            return None

    def original(review: Review) -> bytes | None:
        return blob(review.refined_image or review.enhanced_image)

    return feedback.FeedbackPictures(seen, original, lambda review: blob(review.frame.base_blob))


def _download(parts: Iterator[str] | Iterator[bytes], name: str, media: str) -> StreamingResponse:
    headers = {"content-disposition": f'attachment; filename="secondlook-{name}"'}
    return StreamingResponse(parts, media_type=media, headers=headers)
