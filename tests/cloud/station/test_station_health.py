"""The station's /healthz and /readyz: for everybody, telling nothing but how it is."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from secondlook.cloud.station import health
from secondlook.cloud.station.access import Authorizer
from secondlook.cloud.station.app import create_app
from secondlook.shared.errors import StoreUnavailable
from secondlook.shared.watchdog import Watchdog
from tests.cloud.helpers import wait_until
from tests.cloud.station.people import add_people
from tests.cloud.station.server import client_of, serving


def station(folder: Path, *, exposed: bool = True, watchdog: Watchdog | None = None) -> FastAPI:
    url = f"sqlite:///{folder}/catalogue.db"
    if exposed:
        add_people(url)
    return create_app(
        catalogue_url=url,
        blobs_url=str(folder / "blobs"),
        exposed=exposed,
        watchdog=watchdog,
        stall_seconds=1.0,
    )


def test_probes_need_no_log_in_no_name_and_no_tls_and_learn_nothing(tmp_path: Path) -> None:
    with client_of(station(tmp_path), host="10.1.2.3:7600") as probe:
        wait_until(lambda: probe.get("/readyz").status_code == 200)
        for path, text in (("/healthz", "live"), ("/readyz", "ready")):
            answer = probe.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": text})
        # All else stays shut.
        assert probe.get("/api/summary").status_code == 403
        assert probe.post("/healthz").status_code == 403


def test_a_catalogue_that_is_away_makes_it_unready_but_not_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(_catalogue: object) -> None:
        raise StoreUnavailable("catalogue secret-name: no answer")

    caplog.set_level("INFO")
    monkeypatch.setattr(health, "_LOOK_SECONDS", 0.05)
    with client_of(station(tmp_path)) as probe:
        wait_until(lambda: probe.get("/readyz").status_code == 200)
        with monkeypatch.context() as broken:
            broken.setattr(health, "_ask", away)
            wait_until(lambda: probe.get("/readyz").status_code == 503)
            assert probe.get("/readyz").json() == {"status": "waiting"}
            assert probe.get("/healthz").status_code == 200
        wait_until(lambda: probe.get("/readyz").status_code == 200)
    assert "waiting: catalogue secret-name: no answer" in caplog.messages
    assert any(line.startswith("going on after") for line in caplog.messages)


def test_a_station_whose_threads_all_hang_is_not_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_BEAT_SECONDS", 0.05)
    release, hanging = threading.Event(), []

    def hang(*_arguments: object) -> None:
        hanging.append(1)
        release.wait()

    def load(address: str) -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{address}/api/summary", timeout=30)

    with serving(station(tmp_path, exposed=False)) as address, ThreadPoolExecutor(60) as visitors:
        assert httpx.get(f"{address}/healthz").json() == {"status": "live"}
        monkeypatch.setattr(Authorizer, "admit", hang)
        try:
            for _ in range(60):  # more than the station has threads
                visitors.submit(load, address)
            wait_until(lambda: len(hanging) >= 40)
            time.sleep(1.5)
            assert httpx.get(f"{address}/healthz").status_code == 503
            assert httpx.get(f"{address}/readyz").json() == {"status": "hung"}
        finally:
            release.set()
        wait_until(lambda: httpx.get(f"{address}/healthz").status_code == 200)
