"""One run of `secondlook bench pipeline`: a gateway process, load processes, a consumer; then the raw engines."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import socket
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from secondlook.cloud.bench import raw
from secondlook.cloud.bench.consumer import Consumed, consume
from secondlook.cloud.bench.edges import Load, Sent, quantile, send_load
from secondlook.cloud.demo.children import Children
from secondlook.shared.errors import ConfigError, FramesLost, GatewayUnreachable, SecondlookError
from secondlook.shared.files import PUBLIC_FILE, write_atomically

_SAMPLE_SECONDS = 0.5
_START_SECONDS = 30.0
_GRACE_SECONDS = 10.0
_RAW_PACKETS = 20_000
_MIB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What to measure. ``queue`` is the gateway's setting of that name; None is the embedded queue.

    With ``store_only`` workers begin when all packets are acknowledged, so that the rate is that of storing alone, as
    it is for the raw engines.
    """

    edges: int
    packets: int  # of all edges together
    payloads: tuple[bytes, ...]
    in_flight: int  # packets of an edge
    processes: int  # that the edges are spread over
    queue: str | None = None
    store_only: bool = False

    def __post_init__(self) -> None:
        if min(self.edges, self.packets, self.in_flight, self.processes) < 1 or not all(self.payloads):
            raise ConfigError("edges, packets, in-flight, processes and packet sizes must be above 0")
        if self.packets < self.edges or self.processes > self.edges:
            raise ConfigError("every edge needs a packet, and every process an edge")

    @property
    def backend(self) -> str:
        return "sqlite" if self.queue is None else self.queue.partition(":")[0]

    @property
    def packets_an_edge(self) -> int:
        return self.packets // self.edges


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """Measure; the figures as `--json` writes them. Raises SecondlookError when a part of it fails.

    `folder` gets a temporary folder with the gateway's data: on the disk that is to be measured.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="bench-") as name:
        place = Path(name)
        before = _measure_raw(plan, place)
        sent, consumed, rss = _measure_gateway(plan, place)
        # Before and after, for the machine may have been busier the one time than the other.
        engines = {engine: (before[engine] + rate) / 2 for engine, rate in _measure_raw(plan, place).items()}
    latencies = array("d", sorted(value for part in sent for value in part.latencies))
    total = plan.packets_an_edge * plan.edges
    seconds = max(part.ended for part in sent) - min(part.started for part in sent)
    slowest = min(engines.values())
    in_series = 1 / sum(1 / rate for rate in engines.values())  # what is left where they share the processors
    return {
        "backend": plan.backend,
        "store_only": plan.store_only,
        "edges": plan.edges,
        "packets": total,
        "packet_bytes": sum(map(len, plan.payloads)) // len(plan.payloads),
        "packets_per_s": round(total / seconds, 1),
        "raw_packets_per_s": round(slowest, 1),
        "ratio": round(total / seconds / slowest, 3),
        "raw_in_series_per_s": round(in_series, 1),
        "ratio_in_series": round(total / seconds / in_series, 3),
        "p50_ms": round(1000 * quantile(latencies, 0.5), 2),
        "p99_ms": round(1000 * quantile(latencies, 0.99), 2),
        "rss_mb": [rss[len(rss) // 10], rss[-1]],
        "rss_every_s": _SAMPLE_SECONDS,
        "rss_series_mb": rss,
        "raw": {name: round(rate, 1) for name, rate in engines.items()},
        "lost": total - consumed.frames,
        "duplicated": consumed.duplicated,
    }


def write_json(figures: dict[str, Any], path: Path) -> None:
    write_atomically(path, (json.dumps(figures, indent=1) + "\n").encode(), mode=PUBLIC_FILE)


def report(figures: dict[str, Any]) -> str:
    """The figures for people."""
    engines = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in figures["raw"].items())
    start, end = figures["rss_mb"]
    lines = (
        f"{figures['packets']:,} packets of {figures['packet_bytes']:,} bytes from {figures['edges']} edges",
        f"durable     {figures['packets_per_s']:,.0f} packets/s, queue {figures['backend']}"
        + (", workers afterwards" if figures["store_only"] else ""),
        f"raw         {engines}; ratio to the slowest {figures['ratio']:.2f}",
        f"in series   {figures['raw_in_series_per_s']:,.0f}/s; ratio {figures['ratio_in_series']:.2f}",
        f"latency     p50 {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms, to the acknowledgement",
        f"gateway     {start:.1f} MB after a tenth of the time, {end:.1f} MB at the end",
        f"lost {figures['lost']}, duplicated {figures['duplicated']}",
    )
    return "\n".join(lines)


def check(figures: dict[str, Any]) -> None:
    """Raises FramesLost when the run lost or doubled a packet."""
    if figures["lost"] or figures["duplicated"]:
        raise FramesLost(f"{figures['lost']} packets lost, {figures['duplicated']} duplicated")


def _measure_gateway(plan: Plan, folder: Path) -> tuple[list[Sent], Consumed, list[float]]:
    edges, workers = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
    gateway = Children(folder, restart=False)
    gateway.start("gateway", ["gateway", "--config", str(_settings(plan, folder, edges, workers))])
    methods = multiprocessing.get_context("spawn")
    all_sent = methods.Event()
    processes = []
    try:
        _await_port(gateway, edges)
        readers: list[Connection] = []
        jobs: list[tuple[Callable[..., None], tuple[object, ...]]] = [
            *((send_load, (load,)) for load in _loads(plan, edges)),
            (consume, (workers, all_sent, plan.store_only)),
        ]
        for target, arguments in jobs:
            reader, writer = methods.Pipe(duplex=False)
            processes.append(methods.Process(target=target, args=(*arguments, writer), daemon=True))
            processes[-1].start()
            writer.close()
            readers.append(reader)
        rss: list[float] = []
        sent = _collect(gateway, readers[:-1], rss)
        all_sent.set()
        (consumed,) = _collect(gateway, readers[-1:], rss)
        return sent, consumed, rss
    finally:
        for process in processes:
            process.terminate()
            process.join()
        gateway.stop(("gateway",), grace_seconds=_GRACE_SECONDS)


def _loads(plan: Plan, address: str) -> list[Load]:
    """The edges, spread evenly over the processes."""
    boot_id = secrets.token_hex(16)
    bounds = [plan.edges * n // plan.processes for n in range(plan.processes + 1)]
    return [
        Load(address, boot_id, first, last - first, plan.packets_an_edge, plan.payloads, plan.in_flight)
        for first, last in pairwise(bounds)
    ]


def _collect(gateway: Children, readers: Sequence[Connection], rss: list[float]) -> list[Any]:
    """What each process reports at its end; meanwhile the gateway's memory goes into `rss`, in MB."""
    results: dict[Connection, Any] = {}
    while len(results) < len(readers):
        for reader in wait([reader for reader in readers if reader not in results], _SAMPLE_SECONDS):
            assert isinstance(reader, Connection)
            try:
                results[reader] = reader.recv()
            except EOFError as error:
                raise GatewayUnreachable("a process of the load ended without a word") from error
            if isinstance(results[reader], SecondlookError):
                raise results[reader]
        gateway.check()
        rss.append(round(_rss_bytes(gateway.pids()["gateway"]) / _MIB, 1))
    return [results[reader] for reader in readers]


def _measure_raw(plan: Plan, folder: Path) -> dict[str, float]:
    packets, payload = min(plan.packets, _RAW_PACKETS), max(plan.payloads, key=len)
    engines = {"zeromq": raw.echo_rate(plan.edges, packets, payload, plan.in_flight)}
    if plan.queue is None:
        engines["sqlite"] = raw.sqlite_rate(folder, packets, payload)
    else:
        engines["jetstream"] = raw.jetstream_rate(plan.queue, packets, payload, plan.edges * plan.in_flight)
    return engines


def _settings(plan: Plan, folder: Path, edges: str, workers: str) -> Path:
    path = folder / "cloud.toml"
    queue = "" if plan.queue is None else f"queue = {json.dumps(plan.queue)}\n"
    path.write_text(
        f'data_dir = "data"\n{queue}[gateway]\nedge_address = "{edges}"\n[broker]\naddress = "{workers}"\n'
    )
    return path


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback interface that are free now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _await_port(gateway: Children, address: str) -> None:
    host, port = address.removeprefix("tcp://").split(":")
    deadline = time.monotonic() + _START_SECONDS
    while True:
        gateway.check()
        try:
            with socket.create_connection((host, int(port)), timeout=1.0):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise GatewayUnreachable(f"the gateway does not listen at {address}") from error
            time.sleep(0.1)


def _rss_bytes(pid: int) -> int:
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE")
