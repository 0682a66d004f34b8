"""What the cloud knows of cameras, frames, detections, reviews and verdicts, and every way to change it."""

from __future__ import annotations

from secondlook.cloud.catalogue.frames import (
    FrameTombstone,
    NewFrame,
    NewReview,
    frame_is_stored,
    store_frame,
    store_tombstones,
)
from secondlook.cloud.catalogue.reviews import (
    LeasedReview,
    Refinement,
    extend_review_lease,
    lease_due_review,
    mark_expired,
    mark_ready,
    release_review,
    retry_review,
    set_base_image,
)
from secondlook.cloud.catalogue.schema import (
    AuditEntry,
    Camera,
    DetectedBox,
    Frame,
    Review,
    ReviewState,
    Tombstone,
    Verdict,
    VerdictKind,
)
from secondlook.cloud.catalogue.store import Catalogue, open_catalogue
from secondlook.cloud.catalogue.verdicts import (
    NewVerdict,
    UndoneVerdict,
    conflict_of,
    find_repeated,
    is_decided,
    record_verdict,
    undo_verdict,
)

__all__ = [
    "AuditEntry",
    "Camera",
    "Catalogue",
    "DetectedBox",
    "FrameTombstone",
    "Frame",
    "LeasedReview",
    "NewFrame",
    "NewReview",
    "NewVerdict",
    "Refinement",
    "Review",
    "ReviewState",
    "Tombstone",
    "UndoneVerdict",
    "Verdict",
    "VerdictKind",
    "conflict_of",
    "extend_review_lease",
    "find_repeated",
    "frame_is_stored",
    "is_decided",
    "lease_due_review",
    "mark_expired",
    "mark_ready",
    "open_catalogue",
    "record_verdict",
    "release_review",
    "retry_review",
    "set_base_image",
    "store_frame",
    "store_tombstones",
    "undo_verdict",
]
