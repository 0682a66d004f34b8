"""Requests that the API's own description allows, and ones beside it: no answer is a fault of the station."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error, response_schema_conformance

from secondlook.cloud import catalogue as cat
from secondlook.cloud.config import ApiLimits
from secondlook.cloud.station.app import create_app
from tests.cloud.station.seed import BOOT, START, seed
from tests.cloud.station.server import client_of

pytestmark = pytest.mark.process

EXAMPLES = int(os.environ.get("API_EXAMPLES", "6"))  # of each operation and mode
OPERATIONS = [
    "listCameras",
    "getCamera",
    "listCameraEvents",
    "listFrames",
    "getFrame",
    "listDetections",
    "listObjects",
    "listReviews",
    "getReview",
    "listVerdicts",
    "getVerdict",
    "listTombstones",
    "listComments",
    "getComment",
    "listPictures",
    "getPicture",
    "streamEvents",
    "giveVerdict",
    "undoVerdict",
    "askForReview",
    "giveComment",
    "deleteComment",
    "handOver",
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    seeded = seed(tmp_path_factory.mktemp("schema"), ("ready", "expired", "due"))
    catalogue = cat.open_catalogue(seeded.catalogue_url)
    cat.store_tombstones(catalogue, [cat.FrameTombstone("yard-2", BOOT, 100, 109, "idle", START)])
    catalogue.close()
    limits = ApiLimits(requests_per_second=1e6, burst_requests=1_000_000)
    app = create_app(catalogue_url=seeded.catalogue_url, blobs_url=seeded.blobs_url, api=limits)
    with client_of(app) as client:
        yield client


@pytest.fixture(scope="module")
def operations(client: httpx.Client) -> dict[str, Any]:
    schema = schemathesis.openapi.from_dict(client.get("/api/v1/openapi.json").json())
    found = (operation.ok() for operation in schema.get_all_operations())
    return {operation.definition.raw["operationId"]: operation for operation in found}


def test_every_operation_is_tried(operations: dict[str, Any]) -> None:
    assert sorted(operations) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_request_is_a_fault_of_the_station(
    name: str, mode: GenerationMode, client: httpx.Client, operations: dict[str, Any]
) -> None:
    operation = operations[name]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if name == "streamEvents":
            case.query = {**(case.query or {}), "seconds": 0}  # it would go on for ever
        answer = case.call(base_url=str(client.base_url))
        checks = [not_a_server_error]
        if answer.status_code < 400 and "json" in (answer.headers.get("content-type") or [""])[0]:
            checks.append(response_schema_conformance)
        elif answer.status_code >= 400:
            assert answer.headers["content-type"] == ["application/problem+json"], answer.text
        case.validate_response(answer, checks=checks)

    ask()
