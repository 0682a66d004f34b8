"""A real browser for tests: headless Chromium, driven over its debugging pipe by the standard library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
ANSWER_SECONDS = 30.0

_CODES = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}


def find_chromium() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page. Commands and answers are JSON texts ended by NUL on the browser's descriptors 3 and 4."""

    def __init__(self, program: str, profile: Path, width: int = 1440, height: int = 900) -> None:
        commands_out, self._commands = os.pipe()
        self._answers, answers_in = os.pipe()
        redirect = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", program, *flags, "about:blank"],
            pass_fds=(commands_out, answers_in),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_out)
        os.close(answers_in)
        self._rest = b""
        self._number = 0
        self._loads = 0  # pages that were loaded to their end
        self.dialogs: list[str] = []  # kinds of those that opened; each is accepted
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(ANSWER_SECONDS)
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = self._send(method, **params)
        while (answer := self._next()).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _send(self, method: str, **params: Any) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._number

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def reload(self) -> None:
        """Load the page again, to the end: before that, a question would be answered by the old page or by none."""
        loads = self._loads
        self.call("Page.reload")
        while self._loads == loads:
            self._next()

    def drawn(self, script: str) -> Any:
        """The value of a JavaScript expression once all that was set before is drawn, not only noted."""
        return self.run(
            "new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)))"
            f".then(() => ({script}))"
        )

    def wait_for(self, script: str, seconds: float = 15.0) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > end:
                raise AssertionError(f"still not true: {script}\n{self.run('document.body.innerText')}")
            time.sleep(0.02)

    def press(self, key: str) -> None:
        self.hold(key)
        self.release(key)

    def hold(self, key: str) -> None:
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **_named(key), **text)

    def release(self, key: str) -> None:
        self.call("Input.dispatchKeyEvent", type="keyUp", **_named(key))

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one point of the page, release it at another."""
        steps = (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end))
        for kind, (x, y) in steps:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _next(self) -> dict[str, Any]:
        """The next answer or event; what events ask for is done."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], ANSWER_SECONDS)
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError("the browser does not answer")
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if message.get("method") == "Page.javascriptDialogOpening":
            self.dialogs.append(message["params"]["type"])
            self._send("Page.handleJavaScriptDialog", accept=True)
        elif message.get("method") == "Page.loadEventFired":
            self._loads += 1
        return message


def _named(key: str) -> dict[str, Any]:
    code = _CODES.get(key, ord(key.upper()) if len(key) == 1 and key.isalnum() else 0)
    return {"key": key, "windowsVirtualKeyCode": code}
