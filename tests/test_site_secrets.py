"""The secrets that deploy/prepare.sh makes, and the servers with the configuration that deploy/ ships."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nats
import nats.errors
import psycopg
import psycopg.errors
import pytest
from sqlalchemy import func, select

from secondlook.cloud.accounts import Role, add_user
from secondlook.cloud.accounts.schema import UserSession
from secondlook.cloud.catalogue import (
    FrameTombstone,
    NewFrame,
    NewReview,
    NewVerdict,
    Retention,
    ReviewBudget,
    Rule,
    VerdictKind,
    check_catalogue,
    lease_due_review,
    open_catalogue,
    record_verdict,
    release_review,
    site_secret,
    skipped_reviews,
    store_frame,
    store_tombstones,
)
from secondlook.cloud.catalogue.audit import verify_audit
from secondlook.cloud.catalogue.migrate import VERSION_TABLE
from secondlook.cloud.catalogue.schema import Base, Review, table_of
from secondlook.cloud.catalogue.site import AUDIT_SECRET
from secondlook.cloud.config import CloudConfig, JetStreamConfig, QueueLimits, RetentionConfig
from secondlook.cloud.gateway.keys import Registry
from secondlook.cloud.gateway.keys import Role as KeyRole
from secondlook.cloud.retention import Retainer
from secondlook.cloud.station.app import create_app
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.storage.sql import open_engine
from secondlook.cloud.storage.stores import open_stores
from secondlook.shared.config import load
from secondlook.shared.errors import StoreUnavailable, Unwritable
from secondlook.shared.keyfiles import read_key_pair, read_public_key
from secondlook.shared.packet import FrameInfo
from tests.cloud.helpers import wait_until
from tests.cloud.queues import BOOT, queued
from tests.cloud.servers import (
    PostgreSQL,
    free_port,
    nats_binary,
    nats_version,
    postgresql_running,
    wait_for_port,
)
from tests.cloud.station import seed
from tests.cloud.station.people import log_in
from tests.cloud.station.seed import drawn_scene
from tests.cloud.station.server import client_of

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
ROLES = ("owner", "gateway", "worker", "refiner", "retention", "station")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("site") / "secrets"
    environment = {
        **os.environ,
        "SECONDLOOK": f"{sys.executable} -m secondlook",
        "PYTHONPATH": str(ROOT),
        "NATS_NAME": "localhost",
    }
    subprocess.run(["sh", DEPLOY / "prepare.sh", folder], check=True, env=environment, umask=0o022)
    return folder


def test_every_service_has_its_own_and_only_its_owner_reads_them(secrets: Path) -> None:
    for path in secrets.rglob("*"):
        public = path.suffix == ".key" or path.name in ("gateway.nkey_public", "registry.json")
        assert public or stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    pairs = {name: read_key_pair(secrets / f"{name}.key_secret") for name in ("gateway", "worker", "refiner")}
    assert len(set(pairs.values())) == 3
    registry = Registry(secrets / "registry.json")
    assert {entry.name: entry.role for entry in registry.entries} == {
        "worker": KeyRole.WORKER,
        "refiner": KeyRole.WORKER,
    }
    assert read_public_key(secrets / "gateway.key") == pairs["gateway"][0]
    passwords = {(secrets / "postgres" / name).read_text() for name in (*ROLES, "superuser")}
    assert len(passwords) == 7 and all(re.fullmatch(r"[0-9a-f]{48}", word) for word in passwords)
    again = subprocess.run(["sh", DEPLOY / "prepare.sh", secrets], capture_output=True, check=False)
    assert again.returncode != 0  # nothing is overwritten


@pytest.fixture(scope="module")
def shipped_nats(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A NATS server with the shipped configuration; its address."""
    folder, port = tmp_path_factory.mktemp("nats"), free_port()
    text = (DEPLOY / "kubernetes" / "nats.conf").read_text()
    for shipped, here in (
        ("port: 4222", f"port: {port}\nhost: 127.0.0.1"),
        ("/etc/nats/secrets", str(secrets)),
        ("store_dir: /data", f"store_dir: {folder}"),
    ):
        assert shipped in text
        text = text.replace(shipped, here)
    if nats_version() < (2, 10):
        text = text.replace("sync_interval: always", "")
    config = folder / "nats.conf"
    config.write_text(text)
    environment = {**os.environ, **dict([(secrets / "nats.env").read_text().strip().split("=")])}
    subprocess.run([nats_binary(), "-t", "-c", config], check=True, capture_output=True, env=environment)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([nats_binary(), "-c", config], stdout=log, stderr=log, env=environment)
    wait_for_port(port, process, folder / "log")
    yield f"localhost:{port}"
    process.kill()
    process.wait()


def connect(address: str, **options: object) -> None:
    async def once() -> None:
        client = await nats.connect(
            address, allow_reconnect=False, connect_timeout=5, error_cb=_silent, **options
        )
        await client.close()

    asyncio.run(once())


async def _silent(_error: Exception) -> None:
    """The library would print it."""


def test_nats_lets_nobody_in_without_a_key(secrets: Path, shipped_nats: str, tmp_path: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(secrets / "ca.crt"))
    connect(f"tls://{shipped_nats}", tls=trusted, nkeys_seed=str(secrets / "gateway.nkey"))
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization|nkeys"):
        connect(f"tls://{shipped_nats}", tls=trusted)
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        connect(f"tls://{shipped_nats}", tls=trusted, user="secondlook", password="secondlook")
    subprocess.run(
        [sys.executable, "-m", "secondlook", "keys", "nats", "stranger", "--folder", tmp_path],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        connect(f"tls://{shipped_nats}", tls=trusted, nkeys_seed=str(tmp_path / "stranger.nkey"))
    with pytest.raises(ssl.SSLError):
        connect(f"tls://{shipped_nats}", nkeys_seed=str(secrets / "gateway.nkey"))  # of an unknown authority
    with pytest.raises((OSError, nats.errors.Error)):
        connect(f"nats://{shipped_nats}", nkeys_seed=str(secrets / "gateway.nkey"))  # in the clear


def test_the_gateways_queue_works_behind_the_shipped_configuration(secrets: Path, shipped_nats: str) -> None:
    from secondlook.cloud.storage.queue_jetstream import JetStreamQueue

    config = JetStreamConfig(nkey_file=secrets / "gateway.nkey", ca_file=secrets / "ca.crt")
    queue = JetStreamQueue(f"tls://{shipped_nats}/secondlook", QueueLimits(), config)
    assert queue.put([queued(1)], now=1000.0) == 1
    (item,) = queue.lease(1, ttl_seconds=30, worker="w", now=1000.0)
    queue.ack([item.id], worker="w")
    # What a lease leaves to others, and what two gateways tell each other, is let through too.
    other = JetStreamQueue(f"tls://{shipped_nats}/secondlook", QueueLimits(max_attempts=1), config)
    assert other.lease(1, ttl_seconds=30, worker="v", now=1000.0) == []
    assert queue.put([queued(2, edge_id="yard-2")], now=1000.0) == 1
    wait_until(lambda: "yard-2" in other._streams.line())
    (item,) = other.lease(1, ttl_seconds=30, worker="v", now=1000.0)
    other.extend([item.id], ttl_seconds=30, worker="v", now=1000.0)
    other.nack(item.id, delay_seconds=0, worker="v", why="it is broken", now=1000.0)
    (dead,) = queue.dead(1)
    assert (dead.edge_id, dead.why) == ("yard-2", "it is broken")
    assert queue.requeue([dead.id], now=1000.0) == 1
    other.close()
    queue.close()
    with pytest.raises(StoreUnavailable):
        JetStreamQueue(
            f"tls://{shipped_nats}/secondlook", QueueLimits(), JetStreamConfig(ca_file=secrets / "ca.crt")
        )


@dataclass(frozen=True)
class Database:
    server: PostgreSQL
    passwords: Path

    def url(self, role: str) -> str:
        password = (self.passwords / role).read_text()
        return f"postgresql+psycopg://secondlook_{role}:{password}@127.0.0.1:{self.server.port}/site"

    def refuses(self, role: str, statement: str) -> None:
        with (
            psycopg.connect(self.url(role).replace("+psycopg", ""), autocommit=True) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def database(secrets: Path) -> Iterator[Database]:
    """A server that was set up as the shipped one, with the tables that the owner makes."""
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed")
    with postgresql_running() as server:
        with server.connected() as connection:
            connection.execute("CREATE DATABASE site")
        script = (DEPLOY / "kubernetes" / "postgres" / "init.sh").read_text()
        environment = {
            **os.environ,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGPASSWORD": "pass-word",
            "POSTGRES_USER": "secondlook",
            "POSTGRES_DB": "site",
            "SECONDLOOK_PASSWORDS": str(secrets / "postgres"),
        }
        shipped = "/etc/secondlook-postgres/roles.sql"
        assert shipped in script
        subprocess.run(
            ["sh", "-c", script.replace(shipped, str(DEPLOY / "kubernetes" / "postgres" / "roles.sql"))],
            check=True,
            env=environment,
            capture_output=True,
        )
        database = Database(server, secrets / "postgres")
        owner = open_catalogue(database.url("owner"))
        add_user(owner, "alice", Role.ADMIN, "a long enough secret", actor="setup", now_ns=1)
        owner.close()
        yield database


def last_review(database: Database) -> int:
    """The number of the newest review; 0 without one."""
    owner = open_catalogue(database.url("owner"))
    with owner.reading() as session:
        (number,) = session.scalars(select(func.max(Review.id)))
    owner.close()
    return number or 0


def test_each_role_can_do_its_work_and_no_more(database: Database, tmp_path: Path) -> None:
    blobs = open_blobs(str(tmp_path / "blobs"))
    worker, refiner = open_catalogue(database.url("worker")), open_catalogue(database.url("refiner"))
    scene = drawn_scene(0)
    first = last_review(database) + 1
    for index in range(3):
        seed._store(worker, blobs, index, scene, seed.START, priority=200 - index, settled=index == 2)
    dropped = FrameTombstone(
        edge_id="gate-north", boot_id=seed.BOOT, first_seq=5, last_seq=9, reason="x", received_ns=1
    )
    store_tombstones(worker, [dropped])
    seed._store(worker, blobs, 6, scene, seed.START, priority=9)  # which cuts the tombstone
    seed._work(refiner, blobs, first, scene, "ready")
    seed._work(refiner, blobs, first + 1, scene, "expired")
    seed._work(refiner, blobs, first + 2, scene, "settled")
    leased = lease_due_review(refiner, "r", lease_seconds=9, now_ns=seed.START)
    assert leased is not None
    release_review(refiner, leased.review_id, "r")
    check_catalogue(worker)
    check_catalogue(refiner)
    assert len(site_secret(worker, AUDIT_SECRET)) == 32
    # With a budget of one, a more urgent review lets the one that is due be skipped.
    frame = NewFrame(
        "yard-2", "Yard", seed.START, FrameInfo(seed.BOOT, 40, seed.START, 320, 192, None, 1), "x", 1
    )
    urgent = NewReview("watched: person", 250, rule=Rule.WATCHED)
    budget = ReviewBudget(site=1)
    assert store_frame(
        worker, frame, scene.detections, detector="x", reasons=[urgent], now_ns=seed.START, budget=budget
    )
    assert skipped_reviews(worker) == 1
    worker.close()
    refiner.close()
    for role in ("worker", "refiner"):
        for table in ("users", "user_sessions", "api_tokens", "verdicts"):
            database.refuses(role, f"SELECT * FROM {table}")
        database.refuses(role, "UPDATE catalogue_version SET version_num = 'x'")
        for change in (
            "UPDATE audit SET actor = 'x'",
            "DELETE FROM audit",
            "DELETE FROM frames",
            "DELETE FROM reviews",
        ):
            database.refuses(role, change)
        database.refuses(role, "SELECT * FROM gateway.gateway_edges")
        database.refuses(role, "CREATE TABLE catalogue.x (y int)")
        database.refuses(role, "CREATE TABLE public.x (y int)")
    database.refuses("worker", "UPDATE frames SET seq = 1")
    database.refuses("worker", "UPDATE reviews SET shown_sha256 = 'x'")
    database.refuses("refiner", "INSERT INTO frames DEFAULT VALUES")
    database.refuses("refiner", "SELECT * FROM site_secrets")


def test_the_stations_role_appends_to_the_audit_trail_and_never_changes_it(
    database: Database, tmp_path: Path
) -> None:
    owner = open_catalogue(database.url("owner"))
    blobs = open_blobs(str(tmp_path / "blobs"))
    seed._store(owner, blobs, 20, drawn_scene(0), seed.START, priority=260)
    review_id = last_review(database)
    seed._work(owner, blobs, review_id, drawn_scene(0), "ready")
    owner.close()
    app = create_app(catalogue_url=database.url("station"), blobs_url=str(tmp_path / "blobs"))
    with client_of(app) as client:
        assert log_in(client, "alice", "a long enough secret").status_code == 200
        shown = client.get(f"/api/reviews/{review_id}/images/refined").headers["x-content-sha256"]
        said = client.post(
            f"/api/reviews/{review_id}/verdicts",
            json={"verdict": "confirm", "reviewer": "alice", "shown_sha256": shown},
        )
        assert said.is_success, said.text
        assert client.post("/api/undo", json={"reviewer": "alice"}).is_success
        new = {"name": "bob", "role": "viewer", "password": "another long secret"}
        assert client.post("/api/users", json=new).is_success
        assert client.post("/api/users/bob/role", json={"role": "reviewer"}).is_success
        assert client.post("/api/users/bob/remove", json={}).is_success
        assert client.post("/api/tokens", json={"label": "x", "role": "viewer"}).is_success
        for path in ("summary", "reviews", "history", "users", "export/coco.json", "export/verdicts.jsonl"):
            assert client.get(f"/api/{path}").status_code == 200, path
        assert client.get("/readyz").status_code == 200
        assert client.post("/api/logout", json={}).is_success
    for change in (
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "DROP TABLE audit",
        "ALTER TABLE audit ADD COLUMN x int",
        "DELETE FROM users",
        "DELETE FROM verdicts",
        "UPDATE verdicts SET verdict = 'reject'",
        "SELECT * FROM site_secrets",
        "UPDATE frames SET seq = 1",
        "DELETE FROM reviews",
        "SELECT * FROM gateway.gateway_boots",
        "CREATE TABLE catalogue.x (y int)",
    ):
        database.refuses("station", change)


def test_the_role_of_retention_deletes_and_changes_nothing(database: Database, tmp_path: Path) -> None:
    owner, blobs = open_catalogue(database.url("owner")), open_blobs(str(tmp_path / "blobs"))
    scene = drawn_scene(0)
    seed._store(owner, blobs, 30, scene, seed.START, priority=300)
    review_id = last_review(database)
    seed._work(owner, blobs, review_id, scene, "ready")
    with owner.reading() as session:
        shown = session.get_one(Review, review_id).shown_sha256 or ""
    record_verdict(
        owner, review_id, NewVerdict(VerdictKind.CONFIRM, "alice", shown), now_ns=seed.START + seed.SECOND
    )
    dropped = FrameTombstone("gate-north", seed.BOOT, 50, 51, "x", 1)
    store_tombstones(owner, [dropped])
    retention = open_catalogue(database.url("retention"))
    later = seed.START // seed.SECOND + 400 * 86_400
    report = Retainer(
        retention, blobs, RetentionConfig(min_free_bytes=0, tombstones_days=1), clock=lambda: later
    ).run_once()
    retention.close()
    assert report.deleted.by_class[Retention.DECIDED].frames == 1
    assert report.deleted.tombstones >= 1
    with owner.reading() as session:
        assert session.get(Review, review_id) is None
    assert list(blobs.listing()) == []
    assert verify_audit(owner).entries > 0
    owner.close()
    for change in (
        "UPDATE frames SET retention_ns = 1",
        "INSERT INTO frames DEFAULT VALUES",
        "UPDATE reviews SET state = 'decided'",
        "UPDATE verdicts SET undone_ns = 1",
        "SELECT note FROM verdicts",
        "SELECT * FROM users",
        "SELECT * FROM user_sessions",
        "SELECT * FROM api_tokens",
        "SELECT * FROM site_secrets",
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
        "DELETE FROM audit_head",
        "SELECT * FROM gateway.gateway_boots",
        "CREATE TABLE catalogue.x (y int)",
    ):
        database.refuses("retention", change)


def test_the_gateways_role_has_its_own_tables_and_no_others(database: Database, tmp_path: Path) -> None:
    stores = open_stores(CloudConfig(data_dir=tmp_path, ledger=database.url("gateway")))
    stores.ledger.see_edge("gate", camera="yard", software="test", now_ns=1)
    stores.ledger.take(
        stores.queue, [queued(0)], [FrameTombstone("gate", BOOT, 1, 2, "spool-full", 1)], now=1.0
    )
    stores.requests.ask("gate", BOOT, 0, deadline=9.0, priority=1, blob_gone=False, now=1.0)
    assert [edge.edge_id for edge in stores.ledger.edges()] == ["gate"]
    stores.close()
    for table in ("frames", "users", "audit", "verdicts", "reviews"):
        database.refuses("gateway", f"SELECT * FROM catalogue.{table}")
    database.refuses("gateway", "CREATE TABLE public.x (y int)")
    with pytest.raises(Unwritable, match=r"permission denied|no schema"):
        open_catalogue(database.url("gateway") + "?options=-csearch_path%3Dcatalogue")


def test_services_take_their_role_from_the_environment(
    database: Database, secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As compose and Kubernetes hand it over; the configuration that all share names no user."""
    shipped = load(DEPLOY / "compose" / "cloud.example.toml", CloudConfig).catalogue_url
    url = shipped.replace("//postgres/", f"//127.0.0.1:{database.server.port}/")
    url = url.replace("/secondlook", "/site")
    assert "postgresql+psycopg://127.0.0.1" in url
    (tmp_path / "cloud.toml").write_text(f'catalogue = "{url}"\n')
    command = [sys.executable, "-m", "secondlook", "users", "list", "--config", tmp_path / "cloud.toml"]
    setup = [sys.executable, "-m", "secondlook", "catalogue", "upgrade", "--config", tmp_path / "cloud.toml"]

    def variables(role: str) -> dict[str, str]:
        lines = (secrets / f"{role}.env").read_text().split()
        return dict(line.split("=", 1) for line in lines)  # type: ignore[misc]

    for role, said in (("owner", "alice"), ("station", "alice")):
        environment = {**os.environ, **variables(role)}
        listed = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert said in listed.stdout
    for role in ("owner", "retention"):
        environment = {**os.environ, **variables(role)}
        done = subprocess.run(setup, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert "up to date" in done.stdout
    environment = {**os.environ, **variables("worker")}
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("secondlook: error: ") and "permission denied" in refused.stderr
    for name, value in variables("worker").items():
        monkeypatch.setenv(name, value)
    open_catalogue(url).close()


def test_every_table_is_given_to_somebody(database: Database) -> None:
    text = (DEPLOY / "kubernetes" / "postgres" / "roles.sql").read_text()
    named = set(re.findall(r"^ +\('secondlook_\w+', '(\w+)', '", text, re.MULTILINE))
    assert named == {VERSION_TABLE, *(table.name for table in Base.metadata.sorted_tables)}


def test_a_table_of_a_later_version_has_its_rights_at_once(database: Database) -> None:
    with psycopg.connect(database.url("owner").replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("ALTER TABLE verdicts ADD COLUMN later integer")
        connection.execute("ALTER TABLE verdicts DROP COLUMN later")
        connection.execute("DROP TABLE user_sessions")
    engine = open_engine(database.url("owner"), "catalogue")
    table_of(UserSession).create(engine)
    engine.dispose()
    with psycopg.connect(database.url("station").replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT count(*) FROM user_sessions").fetchone() == (0,)
