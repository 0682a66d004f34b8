"""Profiles for property tests: few examples in the daily run, many in `make fuzz`. No models but those that ship."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from secondlook.shared.models import MODELS_VARIABLE, added_models

# Deadlines would measure what else the machine is doing.
settings.register_profile("daily", max_examples=60, deadline=None)
settings.register_profile(
    "fuzz", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("daily")

# What somebody has added to this machine must not change what the tests see; a test that is about it asks for it.
_ADDED_MODELS = added_models()
os.environ[MODELS_VARIABLE] = "/nonexistent/secondlook-models"


@pytest.fixture
def general_detector() -> Path:
    """The folder of the general detector, where `make setup` could add it."""
    folder = _ADDED_MODELS / "ssdlite"
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"the general detector was not added: there is no {folder} (secondlook models fetch)")
    return folder


# What a module that starts processes, servers, networks or training runs has among its names.
_STARTERS = {
    "Browser",
    "IN_BROWSER",
    "SmallGateway",
    "StationProcess",
    "load_codec",
    "multiprocessing",
    "onnxruntime",
    "open_page",
    "running",
    "subprocess",
    "torch",
    "wait_until",
}
# Servers, as fixtures or as what a fixture is asked for.
_SERVERS = {"jetstream", "nats_server", "postgresql", "s3"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make unit` leaves out."""
    for item in items:
        names = vars(item.module).keys() | item.fixturenames  # type: ignore[attr-defined]
        given = (
            {str(value) for value in item.callspec.params.values()} if hasattr(item, "callspec") else set()
        )
        if names & {*_STARTERS, *_SERVERS} or given & _SERVERS or "training" in item.path.parts:
            item.add_marker(pytest.mark.process)
