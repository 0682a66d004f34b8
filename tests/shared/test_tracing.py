"""Spans of OpenTelemetry: one tree for a frame in every process, over OTLP, and nothing where nobody asked."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from secondlook.cloud import catalogue as cat
from secondlook.edge.agent import Agent
from secondlook.edge.spooled import Safe
from secondlook.main import main
from secondlook.shared import tracing
from secondlook.shared.errors import ConfigError
from secondlook.shared.logs import trace_id
from secondlook.shared.tracing import Tracer, TracingConfig, set_up_tracing
from tests.cloud.helpers import BOOT, Edge, base_frame, grey, running, settings, wait_until
from tests.cloud.test_workers import Site
from tests.edge.gateway import Memory, SmallGateway
from tests.edge.test_agent import PlainCodec, config

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def nobody_traces() -> Iterator[None]:
    level = logging.getLogger("opentelemetry").level
    yield
    tracing.use(None)
    logging.getLogger("opentelemetry").setLevel(level)


@contextmanager
def in_memory(role: str = "test", share: float = 1.0) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.use(Tracer(SimpleSpanProcessor(exporter), role, share, {}))
    yield exporter
    tracing.use(None)


def tree(spans: tuple[ReadableSpan, ...]) -> dict[int, dict[str, ReadableSpan]]:
    """Spans by sequence and name."""
    found: dict[int, dict[str, ReadableSpan]] = {}
    for span in spans:
        assert span.attributes is not None
        seq = span.attributes["secondlook.seq"]
        assert isinstance(seq, int)
        found.setdefault(seq, {})[span.name] = span
    return found


def check_tree(of_frame: dict[str, ReadableSpan], edge_id: str, boot_id: str, seq: int) -> None:
    """One trace, known to the logs as well; all spans under `capture`, whether that was seen here or not."""
    (number,) = {span.context.trace_id for span in of_frame.values()}
    assert f"{number:032x}" == trace_id(edge_id, boot_id, seq)
    parents = {span.parent.span_id for name, span in of_frame.items() if name != "capture" and span.parent}
    assert len(parents) <= 1 and all(span.parent for name, span in of_frame.items() if name != "capture")
    if "capture" in of_frame:
        assert of_frame["capture"].parent is None
        assert parents <= {of_frame["capture"].context.span_id}
    for span in of_frame.values():
        assert span.start_time is not None and span.end_time is not None
        assert span.start_time <= span.end_time <= time.time_ns()


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None and span.end_time is not None
    return (span.end_time - span.start_time) / SECOND


def test_spans_of_two_processes_make_one_tree() -> None:
    now = time.time_ns()
    with in_memory("edge") as edge:
        tracing.captured("gate", BOOT, 7, now - 2 * SECOND, 0.5)
    with in_memory("worker") as worker:
        tracing.span("decode", "gate", BOOT, 7, now - SECOND, now, attempt=2)
        tracing.span("fail", "gate", BOOT, 7, now, now - SECOND, error="no key")
    both = tree((*edge.get_finished_spans(), *worker.get_finished_spans()))[7]
    assert set(both) == {"capture", "encode", "decode", "fail"}
    check_tree(both, "gate", BOOT, 7)
    assert seconds(both["capture"]) == pytest.approx(1.5, abs=0.3)
    assert seconds(both["encode"]) == pytest.approx(0.5, abs=0.01) and seconds(both["decode"]) == 1
    assert dict(both["decode"].attributes or {}) == {
        "secondlook.edge_id": "gate",
        "secondlook.boot_id": BOOT,
        "secondlook.seq": 7,
        "secondlook.attempt": 2,
    }
    assert (both["fail"].status.description, seconds(both["fail"])) == ("no key", 0)
    assert both["decode"].status.is_unset
    names = [span.resource.attributes["service.name"] for span in (both["encode"], both["decode"])]
    assert names == ["secondlook-edge", "secondlook-worker"]


def test_a_picture_of_another_year_makes_no_span_of_years() -> None:
    with in_memory() as exporter:
        for captured_ns in (1, time.time_ns() + 900 * SECOND):
            tracing.captured("gate", BOOT, 1, captured_ns, 0.1)
        assert [seconds(span) for span in exporter.get_finished_spans() if span.name == "capture"] == [0, 0]


def test_a_share_of_the_frames_is_the_same_in_every_process() -> None:
    chosen = []
    for role in ("edge", "worker"):
        with in_memory(role, 0.3) as exporter:
            for seq in range(400):
                tracing.captured("gate", BOOT, seq, time.time_ns(), 0.0)
                tracing.span("detect", "gate", BOOT, seq, 1, 2)
            found = tree(exporter.get_finished_spans())
            assert all(set(one) == {"capture", "encode", "detect"} for one in found.values())
            chosen.append(sorted(found))
    assert chosen[0] == chosen[1] and 80 < len(chosen[0]) < 160


def test_deliveries_end_with_what_the_gateway_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_MAX_UNDELIVERED", 8)
    with in_memory() as exporter:
        for seq in range(10):
            tracing.captured("gate", BOOT, seq, time.time_ns(), 0.0)

        def delivered() -> list[int]:
            return sorted(seq for seq, one in tree(exporter.get_finished_spans()).items() if "deliver" in one)

        tracing.delivered("gate", [Safe("other", 9)])
        tracing.delivered("yard", [Safe(BOOT, 9)])
        assert delivered() == []
        tracing.delivered("gate", [Safe(BOOT, 3, ((6, 7),))])
        assert delivered() == [2, 3, 6, 7]  # 0 and 1 were too many to remember
        tracing.delivered("gate", [Safe(BOOT, 9)])
        assert delivered() == [2, 3, 4, 5, 6, 7, 8, 9]


# --- the processes themselves


def test_an_agent_traces_from_the_lens_to_the_delivery(tmp_path: Path) -> None:
    pictures = tmp_path / "images"
    pictures.mkdir()
    for number in range(3):
        cv2.imwrite(str(pictures / f"{number}.png"), np.full((48, 64, 3), 20 * number, np.uint8))
    gateway = SmallGateway(Memory())
    with in_memory() as exporter:
        agent = Agent(config(tmp_path, pictures, gateway.address, exit_when_acknowledged=True), PlainCodec())
        agent.run(threading.Event())
    gateway.stop()
    found = tree(exporter.get_finished_spans())
    assert sorted(found) == [0, 1, 2]
    for seq, of_frame in found.items():
        assert set(of_frame) == {"capture", "encode", "deliver"}
        check_tree(of_frame, "gate", agent.boot_id, seq)
        assert of_frame["encode"].end_time <= of_frame["deliver"].start_time + 1000


def test_the_cloud_traces_from_the_gateway_to_the_verdict(tmp_path: Path) -> None:
    with (
        in_memory() as exporter,
        running(settings(tmp_path)) as gateway,
        Edge(gateway.edge_address) as edge,
    ):
        edge.hello()
        edge.hello("control")
        site = Site(gateway, edge, tmp_path)
        with site.broker:
            site.deliver(base_frame(0, grey(10), enhancement_bytes=5))
            site.machine.step()
            wait_until(lambda: site.refiner.step() == 0 and site.edge.control.poll(50) > 0)
            site.answer({0: grey(20)})
            wait_until(lambda: site.refiner.step() == 1)
            shown = site.review().shown_sha256
            assert shown is not None
            verdict = cat.NewVerdict(cat.VerdictKind.CONFIRM, "ann", shown)
            cat.record_verdict(site.catalogue, 1, verdict, now_ns=time.time_ns())
        site.catalogue.close()
    (of_frame,) = tree(exporter.get_finished_spans()).values()
    steps = ["store", "queue", "decode", "detect", "request", "enhance", "refine", "judge"]
    assert sorted(of_frame) == sorted(steps)
    check_tree(of_frame, "gate", BOOT, 0)
    ends = [of_frame[name].end_time or 0 for name in steps[1:]]
    assert ends == sorted(ends)
    assert (of_frame["judge"].attributes or {})["secondlook.verdict"] == "confirm"
    assert (of_frame["refine"].attributes or {})["secondlook.review"] == 1


def test_a_frame_that_fails_says_why(tmp_path: Path) -> None:
    with (
        in_memory() as exporter,
        running(settings(tmp_path)) as gateway,
        Edge(gateway.edge_address) as edge,
    ):
        edge.hello()
        site = Site(gateway, edge, tmp_path)
        with site.broker:
            site.deliver(base_frame(0, b"no picture"))
            site.machine.step()
        site.catalogue.close()
    (of_frame,) = tree(exporter.get_finished_spans()).values()
    assert set(of_frame) == {"store", "queue", "fail"}
    assert "this is no grey" in (of_frame["fail"].status.description or "")


# --- the way to a collector, and settings


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    got: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                got.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def opened(config: TracingConfig, environment: dict[str, str]) -> Tracer:
    set_up_tracing(config, "worker", environment)
    assert tracing._tracer is not None
    return tracing._tracer


@pytest.mark.parametrize("by", ["setting", "setting with a path", "variable"])
def test_spans_reach_a_collector(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (address, got):
        environment = {}
        if by == "variable":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)  # which the SDK reads for itself
            environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": address}
        path = "/v1/traces" if by == "setting with a path" else ""
        config = TracingConfig(endpoint=None if environment else address + path)
        tracer = opened(config, environment)
        tracing.span("decode", "gate", BOOT, 7, 1, 2)
        tracer.close()
    (request,) = got
    (spans,) = request.resource_spans
    names = {one.key: one.value.string_value for one in spans.resource.attributes}
    assert names["service.name"] == "secondlook-worker"
    (span,) = spans.scope_spans[0].spans
    assert (span.name, span.trace_id.hex()) == ("decode", trace_id("gate", BOOT, 7))
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1, 2)


def test_a_collector_that_is_away_is_one_line_and_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tracer = opened(TracingConfig(endpoint="http://127.0.0.1:1"), {})
        for _ in range(1200):  # more than two batches
            tracing.span("decode", "gate", BOOT, 7, 1, 2)
        began = time.monotonic()
        tracer.close()
        assert time.monotonic() - began < 8
    told = [one.message for one in caplog.records if one.levelno >= logging.WARNING]
    assert told == ["waiting: http://127.0.0.1:1/v1/traces takes no spans, and they are dropped"]


def test_nothing_is_traced_that_nobody_asked_for() -> None:
    for asked, environment in (
        (TracingConfig(), {}),
        (TracingConfig(endpoint="http://h:4318"), {"OTEL_SDK_DISABLED": "True"}),
    ):
        set_up_tracing(asked, "edge", environment)
        assert tracing._tracer is None
    tracing.span("decode", "gate", BOOT, 7, 1, 2)
    tracing.captured("gate", BOOT, 7, 1, 0.1)
    tracing.delivered("gate", [Safe(BOOT, 9)])


def test_without_the_extra_only_who_asks_gets_an_error(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tracing, "_is_installed", lambda name: "exporter" not in name)
    set_up_tracing(TracingConfig(), "edge", {})
    assert not caplog.records
    set_up_tracing(TracingConfig(), "edge", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"})
    (line,) = caplog.messages
    assert (
        line.startswith("nothing is traced, though OTEL_EXPORTER_OTLP_ENDPOINT is set") and "[otel]" in line
    )
    file = tmp_path / "cloud.toml"
    file.write_text(
        '[tracing]\nendpoint = "http://h:4318"\n[[webhook]]\nname = "a"\nurl = "http://h/"\nsecret_file = "s"\n'
    )
    assert main(["notify", "--config", str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "secondlook: error: tracing.endpoint: opentelemetry.exporter.otlp.proto.http is not installed: "
        "pip install 'secondlook[otel]'"
    )


def test_settings_and_standard_variables() -> None:
    assert tracing._share(TracingConfig(share=0.25), {}) == 0.25
    assert tracing._share(TracingConfig(), {"OTEL_TRACES_SAMPLER": "always_off"}) == 0
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    assert tracing._share(TracingConfig(), ratio) == 0.5
    with pytest.raises(ConfigError, match="OTEL_TRACES_SAMPLER_ARG is 'half'"):
        tracing._share(TracingConfig(), {**ratio, "OTEL_TRACES_SAMPLER_ARG": "half"})
    with pytest.raises(ConfigError, match="does not begin with http"):
        TracingConfig(endpoint="collector:4317")
    named = Tracer(SimpleSpanProcessor(InMemorySpanExporter()), "edge", 1.0, {"OTEL_SERVICE_NAME": "x"})
    assert named._provider.resource.attributes["service.name"] != "secondlook-edge"
