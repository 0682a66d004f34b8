"""The chain of the audit trail: what is done to it from outside is seen, and what is done at once stays one chain."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text

from secondlook.cloud import accounts
from secondlook.cloud import catalogue as cat
from secondlook.cloud.accounts import Role
from secondlook.cloud.catalogue.audit import verify_audit
from secondlook.cloud.config import SessionTimes
from secondlook.main import main
from secondlook.shared.errors import AuditBroken, Unwritable
from tests.cloud.servers import PostgreSQL
from tests.cloud.test_catalogue import store

PASSWORD = "correct horse battery"
HANDS = 6


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    catalogue = cat.open_catalogue(catalogue_url)
    yield catalogue
    catalogue.close()


def test_an_empty_trail_is_whole(catalogue: cat.Catalogue) -> None:
    assert verify_audit(catalogue).entries == 0


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit SET actor = 'eve' WHERE id = 2",
        "UPDATE audit SET at_ns = at_ns + 1 WHERE id = 5",
        "UPDATE audit SET detail = '{}' WHERE id = 1",
        "UPDATE audit SET subject = 'review/9' WHERE id = 4",
        "UPDATE audit SET sha256 = 'f' WHERE id = 3",
        "UPDATE audit SET id = 99 WHERE id = 3",  # moved to the end
        "DELETE FROM audit WHERE id = 1",
        "DELETE FROM audit WHERE id = 3",
        "DELETE FROM audit WHERE id = 5",  # the last
        "DELETE FROM audit",
        "INSERT INTO audit SELECT 99, at_ns, actor, action, subject, detail, sha256, by_person FROM audit WHERE id = 5",
        "DELETE FROM audit_head",
        "UPDATE audit_head SET entries = 4",
    ],
)
def test_what_is_done_to_the_trail_is_seen(catalogue: cat.Catalogue, tampering: str) -> None:
    for seq in range(5):
        store(catalogue, seq)
    assert verify_audit(catalogue).entries == 5
    with catalogue.writing() as session:
        session.execute(text(tampering))
    with pytest.raises(AuditBroken):
        verify_audit(catalogue)


def test_a_trail_that_was_written_anew_lacks_the_hash_that_was_noted(
    catalogue: cat.Catalogue, tmp_path: Path
) -> None:
    store(catalogue, 0)
    noted = verify_audit(catalogue).sha256
    store(catalogue, 1)
    assert verify_audit(catalogue, noted=noted).entries == 2
    other = cat.open_catalogue(f"sqlite:///{tmp_path}/other.db")
    store(other, 1)
    with pytest.raises(AuditBroken, match=noted):
        verify_audit(other, noted=noted)
    other.close()


def test_many_writers_make_one_chain(catalogue_url: str) -> None:
    hands = [cat.open_catalogue(catalogue_url) for _ in range(HANDS)]

    def write(number: int) -> None:
        for seq in range(8):
            store(hands[number], number * 8 + seq)
            cat.note_export(hands[number], f"p{number}", "coco.json", {}, now_ns=seq)

    with ThreadPoolExecutor(HANDS + 1) as pool:
        done = pool.map(write, range(HANDS))
        checked = [pool.submit(verify_audit, hands[0]).result().entries for _ in range(5)]
        list(done)
    assert checked == sorted(checked)  # whole at any moment
    assert verify_audit(hands[0]).entries == HANDS * 16
    for catalogue in hands:
        catalogue.close()


def test_a_change_that_fails_leaves_the_chain_as_it_was(catalogue: cat.Catalogue) -> None:
    store(catalogue, 0)

    def fail() -> None:
        with catalogue.writing() as session:
            cat.store.append_audit(session, at_ns=1, actor="a", action="b", subject="c", detail={})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    store(catalogue, 1)
    assert verify_audit(catalogue).entries == 2


def test_details_of_any_kind_are_read_as_they_were_hashed(catalogue: cat.Catalogue) -> None:
    detail = {
        "a": 0.1 + 0.2,
        "b": (1, 2**60),
        "c": "größer\n\"'\\ 🦊",
        "d": None,
        "e": {"z": 1, "a": cat.VerdictKind.UNSURE},
    }
    cat.note_export(catalogue, "ann", "coco.json", detail, now_ns=2**62)
    assert verify_audit(catalogue).entries == 1


def test_a_role_that_may_only_append(postgresql: PostgreSQL) -> None:
    """What docs/security.md says of rights on PostgreSQL is enough for every process, and for no forger."""
    owner_url = postgresql.create("appending")
    cat.open_catalogue(owner_url).close()
    with postgresql.connected() as connection:
        for statement in (
            "CREATE ROLE appender LOGIN PASSWORD 'pass-word'",
            "GRANT USAGE ON SCHEMA appending TO appender",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA appending TO appender",
            "GRANT USAGE ON ALL SEQUENCES IN SCHEMA appending TO appender",
            "REVOKE UPDATE, DELETE ON appending.audit FROM appender",
        ):
            connection.execute(statement.encode())
    catalogue = cat.open_catalogue(owner_url.replace("//secondlook:", "//appender:"))
    for seq in range(3):
        store(catalogue, seq)
    for forgery in ("UPDATE audit SET actor = 'eve'", "DELETE FROM audit"):
        with pytest.raises(Unwritable), catalogue.writing() as session:
            session.execute(text(forgery))
    assert verify_audit(catalogue).entries == 3
    catalogue.close()


def test_a_log_in_leaves_a_line(catalogue: cat.Catalogue) -> None:
    accounts.add_user(catalogue, "ann", Role.ADMIN, PASSWORD, actor="x", now_ns=1)
    accounts.open_session(catalogue, "ann", SessionTimes(), now_ns=2)
    with catalogue.reading() as session:
        last = session.scalars(select(cat.AuditEntry).order_by(cat.AuditEntry.id.desc())).first()
    assert last is not None
    assert (last.actor, last.action, last.subject, last.at_ns) == ("ann", "logged in", "user ann", 2)


def test_the_command_checks_the_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    store(catalogue, 0)
    assert main(["audit", "verify", "--data-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("whole: 1 entries, the last ")
    noted = said.split()[-1]
    assert main(["audit", "verify", "--data-dir", str(tmp_path), "--noted", noted]) == 0
    with catalogue.writing() as session:
        session.execute(text("UPDATE audit SET actor = 'eve'"))
    assert main(["audit", "verify", "--data-dir", str(tmp_path)]) == 1
    assert "broken at entry 1" in capsys.readouterr().err
    catalogue.close()
