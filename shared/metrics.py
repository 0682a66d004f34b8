"""What every process counts and measures, under names that stay: one table, kept by prometheus-client.

`METRICS` is the whole of it; docs/metrics.md is written from it. A process shows all names that are of its role, each
from the first time that it is touched. `camera` is the edge id of a camera host. Counters begin anew with a process, as
Prometheus expects. Cheap: a counter takes under a microsecond, and nothing is sent anywhere.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from secondlook.shared.hostinfo import temperatures, throttle_counts
from secondlook.shared.version import __version__

PREFIX = "secondlook_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Kind = Literal["counter", "gauge", "histogram"]

_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)


@dataclass(frozen=True)
class Described:
    """One metric: its name without prefix, what it counts, its labels, and who has it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    roles: str  # for people: who shows it
    text: str
    buckets: tuple[float, ...] = ()


METRICS = (
    Described("frames_captured_total", "counter", ("camera",), "edge", "frames that reached the encoder"),
    Described("frames_encoded_total", "counter", ("camera",), "edge", "frames that were encoded"),
    Described(
        "frames_spooled_total", "counter", ("camera",), "edge", "frames that are on the camera host's disk"
    ),
    Described(
        "frames_acknowledged_total", "counter", ("camera",), "edge", "frames that the gateway holds on disk"
    ),
    Described(
        "frames_dropped_total",
        "counter",
        ("camera", "reason"),
        "edge, gateway",
        "frames under tombstones, by reason (docs/delivery.md); the gateway counts those that it heard of",
    ),
    Described("frames_queued_total", "counter", ("camera",), "gateway", "new frames that entered the queue"),
    Described("frames_detected_total", "counter", ("camera",), "worker", "frames that a machine looked at"),
    Described(
        "frames_shed_total",
        "counter",
        ("camera",),
        "worker",
        "frames that were stored and not looked at, because the worker could not keep up",
    ),
    Described(
        "frames_failed_total",
        "counter",
        ("camera",),
        "worker",
        "attempts at a frame that failed; it is tried again",
    ),
    Described(
        "reviews_asked_total",
        "counter",
        ("camera", "rule"),
        "worker",
        "frames for which a rule asked for a review",
    ),
    Described(
        "reviews_refined_total", "counter", ("camera",), "refiner", "reviews whose refined picture is made"
    ),
    Described(
        "reviews_settled_total",
        "counter",
        ("camera",),
        "refiner",
        "reviews that the machine's second look settled: nobody is asked",
    ),
    Described(
        "reviews_expired_total",
        "counter",
        ("camera",),
        "refiner",
        "reviews whose enhancement could not be had",
    ),
    Described("frames_reviewed_total", "counter", ("verdict",), "station", "verdicts of people, by kind"),
    Described(
        "layer_bytes_total",
        "counter",
        ("camera", "layer", "at"),
        "edge, gateway",
        "bytes of layers: layer is base or enhancement; at is encoded, sent or received",
    ),
    Described("encode_seconds", "histogram", ("camera",), "edge", "encoding one frame", _QUICK),
    Described(
        "delivery_seconds",
        "histogram",
        ("camera",),
        "gateway",
        "from a frame's capture to its place in the queue, the camera host's clock corrected",
        _SLOW,
    ),
    Described("queue_seconds", "histogram", (), "worker", "from the gateway to a worker's hands", _SLOW),
    Described(
        "detect_seconds",
        "histogram",
        (),
        "worker",
        "decoding and detecting, a frame's share of a batch",
        _QUICK,
    ),
    Described(
        "detected_seconds",
        "histogram",
        ("camera",),
        "worker",
        "from a frame's arrival at the gateway to its detections in the catalogue",
        _SLOW,
    ),
    Described(
        "refine_seconds", "histogram", (), "refiner", "from a review's lease to its refined picture", _SLOW
    ),
    Described("queue_frames", "gauge", (), "gateway", "frames that wait for a worker or are in its hands"),
    Described("queue_bytes", "gauge", (), "gateway", "their bytes"),
    Described("queue_oldest_seconds", "gauge", (), "gateway", "age of the oldest of them"),
    Described("dead_frames", "gauge", (), "gateway", "frames that were given up after too many attempts"),
    Described("cameras_connected", "gauge", (), "gateway", "camera hosts that are connected"),
    Described("workers_heard", "gauge", ("role",), "gateway", "workers and refiners that were heard lately"),
    Described(
        "reviews", "gauge", ("state",), "station", "reviews in the catalogue without a decision, by state"
    ),
    Described("spool_bytes", "gauge", ("camera",), "edge", "layers on the camera host's disk"),
    Described("spool_waiting_frames", "gauge", ("camera",), "edge", "of them, frames that are not delivered"),
    Described("spool_oldest_seconds", "gauge", ("camera",), "edge", "age of the oldest of these"),
    Described("link_up", "gauge", ("camera",), "edge", "whether the gateway has welcomed this host: 1 or 0"),
    Described(
        "link_kbps", "gauge", ("camera",), "edge", "what the link is known to carry, where [rate] bounds it"
    ),
    Described(
        "clock_offset_seconds", "gauge", ("camera",), "edge, gateway", "the gateway's clock minus the host's"
    ),
    Described("base_quality", "gauge", ("camera",), "edge", "quality of base layers at present"),
    Described("disk_free_bytes", "gauge", ("folder",), "all", "what is free on the disk of a folder"),
    Described(
        "provider",
        "gauge",
        ("model", "device", "precision"),
        "edge, worker, refiner",
        "1 for each network, with where it runs",
    ),
    Described(
        "condition", "gauge", ("condition", "subject"), "all", "1 while a condition holds, 0 once it is over"
    ),
    Described("heartbeat_age_seconds", "gauge", (), "all", "since the loop that does the work came around"),
    Described("ready", "gauge", (), "all", "what /readyz says: 1 or 0"),
    Described("build", "gauge", ("version",), "all", "1, with the version of this program"),
    Described("host_temperature_celsius", "gauge", ("sensor",), "all", "of hosts that tell"),
    Described(
        "host_throttled_total",
        "counter",
        ("what",),
        "all",
        "times that the processor was slowed down, of hosts that tell",
    ),
)

_OF_SCRAPE = ("heartbeat_age_seconds", "ready", "host_temperature_celsius", "host_throttled_total")


class _Host:
    """What is read when somebody asks: temperatures and throttling."""

    def collect(self) -> Iterable[Metric]:
        heat = GaugeMetricFamily(
            f"{PREFIX}host_temperature_celsius", _text("host_temperature_celsius"), labels=["sensor"]
        )
        for sensor, celsius in temperatures().items():
            heat.add_metric([sensor], celsius)
        slowed = Metric(f"{PREFIX}host_throttled", _text("host_throttled_total"), "counter")
        for what, count in throttle_counts().items():
            slowed.add_sample(f"{PREFIX}host_throttled_total", {"what": what}, float(count))
        return [heat, slowed]


def _text(name: str) -> str:
    return next(one.text for one in METRICS if one.name == name)


disable_created_metrics()  # type: ignore[no-untyped-call]
registry = CollectorRegistry()


_described = {one.name: one for one in METRICS if one.name not in _OF_SCRAPE}
_made: dict[str, Any] = {}
_of_labels: dict[tuple[str, tuple[str, ...]], Any] = {}
_making = threading.Lock()


def _metric(name: str) -> Any:
    """The metric of this name, made when it is first touched: a role shows what it has. Raises KeyError."""
    found = _made.get(name)
    if found is not None:
        return found
    one = _described[name]
    with _making:
        if name not in _made:
            full = PREFIX + name
            if one.kind == "histogram":
                _made[name] = Histogram(full, one.text, one.labels, buckets=one.buckets, registry=registry)
            else:
                kind = Counter if one.kind == "counter" else Gauge
                _made[name] = kind(full, one.text, one.labels, registry=registry)
        return _made[name]


def _one(name: str, labels: tuple[str, ...]) -> Any:
    """The counter, gauge or histogram of these labels, which prometheus-client takes a microsecond to look up."""
    found = _of_labels.get((name, labels))
    if found is None:
        metric = _metric(name)
        found = _of_labels[name, labels] = metric.labels(*labels) if labels else metric
    return found


registry.register(_Host())
ProcessCollector(registry=registry)
PlatformCollector(registry=registry)


def count(name: str, *labels: str, by: float = 1.0) -> None:
    """Raise a counter."""
    _one(name, labels).inc(by)


def measure(name: str, value: float, *labels: str) -> None:
    """Set a gauge, or add one value to a histogram."""
    one = _one(name, labels)
    if isinstance(one, Histogram):
        one.observe(max(0.0, value))
    else:
        one.set(value)


def measure_all(name: str, values: Iterable[float], *labels: str) -> None:
    """Add many values to a histogram."""
    observe = _one(name, labels).observe
    for value in values:
        observe(max(0.0, value))


def unset(name: str, *labels: str) -> None:
    """Show a gauge of these labels no more."""
    with contextlib.suppress(KeyError):
        _metric(name).remove(*labels)
    _of_labels.pop((name, labels), None)


def condition(name: str, subject: str, *, active: bool) -> None:
    measure("condition", float(active), name, subject)


measure("build", 1, __version__)


def rendered(of_scrape: Callable[[], tuple[float, bool]] | None = None) -> bytes:
    """All metrics in Prometheus' text format. `of_scrape` tells the heartbeat's age and whether the role is ready."""
    text: bytes = generate_latest(registry)
    if of_scrape is not None:
        age, ready = of_scrape()
        for name, value in (("heartbeat_age_seconds", age), ("ready", float(ready))):
            head = f"# HELP {PREFIX}{name} {_text(name)}\n# TYPE {PREFIX}{name} gauge\n"
            text += f"{head}{PREFIX}{name} {value}\n".encode()
    return text
