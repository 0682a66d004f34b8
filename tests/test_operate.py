"""`secondlook doctor`, `config` and SIGHUP: each fault is named with its cure, and the exit status says so."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from secondlook.cloud.config import CloudConfig
from secondlook.main import main
from secondlook.operate import host
from secondlook.operate.edgeside import is_running, read_status
from secondlook.operate.findings import fault, lines, ok
from secondlook.shared.conditions import WatchConfig
from secondlook.shared.errors import ConfigError
from secondlook.shared.files import only_process
from secondlook.shared.mail import SmtpConfig
from secondlook.shared.reload import Reloader, ask_for_restart, changes
from tests.cloud.helpers import running, settings
from tests.cloud.mailserver import taking_mail
from tests.cloud.servers import free_port

EDGE = """\
edge_id = "gate"
data_dir = "edge"
[source]
address = "{source}"
resize = "64"
[link]
gateway = "tcp://127.0.0.1:{port}"
"""


@pytest.fixture
def edge_file(tmp_path: Path) -> Path:
    return write_edge(tmp_path, "demo:", free_port())


def write_edge(folder: Path, source: str, port: int, more: str = "") -> Path:
    path = folder / "edge.toml"
    path.write_text(EDGE.format(source=source, port=port) + more)
    return path


def doctor(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, tuple[str, str, str]]]:
    """Exit status, and of each thing that was looked at the worst: level, text, cure."""
    capsys.readouterr()
    status = main(["doctor", "--json", *flags])
    found: dict[str, tuple[str, str, str]] = {}
    for one in json.loads(capsys.readouterr().out)["findings"]:
        if one["about"] not in found or one["level"] == "fault":
            found[one["about"]] = (one["level"], one["text"], one["cure"])
    assert all(cure for level, _, cure in found.values() if level in ("fault", "warning"))
    return status, found


# --- doctor, on a camera host


def test_a_camera_host_that_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(settings(tmp_path / "cloud")) as gateway:
        file = write_edge(tmp_path, "demo:", int(gateway.edge_address.rpartition(":")[2]))
        status, found = doctor(capsys, "--edge", str(file))
    assert status == 0
    assert {
        about: found[about][0] for about in ("packages of edge", "gate codec", "gate camera", "gate link")
    } == {
        "packages of edge": "ok",
        "gate codec": "ok",
        "gate camera": "ok",
        "gate link": "ok",
    }
    assert "64x" in found["gate camera"][1] and "hash" in found["gate codec"][1]
    assert "round trip" in found["gate link"][1] and "kbit/s up" in found["gate link"][1]


@pytest.mark.parametrize(
    ("source", "said", "cure"),
    [
        ("missing.mp4", "does not exist", "check the path"),
        ("rtsp://127.0.0.1:1/stream", "refuses the connection", "check that the camera is on"),
    ],
)
def test_a_camera_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, said: str, cure: str
) -> None:
    file = write_edge(tmp_path, source, free_port())
    status, found = doctor(capsys, "--edge", str(file), "--no-rate")
    assert status == 1
    level, text, help_ = found["gate camera"]
    assert level == "fault" and said in text and cure in help_
    level, text, _ = found["gate link"]
    assert level == "fault" and "no connection to tcp://127.0.0.1" in text


def test_settings_models_and_key_files_that_are_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], edge_file: Path
) -> None:
    edge_file.write_text(edge_file.read_text() + "[codec]\nqualtiy = 3\n")
    status, found = doctor(capsys, "--edge", str(edge_file))
    assert (status, found["settings"][0]) == (1, "fault")
    assert "did you mean codec.quality?" in found["settings"][1]
    assert (
        main(["keys", "new", "gate", "--folder", str(tmp_path), "--registry", str(tmp_path / "r.json")]) == 0
    )
    (tmp_path / "gate.key_secret").chmod(0o644)
    more = f'server_public_key_file = "{tmp_path}/no.key"\nsecret_key_file = "{tmp_path}/gate.key_secret"\n'
    more += f'[codec]\nmodel = "{tmp_path}/none"\n'
    file = write_edge(tmp_path, "demo:", free_port(), more)
    status, found = doctor(capsys, "--edge", str(file), "--no-rate")
    assert status == 1
    assert found["gate codec"][0] == "fault"
    assert "chmod 600" in found["gate key"][1] and "chmod 0600" in found["gate key"][2]
    assert "cannot read the key file" in found["gate gateway's key"][1]


def test_a_spool_of_a_later_program_and_a_data_folder_that_others_may_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], edge_file: Path
) -> None:
    (tmp_path / "edge").mkdir(mode=0o755)
    with closing(sqlite3.connect(tmp_path / "edge" / "spool.db")) as spool:
        spool.execute("CREATE TABLE frames (safe INTEGER)")
        spool.execute("PRAGMA user_version = 99")
    status, found = doctor(capsys, "--edge", str(edge_file), "--no-rate")
    assert status == 1
    assert "has version 99" in found["gate spool"][1]
    assert found["gate data"][0] == "warning" and "chmod 0700" in found["gate data"][2]


@pytest.mark.parametrize(
    ("classes", "level", "told"),
    [("person", "ok", "person, found by builtin"), ("number plate", "fault", "has no class 'number plate'")],
)
def test_what_shall_be_masked_can_be_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: str, level: str, told: str
) -> None:
    more = f'[regions]\nmask_classes = ["{classes}"]\n'
    _, found = doctor(capsys, "--edge", str(write_edge(tmp_path, "demo:", free_port(), more)), "--no-rate")
    assert found["gate masks"][0] == level and told in found["gate masks"][1]


def test_an_agent_that_ended_and_one_that_hangs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], edge_file: Path
) -> None:
    folder = tmp_path / "edge"
    assert not is_running(folder) and read_status(folder) is None
    with only_process(folder, "agent.lock", "edge agent"):
        assert is_running(folder)
        (folder / "status.json").write_text('{"time": "2026-01-01T00:00:00.000Z", "source": "running"}')
        _, found = doctor(capsys, "--edge", str(edge_file), "--no-rate")
        assert found["gate agent"][0] == "fault" and "has told nothing" in found["gate agent"][1]
        assert found["gate camera"][0] == "skipped"
    _, found = doctor(capsys, "--edge", str(edge_file), "--no-rate")
    assert found["gate agent"][0] == "fault" and "it does not run" in found["gate agent"][1]


# --- doctor, in the cloud


def test_a_site_without_a_gateway_and_with_keys_that_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (("gateway", "--role", "gateway"), ("gate",), ("yard",)):
        assert main(["keys", "new", *arguments]) == 0
    registry = json.loads((tmp_path / "keys" / "registry.json").read_text())
    registry["keys"][0]["valid_until"] = 1.0
    (tmp_path / "keys" / "registry.json").write_text(json.dumps(registry))
    port = free_port()
    (tmp_path / "cloud.toml").write_text(
        f'[gateway]\nsecret_key_file = "keys/gateway.key_secret"\nregistry_file = "keys/registry.json"\n'
        f'[broker]\naddress = "tcp://127.0.0.1:{port}"\ntimeout_seconds = 1.0\n[station]\nport = {free_port()}\n'
    )
    status, found = doctor(capsys)  # it finds cloud.toml here
    assert status == 1
    assert found["key of gate"][:2] == ("fault", "its key has ended")
    assert "key of yard" not in found and "2 names" in found["key registry"][1]
    assert found["gateway"][0] == "fault" and "no answer" in found["gateway"][1]
    assert found["station"][0] == "warning"
    assert found["worker detector"][0] == found["refiner post-filter"][0] == "ok"


def test_what_a_gateway_tells_is_among_the_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path / "cloud")
    with running(replace(config, watch=WatchConfig(low_disk_bytes=1 << 50))) as gateway:
        (tmp_path / "cloud.toml").write_text(
            f'data_dir = "cloud"\n[broker]\naddress = "{gateway.broker_address}"\n[station]\nport = {free_port()}\n'
        )
        end, found = time.monotonic() + 20, {}
        while "disk-low" not in found and time.monotonic() < end:  # a gateway looks once a second
            status, found = doctor(capsys, "--config", str(tmp_path / "cloud.toml"))
    assert status == 1
    assert found["gateway"][0] == "ok" and found["worker"][0] == found["refiner"][0] == "warning"
    assert found["disk-low"][0] == "fault" and "is low" in found["disk-low"][1]


def test_a_catalogue_that_misses_migrations_is_told_of_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cloud").mkdir(mode=0o700)
    database = tmp_path / "cloud" / "catalogue.db"
    closing(sqlite3.connect(database)).__enter__().execute("CREATE TABLE x (y)")
    (tmp_path / "cloud.toml").write_text(
        f'data_dir = "cloud"\n[broker]\naddress = "tcp://127.0.0.1:{free_port()}"\ntimeout_seconds = 0.5\n'
    )
    _, found = doctor(capsys, "--config", str(tmp_path / "cloud.toml"))
    assert found["catalogue"][0] == "warning" and "migrations are missing" in found["catalogue"][1]
    assert "catalogue upgrade" in found["catalogue"][2]
    assert main(["status", "--config", str(tmp_path / "cloud.toml"), "--no-station"]) == 1
    assert "migrations are missing" in capsys.readouterr().out
    with closing(sqlite3.connect(database)) as look:
        assert look.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)


def test_packages_that_are_missing_end_the_round_with_a_cure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, edge_file: Path
) -> None:
    monkeypatch.setitem(host.PACKAGES, "edge", (("no_such_module", "no-such-package"),))
    status, found = doctor(capsys, "--edge", str(edge_file))
    assert status == 1
    assert found["packages of edge"] == (
        "fault",
        "no-such-package not installed",
        "pip install 'secondlook[edge]'",
    )
    assert "gate codec" not in found


def test_disk_and_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = host.check_disk(tmp_path, WatchConfig(low_disk_bytes=1 << 50))
    assert found.level == "fault" and found.cure
    (found,) = host.check_disk(tmp_path, WatchConfig(low_disk_bytes=0))
    assert found.level == "ok"
    monkeypatch.setattr(host.time, "time", lambda: 100.0)
    (found,) = host.check_clock()
    assert found.level == "fault" and "1970" in found.text


def test_findings_for_a_terminal() -> None:
    shown = lines([ok("disk", "much is free"), fault("key", "it ended", "rotate it")])
    assert shown == ["ok       disk: much is free", "FAULT    key: it ended", "         cure: rotate it"]


# --- config


def test_config_check_names_every_unknown_setting_and_what_may_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text("dataa_dir = 1\n[worker]\nthread = 2\nbatch = 99\n[health]\naddress = '127.0.0.1:1'\n")
    assert main(["config", "check", "--config", str(path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert "unknown setting dataa_dir; did you mean data_dir?" in said[0]
    assert "unknown setting worker.thread; did you mean worker.threads?" in said[1]
    assert "worker.batch is 99, it must be an integer from 1 to 16 frames" in said[2]
    path.write_text("[worker]\nthreads = 2\n")
    assert main(["config", "check", "--config", str(path)]) == 0
    assert "1 settings are not at their default" in capsys.readouterr().out
    path.write_text("not toml")
    assert main(["config", "check", "--config", str(path)]) == 1


def test_config_show_says_where_each_comes_from_and_no_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text('catalogue = "postgresql+psycopg://me:hush@db/x"\n[worker]\nthreads = 2\n')
    path.chmod(0o600)
    monkeypatch.setenv("SECONDLOOK_WORKER__BATCH", "3")
    assert main(["config", "show", "--origin", "--config", str(path)]) == 0
    said = capsys.readouterr().out
    assert "hush" not in said
    origins = dict(line.split("  # ") for line in said.splitlines()[1:])
    by_name = {
        text.split(" = ")[0]: (text.split(" = ")[1].strip(), origin) for text, origin in origins.items()
    }
    assert by_name["worker.threads"] == ("2", str(path))
    assert by_name["worker.batch"] == ("3", "SECONDLOOK_WORKER__BATCH")
    assert by_name["worker.lease_seconds"] == ("30.0", "default")
    assert main(["config", "show", "--changed", "--json", "--config", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)[str(path)]
    assert sorted(told) == ["catalogue", "worker.batch", "worker.threads"]


def test_config_of_an_agent_and_of_nobody(
    edge_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["config", "show", "--changed", "--edge", str(edge_file)]) == 0
    assert 'edge_id = "gate"' in capsys.readouterr().out
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setattr("secondlook.operate.places._CLOUD", (Path("cloud.toml"),))
    monkeypatch.setattr("secondlook.operate.places._EDGE", (Path("edge.toml"),))
    assert main(["config", "check"]) == 1
    assert "no cloud.toml or edge.toml" in capsys.readouterr().err


def test_a_queue_of_a_later_program_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text('data_dir = "data"\n')
    (tmp_path / "data").mkdir(mode=0o700)
    with closing(sqlite3.connect(tmp_path / "data" / "gateway.db")) as file:
        file.execute("PRAGMA user_version = 99")
    _, found = doctor(capsys, "--config", str(path))
    assert found["gateway file"][0] == "fault" and "this program knows" in found["gateway file"][1]


# --- SIGHUP


@pytest.fixture
def hangup() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_on_a_hangup_what_can_change_does_and_the_rest_is_named(
    hangup: None, caplog: pytest.LogCaptureFixture
) -> None:
    first = CloudConfig()
    wanted = [replace(first, policy=replace(first.policy, watched_labels=("person",)), queue="nats://x/y")]
    caplog.set_level(logging.INFO, "secondlook.shared.reload")
    reloader = Reloader(first, lambda: wanted[0], ("policy", "log"))
    assert reloader.take() is None
    os.kill(os.getpid(), signal.SIGHUP)
    taken = reloader.take()
    assert taken is not None and taken.policy.watched_labels == ("person",) and taken.queue is None
    assert [record.getMessage() for record in caplog.records] == [
        "read again; these want a restart: queue",
        "read again; these hold from now on: policy.watched_labels",
    ]
    assert reloader.take() is None


def test_settings_that_are_wrong_leave_those_that_hold(
    hangup: None, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> CloudConfig:
        raise ConfigError("cloud.toml: unknown setting x")

    reloader = Reloader(CloudConfig(), broken, ("policy",))
    os.kill(os.getpid(), signal.SIGHUP)
    assert reloader.take() is None
    assert "the settings stay as they were: cloud.toml: unknown setting x" in caplog.text


def test_a_role_that_reads_its_settings_once_outlives_a_hangup(
    hangup: None, caplog: pytest.LogCaptureFixture
) -> None:
    ask_for_restart()
    os.kill(os.getpid(), signal.SIGHUP)
    deadline = time.monotonic() + 5
    while "restart this process" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_changes_are_named_by_their_dotted_names() -> None:
    config = CloudConfig()
    assert changes(config, CloudConfig()) == []
    assert changes(config, replace(config, worker=replace(config.worker, batch=2))) == ["worker.batch"]


def test_a_mail_server_is_tried_and_gets_no_mail(tmp_path: Path) -> None:
    with taking_mail() as server:
        smtp = SmtpConfig(host="127.0.0.1", port=server.port, security="none", sender="s@example.org")
        (found,) = host.check_mail(smtp)
        assert (found.level, server.tried) == ("ok", 0)
        (found,) = host.check_mail(replace(smtp, security="starttls"))
        assert found.level == "fault" and "STARTTLS" in found.text and "smtp.host" in found.cure
        missing = replace(smtp, user="me", password_file=tmp_path / "none")
        (found,) = host.check_mail(missing)
        assert found.level == "fault" and "[smtp]" in found.cure
    assert [*host.check_mail(SmtpConfig())] == []
