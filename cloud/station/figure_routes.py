"""The part of the station's API that has figures: of a person's day, of agreement, of the detector."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from secondlook.cloud.catalogue import Catalogue
from secondlook.cloud.station import figure_schema, figures
from secondlook.cloud.station.access import GuardedRoute, Viewer

_REPORT_DAYS = 90
Since = Annotated[datetime | None, Query(description="ISO 8601; without an offset, UTC.")]


def build_figure_router(
    catalogue: Catalogue, doubt: tuple[float, float], *, now_ns: Callable[[], int]
) -> APIRouter:
    """Routes below /api/figures; ``doubt``: the scores that the policy has reviewed now."""
    router = APIRouter(prefix="/api/figures", route_class=GuardedRoute)

    @router.get("/day")
    def day(viewer: Viewer, since: Since = None) -> figure_schema.Day:
        """What one judged oneself since an instant, by default 24 hours ago, and how many frames others did."""
        return figures.day(catalogue, viewer, since_ns=figures.since_of(since, now_ns(), 1))

    @router.get("/agreement")
    def agreement(since: Since = None) -> figure_schema.AgreementReport:
        """Of frames that several judged blindly: agreement and Cohen's kappa by class; of known frames: each
        reviewer's precision. Of the last 90 days, unless `since` says otherwise."""
        return figures.agreement_report(catalogue, since_ns=figures.since_of(since, now_ns(), _REPORT_DAYS))

    @router.get("/detector")
    def detector(since: Since = None) -> figure_schema.DetectorReport:
        """The detector's precision by class, camera and score, as verdicts have it, and the band of scores that would
        halve the review load and miss no object more. Of the last 90 days, unless `since` says otherwise."""
        since_ns = figures.since_of(since, now_ns(), _REPORT_DAYS)
        return figures.detector_report(catalogue, since_ns=since_ns, doubt=doubt)

    return router
