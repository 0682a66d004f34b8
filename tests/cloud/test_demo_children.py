"""Processes of a demo end when they should, and never outlive it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from secondlook.cloud.demo.children import Children
from secondlook.cloud.demo.settings import choose_ports, to_toml
from secondlook.shared.errors import ChildEnded, PortBusy
from secondlook.shared.models import MODELS_VARIABLE

ROOT = Path(__file__).parents[2]
SLEEPER = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);" + SLEEPER
GIVES_UP = "import sys; print('secondlook: error: no such camera', file=sys.stderr); sys.exit(1)"


def test_the_environment_does_not_win_over_the_demos_settings(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDLOOK_DATA_DIR", "/somewhere/real")
    monkeypatch.setenv(MODELS_VARIABLE, "/models")  # which is no setting
    start("import os; print([name for name in os.environ if 'SECONDLOOK' in name], flush=True)")
    wait_for(says(tmp_path, f"['{MODELS_VARIABLE}']"))


@pytest.fixture
def start(tmp_path):
    """Start a small program in the place of our command."""
    started: list[Children] = []

    def begin(program: str, *, restart: bool = False) -> Children:
        children = Children(tmp_path, restart=restart, command=(sys.executable, "-c"))
        started.append(children)
        children.start("role", [program])
        return children

    yield begin
    for children in started:
        children.stop(["role"], grace_seconds=0.0)


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[-1][0] != "Z"


def says(tmp_path, text):
    return lambda: text in (tmp_path / "role.log").read_text()


def test_a_child_that_gives_up_is_named_with_its_last_words(start):
    children = start(GIVES_UP)
    with pytest.raises(ChildEnded, match="the role ended with status 1: no such camera"):
        wait_for(children.check)


def test_a_killed_child_is_an_error_unless_restarts_are_wanted(start, tmp_path):
    children = start(SLEEPER)
    wait_for(says(tmp_path, "ready"))
    os.kill(children.pids()["role"], signal.SIGKILL)
    with pytest.raises(ChildEnded, match="SIGKILL"):
        wait_for(children.check)


def test_a_killed_child_is_started_again(start, tmp_path):
    children = start(SLEEPER, restart=True)
    wait_for(says(tmp_path, "ready"))
    first = children.pids()["role"]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: children.check() == ["role"])
    assert children.pids()["role"] != first
    wait_for(says(tmp_path, "ready\nready"))


def test_a_child_that_gives_up_is_not_started_again(start):
    children = start(GIVES_UP, restart=True)
    with pytest.raises(ChildEnded):
        wait_for(children.check)


def test_stop_kills_what_does_not_listen(start, tmp_path):
    children = start(STUBBORN)
    pid = children.pids()["role"]
    wait_for(says(tmp_path, "ready"))
    children.stop(["role"], grace_seconds=0.2)
    assert not is_alive(pid)
    assert children.pids() == {}


def test_a_stop_that_is_interrupted_leaves_the_rest_to_kill(start, tmp_path, monkeypatch):
    children = start(STUBBORN)
    children.start("other", [SLEEPER])
    pids = list(children.pids().values())
    wait_for(says(tmp_path, "ready"))
    with monkeypatch.context() as patch:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(subprocess.Popen, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            children.stop(["role", "other"], grace_seconds=9.0)
    assert set(children.pids()) == {"role", "other"}
    began = time.monotonic()
    children.kill()
    assert time.monotonic() - began < 5 and children.pids() == {}
    assert not any(map(is_alive, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="relies on Linux's parent-death signal")
def test_children_die_with_a_demo_that_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from secondlook.cloud.demo.children import Children\n"
        f"held = Children(Path({str(tmp_path)!r}), restart=False, command=(sys.executable, '-c'))\n"
        f"held.start('role', [{SLEEPER!r}])\n"
        "print(held.pids()['role'], flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with parent:
        child = int(parent.stdout.readline())
        wait_for(says(tmp_path, "ready"))
        parent.kill()
    wait_for(lambda: not is_alive(child))


def test_a_wanted_port_that_is_taken_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortBusy, match="--port"):
        choose_ports(taken.getsockname()[1])


def test_chosen_ports_differ():
    ports = choose_ports(0)
    assert len({ports.station, ports.gateway, ports.broker}) == 3


def test_settings_survive_toml():
    settings = {"name": 'q"\\ü', "none": None, "table": {"on": True, "rate": 2.5, "count": 3}}
    assert tomllib.loads(to_toml(settings)) == {
        "name": 'q"\\ü',
        "table": {"on": True, "rate": 2.5, "count": 3},
    }
