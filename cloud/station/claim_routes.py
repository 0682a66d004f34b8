"""The part of the station's API that hands out frames: claims, their renewal, and their end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import JSONResponse

from secondlook.cloud.accounts import Principal
from secondlook.cloud.catalogue import (
    Catalogue,
    Claimant,
    ClaimedReview,
    claim_first,
    claim_review,
    free_claim,
    let_go,
    release_claim,
    renew_claim,
)
from secondlook.cloud.station import queries, schema
from secondlook.cloud.station.access import Caller, GuardedRoute
from secondlook.cloud.station.choice import Chosen
from secondlook.shared.errors import ClaimHeld, ReviewConflict

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]

_CANDIDATES = 200  # more reviewers than that do not work on one list at a time


def build_claim_router(catalogue: Catalogue, seconds: float, *, now_ns: Callable[[], int]) -> APIRouter:
    """Routes below /api/claims; a claim holds for ``seconds``, ``now_ns`` tells the time in Unix nanoseconds."""
    router = APIRouter(prefix="/api/claims", route_class=GuardedRoute)
    _add_taking(router, catalogue, seconds, now_ns=now_ns)
    _add_ending(router, catalogue, seconds, now_ns=now_ns)
    return router


def _add_taking(
    router: APIRouter, catalogue: Catalogue, seconds: float, *, now_ns: Callable[[], int]
) -> None:
    def _answer(claimed: ClaimedReview) -> schema.Claim:
        return schema.Claim(**vars(queries.claim_facts(claimed)), seconds=seconds)

    @router.post("", response_model=schema.Claim | None, responses={409: {"model": schema.ClaimRefused}})
    def claim(body: schema.ClaimIn, chosen: Chosen, caller: Caller) -> schema.Claim | JSONResponse | None:
        """Take a frame to judge it; what this tab had before is free again, except `keep`.

        With `or_next`, the first free one of the list that the parameters describe is given where another person has
        the one asked for, or none was named; null when there is none. Else that is answered with 409.
        """
        claimant, now = _claimant(body, caller), now_ns()
        refusal = ReviewConflict("no frame was named")
        lease: dict[str, Any] = {"keep": body.keep, "lease_seconds": seconds, "now_ns": now}
        if body.review_id is not None:
            try:
                return _answer(claim_review(catalogue, body.review_id, claimant, **lease))
            except ReviewConflict as error:
                refusal = error
        if not body.or_next:
            let_go(catalogue, claimant, keep=body.keep)
            return _refused(refusal)
        candidates = queries.review_ids(catalogue, replace(chosen, viewer=claimant.reviewer), _CANDIDATES)
        first = claim_first(catalogue, candidates, claimant, **lease)
        return None if first is None else _answer(first)


def _add_ending(
    router: APIRouter, catalogue: Catalogue, seconds: float, *, now_ns: Callable[[], int]
) -> None:
    @router.post("/{review_id}/renew", status_code=204)
    def renew(review_id: Id, body: schema.ClaimantIn, caller: Caller) -> Response:
        """Hold a frame for longer, while its page is open. 409 once the claim is gone."""
        renew_claim(catalogue, review_id, _claimant(body, caller), lease_seconds=seconds, now_ns=now_ns())
        return Response(status_code=204)

    @router.post("/{review_id}/release", status_code=204)
    def release(review_id: Id, body: schema.ClaimantIn, caller: Caller) -> Response:
        """Let go of a frame."""
        release_claim(catalogue, review_id, _claimant(body, caller))
        return Response(status_code=204)

    @router.post("/{review_id}/free", status_code=204)
    def free(review_id: Id, body: schema.ReviewerIn, caller: Caller) -> Response:
        """Take a frame from whoever has it, so that others are given it."""
        free_claim(catalogue, review_id, actor=schema.reviewer_of(body, caller), now_ns=now_ns())
        return Response(status_code=204)


def _claimant(body: schema.ClaimantIn, caller: Principal) -> Claimant:
    return Claimant(schema.reviewer_of(body, caller), body.tab)


def _refused(error: ReviewConflict) -> JSONResponse:
    holder = error.holder if isinstance(error, ClaimHeld) else None
    return JSONResponse({"detail": str(error), "holder": holder}, 409)
