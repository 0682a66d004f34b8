"""Spans of OpenTelemetry from the lens to the verdict (extra `otel`): the only module that knows that package.

The trace of a frame follows from its identity alone (`shared.logs.trace_id`), and so does the number of its first span,
`capture`, under which all others stand. So nothing has to travel on the wire, and a process that is not traced leaves a
gap and breaks nothing. Spans are told of when they are over, with both instants, by the clock of the host that makes
them. Where nobody asked for traces, each call costs one comparison.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from secondlook.shared.errors import ConfigError
from secondlook.shared.logs import trace_id
from secondlook.shared.outage import Outage
from secondlook.shared.redact import redacted_address
from secondlook.shared.settings import Settings, within
from secondlook.shared.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.id_generator import IdGenerator

log = logging.getLogger(__name__)

ROOT = "capture"
_PATH = "/v1/traces"
_ASKED_BY = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_TIMEOUT_SECONDS = 3.0  # of one delivery, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise
_END_SECONDS = 5.0  # for what is left when a process ends
_MAX_UNDELIVERED = 10_000  # frames whose delivery is timed; of the oldest no span is made
_MAX_CAPTURE_NS = 3600 * 1_000_000_000  # a still may have been taken years ago: that is no span


@dataclass(frozen=True)
class TracingConfig(Settings):
    """Where spans of OpenTelemetry go, by OTLP over HTTP. Needs the extra `otel` (docs/operations.md)."""

    # http://collector:4318; without it OTEL_EXPORTER_OTLP_ENDPOINT, and without that nothing is traced
    endpoint: str | None = None
    share: Annotated[float, within(0, 1, "")] = 1.0  # of the frames, the same ones in every process

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f"endpoint {redacted_address(self.endpoint)!r} does not begin with http:// or https://"
            )


class Delivered(Protocol):
    """What the gateway called safe: all up to `cumulative`, and the ranges of `selective`."""

    @property
    def boot_id(self) -> str: ...

    @property
    def cumulative(self) -> int: ...

    @property
    def selective(self) -> Sequence[tuple[int, int]]: ...


class _Next(threading.local):
    """The trace and span of what this thread begins next, where they are not to be random."""

    frame: tuple[int, int] | None = None


class Tracer:
    """Makes spans of frames and hands them to a processor of the SDK. Used by several threads."""

    def __init__(
        self, processor: SpanProcessor, role: str, share: float, environment: Mapping[str, str]
    ) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

        attributes = {"service.version": __version__}
        if "OTEL_SERVICE_NAME" not in environment and "service.name=" not in environment.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        ):
            attributes["service.name"] = f"secondlook-{role}"
        self._next = _Next()
        # By the number of the trace alone, so that all processes choose the same frames.
        self._provider = TracerProvider(
            sampler=TraceIdRatioBased(share),
            resource=Resource.create(attributes),
            id_generator=_numbers(self._next),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("secondlook", __version__)
        self._undelivered: OrderedDict[tuple[str, str, int], int] = OrderedDict()  # since when each waits
        self._lock = threading.Lock()

    def span(
        self,
        name: str,
        frame: tuple[str, str, int],
        began_ns: int,
        ended_ns: int,
        error: str,
        more: Mapping[str, str | int | float],
    ) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context

        edge_id, boot_id, seq = frame
        number, first = int(trace_id(edge_id, boot_id, seq), 16), _first_span(edge_id, boot_id, seq)
        above = Context()
        if name == ROOT:
            self._next.frame = (number, first)
        else:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            parent = trace.SpanContext(number, first, is_remote=True, trace_flags=flags)
            above = trace.set_span_in_context(trace.NonRecordingSpan(parent), above)
        began_ns = min(began_ns, ended_ns)  # a clock that was set back
        attributes: dict[str, str | int | float] = {
            "secondlook.edge_id": edge_id,
            "secondlook.boot_id": boot_id,
            "secondlook.seq": seq,
        }
        attributes |= {f"secondlook.{key}": value for key, value in more.items()}
        span = self._tracer.start_span(name, above, attributes=attributes, start_time=began_ns)
        self._next.frame = None
        if error:
            span.set_status(trace.StatusCode.ERROR, error)
        span.end(ended_ns)

    def delivery_begins(self, frame: tuple[str, str, int], now_ns: int) -> None:
        with self._lock:
            self._undelivered[frame] = now_ns
            while len(self._undelivered) > _MAX_UNDELIVERED:
                self._undelivered.popitem(last=False)

    def delivered(self, edge_id: str, news: Sequence[Delivered], now_ns: int) -> None:
        ended = []
        with self._lock:
            for frame, began_ns in self._undelivered.items():
                if frame[0] == edge_id and any(_is_safe(one, frame[1], frame[2]) for one in news):
                    ended.append((frame, began_ns))
            for frame, _ in ended:
                del self._undelivered[frame]
        for frame, began_ns in ended:
            self.span("deliver", frame, began_ns, now_ns, "", {})

    def close(self) -> None:
        """Hand on what is left; a collector that hangs is not waited for."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(_END_SECONDS)


_tracer: Tracer | None = None


def use(tracer: Tracer | None) -> None:
    """Hand spans of this process to a tracer from now on; None: to nobody."""
    global _tracer
    _tracer = tracer


def set_up_tracing(config: TracingConfig, role: str, environment: Mapping[str, str]) -> None:
    """Trace this process, where the settings or the standard variables of OpenTelemetry ask for it.

    Raises ConfigError where the settings do and the packages are not there.
    """
    endpoint = _endpoint(config, environment)
    if endpoint is None or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    missing = [
        name
        for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
        if not _is_installed(name)
    ]
    if missing:
        cure = f"{missing[0]} is not installed: pip install 'secondlook[otel]'"
        if config.endpoint is not None:
            raise ConfigError(f"tracing.endpoint: {cure}")
        # Such variables may be there for all programs of a host: no reason not to work.
        log.warning("nothing is traced, though %s is set: %s", _asked_by(environment), cure)
        return
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    tracer = Tracer(
        BatchSpanProcessor(_exporter(config, endpoint, environment)),
        role,
        _share(config, environment),
        environment,
    )
    use(tracer)
    atexit.register(tracer.close)
    log.info("spans go to %s", redacted_address(endpoint))


def span(
    name: str,
    edge_id: str,
    boot_id: str,
    seq: int,
    began_ns: int,
    ended_ns: int | None = None,
    *,
    error: str = "",
    **more: str | int | float,
) -> None:
    """One step on the way of a frame is over; instants are Unix nanoseconds, `ended_ns` is now unless given."""
    if _tracer is not None:
        ended_ns = time.time_ns() if ended_ns is None else ended_ns
        _tracer.span(name, (edge_id, boot_id, seq), began_ns, ended_ns, error, more)


def captured(edge_id: str, boot_id: str, seq: int, captured_ns: int, encoding_seconds: float) -> None:
    """A frame has just been encoded: the first span, that of the encoder, and the beginning of its delivery."""
    if _tracer is not None:
        now_ns = time.time_ns()
        began_ns = now_ns - int(encoding_seconds * 1_000_000_000)
        taken_ns = captured_ns if 0 <= began_ns - captured_ns < _MAX_CAPTURE_NS else began_ns
        _tracer.span(ROOT, (edge_id, boot_id, seq), taken_ns, began_ns, "", {})
        _tracer.span("encode", (edge_id, boot_id, seq), began_ns, now_ns, "", {})
        _tracer.delivery_begins((edge_id, boot_id, seq), now_ns)


def delivered(edge_id: str, news: Sequence[Delivered]) -> None:
    """The gateway holds what it said: spans `deliver` end."""
    if _tracer is not None:
        _tracer.delivered(edge_id, news, time.time_ns())


def _is_safe(news: Delivered, boot_id: str, seq: int) -> bool:
    return news.boot_id == boot_id and (
        seq <= news.cumulative or any(first <= seq <= last for first, last in news.selective)
    )


def _first_span(edge_id: str, boot_id: str, seq: int) -> int:
    return int(hashlib.sha256(f"{edge_id}/{boot_id}/{seq}/{ROOT}".encode()).hexdigest()[:16], 16)


def _endpoint(config: TracingConfig, environment: Mapping[str, str]) -> str | None:
    if config.endpoint is not None:
        return config.endpoint.removesuffix("/").removesuffix(_PATH) + _PATH
    name = _asked_by(environment)
    return None if name is None else environment[name]


def _asked_by(environment: Mapping[str, str]) -> str | None:
    return next((name for name in _ASKED_BY if environment.get(name)), None)


def _share(config: TracingConfig, environment: Mapping[str, str]) -> float:
    """The setting, or what OpenTelemetry's own variables say. Raises ConfigError."""
    sampler = environment.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    if sampler == "always_off":
        return 0.0
    if sampler != "traceidratio":
        return config.share
    text = environment.get("OTEL_TRACES_SAMPLER_ARG", "1")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(f"OTEL_TRACES_SAMPLER_ARG is {text!r}, it must be a number from 0 to 1")
    return share


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _exporter(config: TracingConfig, endpoint: str, environment: Mapping[str, str]) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    given = any(environment.get(f"OTEL_EXPORTER_OTLP_{name}TIMEOUT") for name in ("", "TRACES_"))
    exporter = OTLPSpanExporter(
        endpoint=endpoint if config.endpoint is not None else None,
        timeout=None if given else _TIMEOUT_SECONDS,
    )
    # It says each failure, several times; we say that it fails, and when that is over.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    outage, where = Outage(log), redacted_address(endpoint)

    class Telling(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            try:
                result = exporter.export(spans)
            except OSError:  # which some releases let through
                result = SpanExportResult.FAILURE
            if result is SpanExportResult.SUCCESS:
                outage.over(time.monotonic())
            else:
                outage.met(f"{where} takes no spans, and they are dropped", time.monotonic())
            return result

        def shutdown(self) -> None:
            exporter.shutdown()  # type: ignore[no-untyped-call]

    return Telling()


def _numbers(next_: _Next) -> IdGenerator:
    """Numbers of traces and spans: random but for those that were set for the thread."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Numbers(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return super().generate_trace_id() if next_.frame is None else next_.frame[0]

        def generate_span_id(self) -> int:
            return super().generate_span_id() if next_.frame is None else next_.frame[1]

    return Numbers()
