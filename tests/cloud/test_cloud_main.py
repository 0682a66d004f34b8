"""The commands as a user meets them."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from secondlook.main import main
from tests.cloud.test_crash import ENVIRONMENT, ROOT, free_port


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "secondlook", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def line_with(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the process ended without saying {text!r}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_gateway_tells_its_addresses_and_stops_cleanly(tmp_path: Path, number: int) -> None:
    flags = ("--data-dir", tmp_path, "--listen", "tcp://127.0.0.1:0", "--listen-workers", "tcp://127.0.0.1:0")
    with started("gateway", *flags) as process:
        line = line_with(process, "camera hosts connect")
        assert " INFO gateway camera hosts connect to tcp://127.0.0.1:" in line
        process.send_signal(number)
        assert process.wait(10) == 0


def test_the_station_serves_and_stops_cleanly(tmp_path: Path) -> None:
    with started("station", "--data-dir", tmp_path, "--port", 0) as process:
        address = line_with(process, "open http").split()[-1]
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize("command", ["gateway", "station"])
def test_a_busy_port_is_one_line_and_a_failure(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    flags = {
        "gateway": ["--listen", f"tcp://127.0.0.1:{port}", "--listen-workers", "tcp://127.0.0.1:0"],
        "station": ["--port", str(port)],
    }[command]
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        assert main([command, "--data-dir", str(tmp_path), *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("secondlook: error: ")
    assert str(port) in line


def test_an_unwritable_data_folder_is_one_line_and_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    any_port = ["--listen", "tcp://127.0.0.1:0", "--listen-workers", "tcp://127.0.0.1:0"]
    for command in (["gateway", *any_port], ["station", "--port", "0"]):
        assert main([*command, "--data-dir", str(tmp_path / "file" / "data")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("secondlook: error: ")
        assert "cannot create this folder" in line


def test_keys_are_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, registry = tmp_path / "keys", str(tmp_path / "registry.json")
    for name, role in (("north", "edge"), ("w1", "worker"), ("hub", "gateway")):
        flags = ["--folder", str(folder), "--registry", registry, "--role", role]
        assert main(["keys", "new", name, *flags]) == 0
    assert stat.S_IMODE((folder / "north.key_secret").stat().st_mode) == 0o600
    assert main(["keys", "revoke", "north", "--registry", registry]) == 0
    capsys.readouterr()
    assert main(["keys", "list", "--registry", registry]) == 0
    rows = [line.split()[1:] for line in capsys.readouterr().out.splitlines()]
    assert rows == [["edge", "revoked", "north"], ["worker", "active", "w1"]]
    assert main(["keys", "add", "far", str(folder / "hub.key"), "--registry", registry]) == 0
    assert main(["keys", "new", "hub", "--folder", str(folder), "--role", "gateway"]) == 1
    assert "exists already" in capsys.readouterr().err
    kept = (folder / "north.key_secret").read_bytes()
    assert main(["keys", "new", "north", "--folder", str(folder), "--registry", registry]) == 0
    assert (folder / "north.key_secret").read_bytes() == kept  # the next pair has files of its own
