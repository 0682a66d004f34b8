"""Logs: lines for people, or JSON lines for machines, with the frame that a line is about and its trace.

A frame has one identity from the lens to the verdict, (edge id, boot id, sequence). Its trace id follows from that
alone, so every process gives a frame the same one, and nothing has to travel for it. It has the 32 hexadecimal digits
that W3C Trace Context wants.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from typing import Any, Literal

from secondlook.shared.settings import Settings

_frames = logging.getLogger("secondlook.frames")

# What `extra` may bring into a JSON line.
_EXTRA = (
    "step",
    "edge_id",
    "boot_id",
    "seq",
    "trace_id",
    "condition",
    "subject",
    "began",
    "review",
    "milliseconds",
    "captured_ns",
    "source_ns",
)


@dataclass(frozen=True)
class LogConfig(Settings):
    """What the log on standard error looks like."""

    format: Literal["text", "json"] = "text"  # json: one object a line
    level: Literal["debug", "info", "warning", "error"] = "info"
    frames: bool = False  # a line for every step of every frame, with its trace id


def set_up_logs(config: LogConfig, role: str, *, threads: bool = False) -> None:
    """Let log lines of this process flow to standard error, with the names of their `threads` where these tell."""
    who = f"{role} %(threadName)s" if threads else role
    logging.basicConfig(
        level=getattr(logging, config.level.upper()), format=f"%(asctime)s %(levelname)s {who} %(message)s"
    )
    if config.format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines(role, threads=threads))
    configure_logs(config)


def configure_logs(config: LogConfig) -> None:
    """What can change while a process runs: all but the format."""
    logging.getLogger().setLevel(getattr(logging, config.level.upper()))
    # Where somebody wants them they are there whatever the level; else they cost a comparison each.
    _frames.setLevel(logging.INFO if config.frames else logging.CRITICAL)


def trace_id(edge_id: str, boot_id: str, seq: int) -> str:
    """The trace of a frame: the same in every process."""
    return hashlib.sha256(f"{edge_id}/{boot_id}/{seq}".encode()).hexdigest()[:32]


def about(edge_id: str, boot_id: str, seq: int, **more: object) -> dict[str, Any]:
    """The `extra` of a log line that is about one frame."""
    trace = trace_id(edge_id, boot_id, seq)
    return {"edge_id": edge_id, "boot_id": boot_id, "seq": seq, "trace_id": trace, **more}


def step(what: str, edge_id: str, boot_id: str, seq: int, **more: object) -> None:
    """One step on the way of a frame: captured, encoded, queued, detected, refined, judged and so on."""
    if _frames.isEnabledFor(logging.INFO):
        extra = about(edge_id, boot_id, seq, step=what, **more)
        _frames.info("%s %s %s/%d %s", what, edge_id, boot_id, seq, extra["trace_id"], extra=extra)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, role, logger, message, and what the line is about."""

    def __init__(self, role: str, *, threads: bool = False) -> None:
        super().__init__()
        self._role, self._threads = role, threads

    def format(self, record: logging.LogRecord) -> str:
        instant = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{instant}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._threads:
            line["thread"] = record.threadName
        line |= {name: vars(record)[name] for name in _EXTRA if name in vars(record)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
