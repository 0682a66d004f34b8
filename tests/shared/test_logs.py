"""JSON log lines, and the one trace of a frame."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from secondlook.shared.logs import JsonLines, LogConfig, about, configure_logs, step, trace_id

BOOT = "ab" * 16


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines("worker"))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)
    logging.getLogger("secondlook.frames").setLevel(logging.CRITICAL)


def test_a_frame_has_one_trace_everywhere() -> None:
    trace = trace_id("gate", BOOT, 7)
    assert re.fullmatch(r"[0-9a-f]{32}", trace) and trace == trace_id("gate", BOOT, 7)
    assert (
        len({trace, trace_id("gate", BOOT, 8), trace_id("yard", BOOT, 7), trace_id("gate", "cd" * 16, 7)})
        == 4
    )


def test_lines_are_json_with_the_frame_that_they_are_about(lines: io.StringIO) -> None:
    configure_logs(LogConfig(format="json"))
    log = logging.getLogger("secondlook.test")
    log.warning("attempt %d:\n%s", 2, 'no "key"', extra=about("gate", BOOT, 7, review=3))
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it failed")
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert first["message"] == 'attempt 2:\nno "key"'
    assert (first["level"], first["role"], first["logger"]) == ("warning", "worker", "secondlook.test")
    assert (first["edge_id"], first["boot_id"], first["seq"], first["review"]) == ("gate", BOOT, 7, 3)
    assert first["trace_id"] == trace_id("gate", BOOT, 7)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert "ValueError: broken" in second["exception"]


def test_steps_of_frames_are_told_where_that_is_wanted(lines: io.StringIO) -> None:
    configure_logs(LogConfig(level="warning"))
    step("queued", "gate", BOOT, 1)
    assert lines.getvalue() == ""
    configure_logs(LogConfig(level="warning", frames=True))
    step("queued", "gate", BOOT, 1)
    logging.getLogger("secondlook.test").info("not told")
    (line,) = map(json.loads, lines.getvalue().splitlines())
    assert (line["step"], line["seq"], line["trace_id"]) == ("queued", 1, trace_id("gate", BOOT, 1))
