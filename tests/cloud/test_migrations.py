"""Migrations of the catalogue: from the first schema with data in it, by many processes at once, on both databases."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Engine, Inspector, MetaData, String, inspect, select, text

import secondlook.cloud.accounts.schema  # the tables of accounts are in the same metadata
from secondlook.cloud import catalogue as cat
from secondlook.cloud.accounts import list_users
from secondlook.cloud.catalogue import migrate
from secondlook.cloud.catalogue.audit import verify_audit
from secondlook.cloud.catalogue.judged import judged_boxes
from secondlook.cloud.catalogue.schema import Base
from secondlook.cloud.storage.sql import open_engine
from secondlook.main import main
from secondlook.shared.errors import StoreCorrupt
from secondlook.shared.packet import FrameInfo
from tests import migration
from tests.cloud.servers import PostgreSQL

SCHEMAS = Path(__file__).parent / "schemas"
SCRIPTS = Path(migrate.__file__).parent / "migrations"
NUMBER_OF_PROCESSES = 4


@pytest.fixture
def old_url(catalogue_url: str, request: pytest.FixtureRequest) -> str:
    """A catalogue as it was before there were migrations, filled by the program of that time."""
    if catalogue_url.startswith("sqlite"):
        path = Path(catalogue_url.removeprefix("sqlite:///"))
        path.parent.mkdir()
        with sqlite3.connect(path) as connection:
            connection.executescript((SCHEMAS / "before_migrations.sqlite.sql").read_text())
        connection.close()
    else:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        schema = catalogue_url.rpartition("%3D")[2]
        with server.connected() as connection:
            connection.execute(f'SET search_path TO "{schema}"')  # type: ignore[call-overload]
            connection.execute((SCHEMAS / "before_migrations.postgresql.sql").read_bytes())
    return catalogue_url


@pytest.fixture
def engine(old_url: str) -> Iterator[Engine]:
    engine = open_engine(old_url, "catalogue")
    yield engine
    engine.dispose()


def rows(engine: Engine, query: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def constraints(inspector: Inspector, table: str) -> object:
    """Indexes, keys and checks of a table, as far as every database tells of them alike."""
    indexes = {(one["name"], *one["column_names"], one["unique"]) for one in inspector.get_indexes(table)}
    keys = {(*one["constrained_columns"], one["referred_table"]) for one in inspector.get_foreign_keys(table)}
    unique = {tuple(one["column_names"]) for one in inspector.get_unique_constraints(table)}
    checks = {
        (one["name"], *re.findall(r"'(\w+)'", one["sqltext"]))
        for one in inspector.get_check_constraints(table)
    }
    return indexes, keys, unique, checks


def differences(engine: Engine) -> list[object]:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrate.VERSION_TABLE})
        return list(compare_metadata(context, Base.metadata))


def test_a_catalogue_with_data_is_taken_over_whole(engine: Engine, old_url: str) -> None:
    tables = ("frames", "detections", "reviews", "verdicts", "tombstones", "cameras", "users", "api_tokens")
    before = {name: rows(engine, f"SELECT count(*) FROM {name}") for name in tables}
    verdicts = rows(
        engine, "SELECT id, review_id, reviewer, verdict, note, label, x0 FROM verdicts ORDER BY id"
    )
    assert before["verdicts"] == [(5,)]
    catalogue = cat.open_catalogue(old_url)
    assert {name: rows(engine, f"SELECT count(*) FROM {name}") for name in tables} == before
    assert verdicts == rows(
        engine, "SELECT id, review_id, reviewer, verdict, note, label, x0 FROM verdicts ORDER BY id"
    )
    assert verify_audit(catalogue).entries == 16
    # A person can go on where they were.
    cat.record_verdict(catalogue, 1, cat.NewVerdict(cat.VerdictKind.CONFIRM, "bob", "e" * 64), now_ns=1)
    assert verify_audit(catalogue).entries == 17
    assert [user.name for user in list_users(catalogue)] == ["ann"]
    catalogue.close()


def test_old_frames_get_their_class_and_since_when(engine: Engine) -> None:
    migrate.upgrade(engine)
    second, start = 1_000_000_000, 1_700_000_000
    found = rows(engine, "SELECT seq, retention, retention_ns, stored_bytes FROM frames ORDER BY seq")
    assert found == [
        (0, "unreviewed", (start + 2) * second, 100),
        (1, "undecided", (start + 3) * second, 1001),  # a verdict that would settle it was undone
        (2, "audit", (start + 108) * second, 1002),
        (3, "decided", (start + 102) * second, 1003),
        (4, "unreviewed", (start + 6) * second, 104),
        (5, "undecided", (start + 7) * second, 105),
        (7, "unreviewed", (start + 9) * second, 107),
    ]


def test_old_verdicts_are_found_and_counted_like_new_ones(engine: Engine, old_url: str) -> None:
    catalogue = cat.open_catalogue(old_url)
    query = "SELECT review_id, label, score, is_right, decided_ns, edge_id FROM judged_boxes ORDER BY id"
    kept = rows(engine, query)
    assert [row[:4] for row in kept if row[0] == 3] == [(3, "cat", 0.5, False), (3, "dog", 0.9, False)]
    with catalogue.reading() as session:
        decided = (
            select(cat.Review).where(cat.Review.state == cat.ReviewState.DECIDED).order_by(cat.Review.id)
        )
        made = [box for review in session.scalars(decided) for box in judged_boxes(review)]
        as_made = [(b.review_id, b.label, b.score, b.is_right, b.decided_ns, b.edge_id) for b in made]
        assert as_made == kept and any(score is None for _, _, score, *_ in as_made)
        for kind in (cat.Verdict, cat.Reason, cat.Review, cat.DetectedBox):
            found = session.scalars(select(kind)).all()
            for row in found:
                frame = session.get_one(cat.Frame, row.frame_id)
                assert (row.captured_ns, row.edge_id) == (frame.captured_ns, frame.edge_id), kind
            assert found, kind
        for review in session.scalars(select(cat.Review)):
            assert review.top_score == review.frame.top_score
        people = session.scalars(select(cat.AuditEntry.id).where(cat.AuditEntry.by_person.is_(True)))
        assert sorted(people) == [6, 8, 9, 10, 13, 14, 15, 16]
    catalogue.close()


def test_known_frames_that_were_undone_try_nobody_any_more(engine: Engine, old_url: str) -> None:
    cat.open_catalogue(old_url).close()
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX frames_unseen"))
        for column in ("crop", "wants_whole", "doubts", "second_look"):
            connection.execute(text(f"ALTER TABLE reviews DROP COLUMN {column}"))
        for column in ("handed_to", "handed_ns"):
            connection.execute(text(f"ALTER TABLE opinions DROP COLUMN {column}"))
        connection.execute(text("UPDATE catalogue_version SET version_num = '0012_comments'"))
        ids = connection.execute(text("SELECT id FROM reviews WHERE state = 'decided' ORDER BY id")).scalars()
        decided, dropped, *_ = ids.all()
        undone = connection.scalar(text("SELECT min(id) FROM reviews WHERE state <> 'decided'"))
        for known in (decided, undone):
            connection.execute(text(f"INSERT INTO known_frames VALUES ({known}, 1, 'ada')"))
        for review_id, person, given in (
            (decided, "bea", "NULL"),
            (decided, "cai", "2"),
            (undone, "bea", "NULL"),
            (undone, "cai", "2"),
            (dropped, "bea", "NULL"),
            (dropped, "cai", "2"),
        ):
            row = f"({review_id}, '{person}', 'known', 1, {given})"
            columns = "review_id, reviewer, kind, asked_ns, given_ns"
            connection.execute(text(f"INSERT INTO opinions ({columns}) VALUES {row}"))
    cat.open_catalogue(old_url).close()
    assert rows(engine, "SELECT review_id FROM known_frames") == [(decided,)]
    kept = rows(engine, "SELECT review_id, reviewer FROM opinions ORDER BY review_id, reviewer")
    assert kept == sorted([(decided, "bea"), (decided, "cai"), (dropped, "cai")])


def test_the_role_of_refiners_may_settle_where_there_is_one(database_url: str) -> None:
    cat.open_catalogue(database_url).close()
    engine = open_engine(database_url, "catalogue")
    before = ("CREATE ROLE secondlook_refiner", "GRANT UPDATE (stored_bytes) ON frames TO secondlook_refiner")
    may = "SELECT has_column_privilege('secondlook_refiner', 'frames', 'retention', 'UPDATE')"
    with engine.begin() as connection:
        for column in ("doubts", "second_look"):
            connection.execute(text(f"ALTER TABLE reviews DROP COLUMN {column}"))
        for statement in (*before, "UPDATE catalogue_version SET version_num = '0015_crops'"):
            connection.execute(text(statement))
        assert connection.scalar(text(may)) is False
    cat.open_catalogue(database_url).close()
    with engine.begin() as connection:
        assert connection.scalar(text(may)) is True
        connection.execute(text("DROP OWNED BY secondlook_refiner"))
        connection.execute(text("DROP ROLE secondlook_refiner"))
    engine.dispose()


def test_a_catalogue_whose_tables_were_made_in_part_gets_the_rest(engine: Engine) -> None:
    """Before there were migrations, a worker made no tables of accounts, and an older one no such index."""
    with engine.begin() as connection:
        for statement in ("DROP TABLE user_sessions", "DROP TABLE api_tokens", "DROP INDEX frames_of_host"):
            connection.execute(text(statement))
    migrate.upgrade(engine)
    assert differences(engine) == []


def test_the_migrations_make_the_tables_that_the_program_knows(engine: Engine) -> None:
    assert differences(engine) != []
    migrate.upgrade(engine)
    assert differences(engine) == []
    assert secondlook.cloud.accounts.schema.User.__tablename__ in inspect(engine).get_table_names()


def test_an_empty_database_gets_the_same_tables_as_an_old_one(
    engine: Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    migrate.upgrade(engine)
    sqlite = engine.dialect.name == "sqlite"
    fresh_url = (
        f"sqlite:///{tmp_path}/fresh.db" if sqlite else request.getfixturevalue("postgresql").create("fresh")
    )
    fresh = open_engine(fresh_url, "catalogue")
    migrate.upgrade(fresh)
    assert differences(fresh) == []
    old, new = inspect(engine), inspect(fresh)
    assert set(old.get_table_names()) - {"schema_version"} == set(new.get_table_names())
    for table in new.get_table_names():
        assert constraints(old, table) == constraints(new, table)
    fresh.dispose()


def test_processes_that_start_together_migrate_once(old_url: str, engine: Engine) -> None:
    code = (
        "import sys; from secondlook.cloud.catalogue import open_catalogue;"
        "from secondlook.cloud.catalogue.audit import verify_audit;"
        "print(verify_audit(open_catalogue(sys.argv[1])).entries)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, old_url], stdout=subprocess.PIPE, text=True)
        for _ in range(NUMBER_OF_PROCESSES)
    ]
    with ThreadPoolExecutor(NUMBER_OF_PROCESSES) as pool:
        said = [out for out, _ in pool.map(subprocess.Popen.communicate, started)]
    assert said == ["16\n"] * NUMBER_OF_PROCESSES
    assert rows(engine, "SELECT version_num FROM catalogue_version") == [(migrate.revisions()[-1],)]


def test_a_migration_that_fails_changes_nothing(
    engine: Engine, old_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [sorted(inspect(engine).get_table_names()), rows(engine, "SELECT * FROM schema_version")]
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.sha256", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cat.open_catalogue(old_url)
    after = [sorted(inspect(engine).get_table_names()), rows(engine, "SELECT * FROM schema_version")]
    assert after == before
    cat.open_catalogue(old_url).close()


def test_a_row_whose_parent_is_gone_is_named(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "c.db") as connection:
        connection.executescript((SCHEMAS / "before_migrations.sqlite.sql").read_text())
        connection.execute("DELETE FROM reviews WHERE id = 3")
    connection.close()
    with pytest.raises(StoreCorrupt, match="a row of verdicts refers to one of reviews"):
        cat.open_catalogue(f"sqlite:///{tmp_path}/c.db")


def test_foreign_keys_hold_again_after_a_migration(old_url: str) -> None:
    catalogue = cat.open_catalogue(old_url)
    with pytest.raises(Exception, match=r"(?i)foreign key"), catalogue.writing() as session:
        session.execute(text("DELETE FROM reviews WHERE id = 3"))
    catalogue.close()


def test_numbers_of_deleted_rows_are_not_given_out_again(old_url: str, engine: Engine) -> None:
    catalogue = cat.open_catalogue(old_url)
    with catalogue.writing() as session:
        for table in ("judged_boxes", "verdicts", "review_reasons", "reviews", "detections", "frames"):
            session.execute(text(f"DELETE FROM {table}"))
    new = cat.NewFrame("gate", "yard", 2, FrameInfo("cd" * 16, 0, 1, 8, 6, None, 2), "base/x/y/0.slk", 1)
    assert cat.store_frame(
        catalogue, new, [], detector="tiny", reasons=[cat.NewReview("watched", 5)], now_ns=3
    )
    with catalogue.reading() as session:
        assert session.scalars(select(cat.Frame.id)).all() == [8]
        assert session.scalars(select(cat.Review.id)).all() == [5]
    catalogue.close()


def test_revisions_are_the_names_of_their_files_in_one_line() -> None:
    script = ScriptDirectory(str(SCRIPTS))
    known = [step.revision for step in script.walk_revisions()][::-1]
    assert known == migrate.revisions()  # one head, in the order of the names
    assert max(map(len, known)) <= 32  # what the table of the version has room for


def test_the_next_migration_is_written_from_what_the_tables_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SCRIPTS, tmp_path / "migrations")
    monkeypatch.setattr(migrate, "_FOLDER", tmp_path / "migrations")
    tables = MetaData()
    for table in Base.metadata.sorted_tables:
        table.to_metadata(tables)
    tables.tables["frames"].append_column(Column("weather", String(16)))
    number = len(migrate.revisions()) + 1
    written = migration.write("weather", tmp_path, tables)
    assert written == tmp_path / "migrations" / "versions" / f"{number:04}_weather.py"
    engine = open_engine(f"sqlite:///{tmp_path}/catalogue.db", "catalogue")
    migrate.upgrade(engine)
    assert "weather" in {column["name"] for column in inspect(engine).get_columns("frames")}
    engine.dispose()
    with pytest.raises(ValueError, match="no name"):
        migration.write("Weather!", tmp_path)


def test_commands_show_and_upgrade_the_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(tmp_path / "catalogue.db") as connection:
        connection.executescript((SCHEMAS / "before_migrations.sqlite.sql").read_text())
    connection.close()

    def secondlook(*arguments: str) -> str:
        assert main([*arguments, "--data-dir", str(tmp_path)]) == 0
        return capsys.readouterr().out

    newest = migrate.revisions()[-1]
    assert secondlook("catalogue", "current").splitlines()[:2] == [
        "without migrations",
        "missing: 0001_first",
    ]
    assert secondlook("catalogue", "upgrade") == f"without migrations -> {newest}\n"
    assert (
        secondlook("catalogue", "current") == secondlook("catalogue", "upgrade") == f"{newest} (up to date)\n"
    )
    with sqlite3.connect(tmp_path / "catalogue.db") as connection:
        connection.execute("UPDATE catalogue_version SET version_num = '9999_later'")
    connection.close()
    assert main(["catalogue", "upgrade", "--data-dir", str(tmp_path)]) == 1
    assert "made by a later program" in capsys.readouterr().err
