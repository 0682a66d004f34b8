"""`secondlook.Agent`: a camera host inside a program, fed with the program's own frames."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from secondlook.edge.agent import Agent as EdgeAgent
from secondlook.edge.agent import Surroundings
from secondlook.edge.config import EdgeConfig
from secondlook.edge.source.feed import Feed, FeedCamera
from secondlook.shared.codec import load_codec
from secondlook.shared.config import load, schema
from secondlook.shared.errors import ConfigError, SecondlookError
from secondlook.shared.faults import unforeseen_named

if TYPE_CHECKING:
    from secondlook.shared.layers import LayeredCodec

_ADDRESS = "demo:"  # of a moving picture, which nobody opens here
_OURS = {
    "edge_id": "edge_id",
    "camera": "name",
    "data_dir": "data_dir",
    "exit_when_acknowledged": "run",
    "link.gateway": "gateway",
    "link.server_public_key_file": "server_public_key_file",
    "link.secret_key_file": "secret_key_file",
}


class Agent:
    """Takes frames, encodes them, keeps them on disk and delivers them to a gateway; answers its requests for
    enhancements meanwhile.

    `camera`: frames to iterate over, or a function that returns the next one and None at the end. A frame is
    uint8[H,W,3] RGB or a PIL image, alone or as (picture, time): seconds since 1970 or a `datetime` with a time zone.
    It is copied, so its memory may be used again. Frames are taken as fast as they can be encoded; with `latest`, those
    that come faster are left out, as of a live camera.

    `edge_id` names this camera for ever, `data_dir` is its own. The key files are those of `secondlook keys new`;
    without them the gateway has to be on this machine. `settings` are those of edge.toml by their dotted names, such as
    `{"codec.base_quality": 20, "rate.uplink_kbps": 50}`. No process is started. Raises ConfigError.
    """

    def __init__(
        self,
        camera: Feed,
        *,
        edge_id: str,
        data_dir: str | Path = "edge-data",
        gateway: str = "tcp://127.0.0.1:7601",
        server_public_key_file: str | Path | None = None,
        secret_key_file: str | Path | None = None,
        name: str = "camera",
        latest: bool = False,
        settings: Mapping[str, object] | None = None,
        codec: LayeredCodec | None = None,
    ) -> None:
        given = _checked(settings or {}) | {
            "edge_id": edge_id,
            "source.address": _ADDRESS,
            "data_dir": _text(data_dir),
            "link.gateway": gateway,
            "link.server_public_key_file": _text(server_public_key_file),
            "link.secret_key_file": _text(secret_key_file),
            "camera": name,
            "exit_when_acknowledged": True,
        }
        self._config = load(None, EdgeConfig, given)
        self._feed = FeedCamera(camera, latest=latest)
        self._codec = codec
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._agent: EdgeAgent | None = None
        self._failure: SecondlookError | None = None

    @property
    def boot_id(self) -> str | None:
        """Names this run; None before it has begun."""
        return None if self._agent is None else self._agent.boot_id

    @property
    def captured(self) -> int:
        """Frames taken so far."""
        return 0 if self._agent is None else self._agent.captured

    @property
    def acknowledged(self) -> int:
        """Frames of this run that the gateway holds on disk."""
        return 0 if self._agent is None else self._agent.acknowledged

    def run(self, *, deliver: bool = True) -> None:
        """Work until the camera has no more frames and all are delivered, or until `stop`. Runs once.

        Without `deliver` it ends when the frames are on disk; the next run over the same `data_dir` delivers them.
        Raises SourceError where the camera failed (its exception is chained), StorageError, KeyRejected, ConfigError.
        """
        if self._agent is not None:
            raise ConfigError("this Agent has run: make another one, which goes on with what is in data_dir")
        coding = self._config.codec
        codec = self._codec or load_codec(coding.model, threads=coding.threads, device=coding.device)
        around = Surroundings(feed=self._feed, leaves_undelivered=not deliver)
        self._agent = EdgeAgent(self._config, codec, around)
        with unforeseen_named(SecondlookError):
            self._agent.run(self._stop)

    def start(self) -> Agent:
        """Do what `run` does in a thread. Returns itself."""
        if self._thread is not None:
            raise ConfigError("this Agent was started before")
        self._thread = threading.Thread(target=self._live, name=self._config.edge_id, daemon=True)
        self._thread.start()
        return self

    def _live(self) -> None:
        try:
            self.run()
        except SecondlookError as error:
            self._failure = error

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it has ended, for so long at most; whether it has. Raises what `run` would."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
        if self._failure is not None:
            raise self._failure
        return True

    def stop(self) -> None:
        """End it; frames that are not delivered stay in `data_dir`. Raises what `run` would."""
        self._stop.set()
        self.wait()

    def __enter__(self) -> Agent:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _checked(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings that a program may give. Raises ConfigError."""
    known = dict(schema(EdgeConfig))
    for name in settings:
        if not isinstance(name, str) or name not in known or known[name].is_table:
            raise ConfigError(f"there is no setting {name!r}; see docs/config.md")
        if name in _OURS:
            raise ConfigError(f"{name} is no setting here, but the argument {_OURS[name]}")
        if name.startswith(("source.", "health.")):
            raise ConfigError(f"{name} does nothing where a program hands over the frames")
    return dict(settings)
