"""The processes of a demo: started, watched, restarted on request, and never left behind.

Each child leads a process group of its own, so that Ctrl-C reaches only the demo, which then stops them in the
order of the pipeline; and the kernel ends them should the demo itself be killed. They stay in one session, since
Linux weighs priorities within a session only: on one machine the agent, which has a host to itself in the field,
goes before the workers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from secondlook.shared.config import SOURCE_CREDENTIALS
from secondlook.shared.errors import ChildEnded
from secondlook.shared.models import MODELS_VARIABLE

_CODE = Path(__file__).parents[3]  # children run the very code that runs this
# -P: not what happens to be called `shared` in the present folder
SECONDLOOK = (sys.executable, "-P", "-m", "secondlook")
_PR_SET_PDEATHSIG = 1
_NICENESS = {"worker": 5, "refiner": 15, "retention": 15}


@dataclass
class Child:
    """One running sub-command and the file that holds what it says."""

    role: str
    arguments: tuple[str, ...]
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        """The last line it wrote, without our own prefix."""
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1].removeprefix("secondlook: error: ") if lines else "it said nothing"


class Children:
    """The running children by role, in the order they were started."""

    def __init__(self, logs: Path, *, restart: bool, command: Sequence[str] = SECONDLOOK) -> None:
        self._command = command
        self._logs = logs
        self._restart = restart
        self._children: dict[str, Child] = {}
        # The settings files say all that the children need to know; the environment would win over them. Where models
        # lie is no setting.
        self._environment = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith("SECONDLOOK_") or name in (SOURCE_CREDENTIALS, MODELS_VARIABLE)
        }
        self._import_path = os.pathsep.join(filter(None, (str(_CODE), os.environ.get("PYTHONPATH"))))

    def pids(self) -> dict[str, int]:
        return {role: child.pid for role, child in self._children.items()}

    def start(self, role: str, arguments: Sequence[str]) -> None:
        """Run the command with `arguments`; what it says goes to ROLE.log."""
        log = self._logs / f"{role}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*self._command, *arguments],
                env={**self._environment, "PYTHONPATH": self._import_path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
                preexec_fn=partial(_before_exec, _NICENESS.get(role, 0)),  # noqa: PLW1509 no threads here
            )
        self._children[role] = Child(role, tuple(arguments), log, process)

    def check(self) -> list[str]:
        """Restart the children that ended, if that was asked for; returns their roles. Raises ChildEnded."""
        restarted = []
        for child in list(self._children.values()):
            status = child.process.poll()
            if status is None:
                continue
            # A child killed from outside is what a restart is for; one that gave up would give up again.
            if not self._restart or status >= 0:
                raise ChildEnded(f"the {child.role} ended with {_describe(status)}: {child.last_words()}")
            _end_group(child.pid)
            self.start(child.role, child.arguments)
            restarted.append(child.role)
        return restarted

    def stop(self, order: Sequence[str], *, grace_seconds: float) -> None:
        """Interrupt the children in this order, wait for all, and kill what does not end in time.

        Those that an exception leaves over, such as Ctrl-C meanwhile, are for `kill`.
        """
        children = [self._children[role] for role in dict.fromkeys(order) if role in self._children]
        deadline = time.monotonic() + grace_seconds
        for child in children:
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGINT)
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            _end_group(child.pid)
            del self._children[child.role]

    def kill(self) -> None:
        """End all that are left, at once."""
        for child in self._children.values():
            child.process.kill()
        for child in self._children.values():
            child.process.wait()
            _end_group(child.pid)
        self._children.clear()


def _describe(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def _end_group(leader: int) -> None:
    """Kill what a child left in its group, such as a capture process of an agent that was itself killed."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _before_exec(niceness: int) -> None:
    """Between fork and exec: take the priority of the role, and ask Linux for an end when the demo dies."""
    os.nice(niceness)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
