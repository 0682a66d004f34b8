"""A catalogue of many frames, as workers and people would have left it, written straight into its tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue.auditschema import AUDIT_START, audit_sha256
from secondlook.cloud.catalogue.schema import Base, table_of
from secondlook.cloud.catalogue.store import is_by_person
from tests.cloud.station.seed import BOOT, SECOND, START

HOSTS = 10
_ROWS = 20_000  # written at a time
_BOX = {"x0": 1.0, "y0": 2.0, "x1": 30.0, "y1": 40.0}
_FRAME = {
    "boot_id": BOOT,
    "width": 320,
    "height": 192,
    "base_blob": "b",
    "base_bytes": 1,
    "enhancement_bytes": 1,
}

Rows = dict[type[Base], list[dict[str, Any]]]
_KINDS = (
    cat.Frame,
    cat.DetectedBox,
    cat.Review,
    cat.Reason,
    cat.Verdict,
    cat.JudgedBox,
    cat.DoubleReview,
    cat.Opinion,
    cat.AuditEntry,
)


def fill(catalogue: cat.Catalogue, count: int, every: int = 10) -> None:
    """So many frames of ten camera hosts, one in ``every`` with a review and a verdict, a second apart.

    Every tenth decided frame was judged by two persons, who mostly agree. The audit trail has a line for what machines
    did with each review, and for each verdict.
    """
    with catalogue.writing() as session:
        connection = session.connection()
        hosts = [
            {"edge_id": f"edge-{n}", "camera": "c", "first_seen_ns": 0, "last_seen_ns": 0}
            for n in range(HOSTS)
        ]
        connection.execute(table_of(cat.Camera).insert(), hosts)
        trail = _Trail()
        for first in range(1, count + 1, _ROWS):
            rows: Rows = {kind: [] for kind in _KINDS}
            for n in range(first, min(first + _ROWS, count + 1)):
                _add_frame(rows, n, every, trail)
            for kind, values in rows.items():
                if values:
                    connection.execute(table_of(kind).insert(), values)
        trail.end(connection)
        if connection.dialect.name == "postgresql":  # numbers were given, not drawn
            for table in ("frames", "reviews"):
                connection.execute(text(f"SELECT setval('{table}_id_seq', max(id)) FROM {table}"))


def label_of(n: int) -> str:
    return "fox" if n % 100_000 == 3 else ("car", "person")[n % 2]


def score_of(n: int) -> float:
    return n * 7919 % 9973 / 9974


def _add_frame(rows: Rows, n: int, every: int, trail: _Trail) -> None:
    at, edge_id, score, label = START + n * SECOND, f"edge-{n % HOSTS}", score_of(n), label_of(n)
    times = {"captured_ns": at, "received_ns": at, "detected_ns": at}
    rows[cat.Frame].append({**_FRAME, **times, "id": n, "edge_id": edge_id, "seq": n, "top_score": score})
    seen = {"captured_ns": at, "edge_id": edge_id}
    box = {"frame_id": n, "label": label, "score": score, "detector": "tiny"}
    rows[cat.DetectedBox].append({**_BOX, **box, **seen})
    if n % every == 0:
        _add_review(rows, n // every, {"frame_id": n, **seen}, label, score, trail)


def _add_review(rows: Rows, id_: int, seen: dict[str, Any], label: str, score: float, trail: _Trail) -> None:
    at = seen["captured_ns"]
    review = {"id": id_, "reason": "doubt", "priority": 1, "state": "decided", "created_ns": at}
    rows[cat.Review].append({**review, **seen, "top_score": score})
    rule = "rule" if id_ == 5 else "audit" if id_ % 10 == 0 else "uncertain"
    rows[cat.Reason].append(
        {"review_id": id_, "rule": rule, "reason": "r", "priority": 1, "decisive": True, **seen}
    )
    for action, actor in (("review created", "policy"), ("review refined", "refiner")):
        rows[cat.AuditEntry].append(trail.line(at, actor, action, id_, {}))
    people = ("Ann", "Bea") if id_ % 10 == 1 else ("Ann",)
    kind = "unsure" if id_ == 7 else "reject" if id_ % 20 == 9 else "confirm"
    for person in people:
        verdict = {"review_id": id_, "reviewer": person, "note": "", "decided_ns": at, "verdict": kind}
        rows[cat.Verdict].append({**verdict, "shown_sha256": "0" * 64, **seen})
        trail.verdicts += 1
        detail = {"verdict_id": trail.verdicts, "verdict": kind}
        rows[cat.AuditEntry].append(trail.line(at, person, "verdict given", id_, detail))
    if len(people) > 1:
        double = {"review_id": id_, "stage": "agreed", "since_ns": at, "counting": "Ann"}
        rows[cat.DoubleReview].append(double)
        rows[cat.Opinion] += [
            {"review_id": id_, "reviewer": person, "kind": "double", "asked_ns": at, "given_ns": at}
            for person in people
        ]
    if kind != "unsure":
        judged = {"review_id": id_, "decided_ns": at, "edge_id": seen["edge_id"], "label": label}
        rows[cat.JudgedBox].append({**judged, "score": score, "is_right": kind == "confirm"})


class _Trail:
    """The lines of the audit trail, each covering the one before."""

    def __init__(self) -> None:
        self.lines, self.verdicts, self.sha256 = 0, 0, AUDIT_START

    def line(self, at: int, actor: str, action: str, id_: int, detail: dict[str, Any]) -> dict[str, Any]:
        subject = f"review/{id_}"
        self.sha256 = audit_sha256(self.sha256, at, actor, action, subject, detail)
        self.lines += 1
        said = {"at_ns": at, "actor": actor, "action": action, "subject": subject, "detail": detail}
        return {**said, "sha256": self.sha256, "by_person": is_by_person(actor, action)}

    def end(self, connection: Connection) -> None:
        head = text("UPDATE audit_head SET entries = :lines, sha256 = :sha256")
        connection.execute(head, {"lines": self.lines, "sha256": self.sha256})
