"""The demo's report is made of what is stored, and nothing else."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from secondlook.cloud.catalogue import (
    FrameTombstone,
    NewFrame,
    NewReview,
    Refinement,
    Rule,
    lease_due_review,
    mark_expired,
    mark_ready,
    open_catalogue,
    settle_review,
    store_frame,
    store_tombstones,
)
from secondlook.cloud.demo.edgestatus import EdgeStatus, EdgeTotals
from secondlook.cloud.demo.report import count, make_report, percentiles, psnr_db
from secondlook.cloud.storage.blobs import image_key, open_blobs
from secondlook.shared.detection import Detection
from secondlook.shared.errors import StoreCorrupt
from secondlook.shared.packet import FrameInfo

BOOT = "0" * 32
OTHER_BOOT = "1" * 32
MS = 1_000_000


@pytest.fixture
def catalogue(tmp_path):
    catalogue = open_catalogue(f"sqlite:///{tmp_path / 'catalogue.db'}")
    yield catalogue
    catalogue.close()


def store(catalogue, seq, *, boot=BOOT, review=None, captured_ms=None, found=()):
    captured_ns = (1000 + seq * 100 if captured_ms is None else captured_ms) * MS
    frame = NewFrame(
        edge_id="demo",
        camera="c",
        received_ns=captured_ns + 5 * MS,
        info=FrameInfo(
            boot_id=boot,
            seq=seq,
            captured_ns=captured_ns,
            width=8,
            height=8,
            key_seq=None,
            enhancement_bytes=1,
        ),
        base_blob="base",
        base_bytes=1,
    )
    store_frame(
        catalogue,
        frame,
        found,
        detector="d",
        reasons=[] if review is None else [review],
        now_ns=captured_ns + 40 * MS,
    )


def status(boot=BOOT, **changes):
    return {
        "boot_id": boot,
        "captured": 3,
        "encoded": 3,
        "acknowledged": 3,
        "acknowledged_earlier": 0,
        "tombstoned": 0,
        "bytes_base": 30,
        "bytes_enhancement_stored": 300,
        "bytes_enhancement_sent": 100,
        "encode_fps": 9.5,
        "encode_ms": {"p50": 100.0, "p95": 120.0},
        "source": "running",
        **changes,
    }


def test_counts_follow_reviews_to_their_end(catalogue):
    for seq in range(3):
        store(catalogue, seq, review=NewReview("audit", 1))
    store(catalogue, 0, boot=OTHER_BOOT, review=NewReview("audit", 1))
    gap = FrameTombstone(edge_id="demo", boot_id=BOOT, first_seq=3, last_seq=4, reason="full", received_ns=1)
    store_tombstones(catalogue, [gap])
    leased = lease_due_review(catalogue, "r", lease_seconds=60, now_ns=2000 * MS)
    mark_expired(catalogue, leased.review_id, "r", why="gone", now_ns=2001 * MS)

    counts = count(catalogue, [BOOT])

    assert (counts.detected, counts.tombstoned, counts.duplicated) == (3, 2, 0)
    assert (counts.reviews_created, counts.reviews_expired, counts.reviews_open) == (3, 1, 2)
    assert counts.reviews_settled == 0


def test_a_settled_review_has_come_to_its_end(catalogue):
    found = [Detection("cat", 0.4, (1.0, 1.0, 5.0, 4.0))]
    doubt = NewReview("uncertain: cat 0.40", 50, rule=Rule.UNCERTAIN, boxes=(0,))
    store(catalogue, 0, review=doubt, found=found)
    leased = lease_due_review(catalogue, "r", lease_seconds=60, now_ns=2000 * MS)
    pictures = Refinement(
        "enhancement/x", 9, "image/1/base", "image/1/enhanced", None, "c" * 64, None, "lite"
    )
    seen = {"detector": "d", "boxes": [], "called_for": None}
    assert settle_review(catalogue, leased.review_id, "r", pictures, seen, now_ns=2001 * MS)
    counts = count(catalogue, [BOOT])
    assert (counts.reviews_settled, counts.reviews_refined, counts.reviews_expired) == (1, 0, 0)
    assert counts.reviews_open == 0


def test_two_rows_of_one_instant_are_a_duplicate(catalogue):
    store(catalogue, 0, captured_ms=7)
    store(catalogue, 1, captured_ms=7)
    assert count(catalogue, [BOOT]).duplicated == 1


def test_report_measures_the_stored_pictures(catalogue, tmp_path):
    blobs = open_blobs(str(tmp_path / "blobs"))
    original = np.full((8, 8, 3), 100, np.uint8)
    for seq in range(3):
        cv2.imwrite(str(tmp_path / f"{BOOT}-{seq:08d}.png"), original)
        store(catalogue, seq, review=NewReview("audit", 1) if seq == 0 else None)
    leased = lease_due_review(catalogue, "r", lease_seconds=60, now_ns=2000 * MS)
    keys = {name: image_key(leased.review_id, name) for name in ("base", "enhanced", "refined")}
    for off, key in zip((10, 5, 2), keys.values(), strict=True):
        blobs.put(key, cv2.imencode(".png", original + np.uint8(off))[1].tobytes())
    mark_ready(
        catalogue,
        leased.review_id,
        "r",
        Refinement("blob", 100, *keys.values(), "0" * 64, "rrdb-l1", "lite"),
        now_ns=2500 * MS,
    )
    edge = EdgeTotals(
        captured=4, encoded=4, acknowledged=3, encode_ms={"p50": 1.0, "p95": 2.0}, encode_fps=9.0
    )

    report = json.loads(json.dumps(make_report(catalogue, blobs, tmp_path, edge, [BOOT])))

    assert report["frames"] == {
        "captured": 4,
        "encoded": 4,
        "acknowledged": 3,
        "detected": 3,
        "lost": 1,
        "duplicated": 0,
    }
    assert report["reviews"] == {"created": 1, "refined": 1, "settled": 0, "expired": 0}
    assert report["quality_db"] == {
        name: pytest.approx(20 * np.log10(255 / off), abs=1e-3)
        for name, off in (("base", 10), ("enhanced", 5), ("refined", 2))
    }
    assert report["latency_ms"]["capture_to_detection"] == {"p50": 40.0, "p95": 40.0}
    assert report["latency_ms"]["request_to_refined"] == {"p50": 500.0, "p95": 500.0}
    assert report["fps"]["end_to_end"] == pytest.approx(3 / 0.24, abs=0.01)
    jpeg = cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    assert report["bytes"]["source_jpeg"] == 3 * len(jpeg)
    unrecorded = make_report(catalogue, blobs, None, edge, [BOOT])
    assert unrecorded["quality_db"] == {"base": None, "enhanced": None, "refined": None}
    assert unrecorded["bytes"]["source_jpeg"] is None
    assert unrecorded["latency_ms"] == report["latency_ms"]


def test_an_unmeasured_figure_is_null(catalogue, tmp_path):
    report = make_report(catalogue, open_blobs(str(tmp_path / "blobs")), tmp_path, EdgeTotals(), [])
    assert report["quality_db"] == {"base": None, "enhanced": None, "refined": None}
    assert report["fps"]["end_to_end"] is None
    assert percentiles([]) == {"p50": None, "p95": None}


def test_psnr_of_equal_images_is_finite():
    image = np.zeros((4, 4, 3), np.uint8)
    assert psnr_db(image, image) == 99.0


def test_status_adds_up_restarts_and_ignores_what_an_earlier_run_left(tmp_path):
    path = tmp_path / "status.json"
    path.write_text(json.dumps(status(OTHER_BOOT)))
    follower = EdgeStatus(path)
    assert follower.read() == EdgeTotals()

    path.write_text(json.dumps(status(BOOT)))
    assert follower.read().captured == 3
    path.write_text(
        json.dumps(
            status(
                "2" * 32, captured=1, acknowledged=1, acknowledged_earlier=2, source="ended", encode_fps=3.0
            )
        )
    )
    totals = follower.read()

    assert (totals.captured, totals.bytes_base, totals.source, totals.encode_fps) == (4, 60, "ended", 3.0)
    # The second start also delivered what the first one had left.
    assert totals.acknowledged == status(BOOT)["acknowledged"] + 3
    assert follower.boots() == [BOOT, "2" * 32]


def test_a_damaged_status_file_is_an_error(tmp_path):
    (tmp_path / "status.json").write_text("{")
    with pytest.raises(StoreCorrupt):
        EdgeStatus(tmp_path / "status.json")
