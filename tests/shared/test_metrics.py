"""Metrics: names that stay, counted where they say, served where an address is set."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from secondlook.shared import metrics
from secondlook.shared.conditions import NAMES
from secondlook.shared.health import HealthConfig, MetricsConfig, serve_health
from secondlook.shared.hostinfo import clock_is_kept, temperatures, throttle_counts
from secondlook.shared.watchdog import Watchdog
from tests.cloud.servers import free_port
from tests.reference import TOLD_BY_STATUS

ROOT = Path(__file__).parents[2]
KNOWN = {metrics.PREFIX + one.name: one for one in metrics.METRICS}


def ask(port: int, path: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.getheader("content-type") or "", body


def value(name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(metrics.PREFIX + name, labels)


def test_names_are_well_formed_and_said_once() -> None:
    assert len(KNOWN) == len(metrics.METRICS)
    for one in metrics.METRICS:
        assert re.fullmatch(r"[a-z][a-z_]+", one.name) and one.text and one.roles
        assert one.name.endswith("_total") == (one.kind == "counter"), one.name
        assert bool(one.buckets) == (one.kind == "histogram")
        assert list(one.buckets) == sorted(set(one.buckets))


def test_what_is_counted_is_shown_and_prometheus_can_read_it() -> None:
    metrics.count("frames_captured_total", "metrics-1", by=3)
    metrics.measure("encode_seconds", 0.03, "metrics-1")
    metrics.measure("queue_frames", 7)
    text = metrics.rendered(lambda: (1.5, True)).decode()
    families = {one.name: one for one in text_string_to_metric_families(text)}
    assert value("frames_captured_total", camera="metrics-1") == 3
    assert value("encode_seconds_count", camera="metrics-1") == 1
    assert families["secondlook_heartbeat_age_seconds"].samples[0].value == 1.5
    assert families["secondlook_ready"].samples[0].value == 1
    assert not [name for name in families if name.startswith(metrics.PREFIX) and not known(name)]


def known(family: str) -> bool:
    """A counter's family lacks the ending of its samples."""
    return family in KNOWN or f"{family}_total" in KNOWN


def test_a_name_that_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        metrics.count("frames_imagined_total")


def test_metrics_have_an_address_of_their_own_and_health_does_not_tell_them() -> None:
    watchdog, port = Watchdog(), free_port()
    watchdog.ready()
    with serve_health(
        HealthConfig("127.0.0.1:0"), watchdog, telling=MetricsConfig(f"127.0.0.1:{port}")
    ) as health:
        status, kind, body = ask(port, "/metrics")
        assert status == 200 and kind.startswith("text/plain") and "secondlook_build{" in body
        assert "secondlook_ready 1.0" in body
        assert ask(port, "/healthz")[::2] == (200, json.dumps({"status": "live"}))
        assert ask(health, "/metrics")[0] == 404  # names and numbers stay away from where probes ask
        watchdog.waits("catalogue: no answer")
        assert "secondlook_ready 0.0" in ask(port, "/metrics")[2]


def test_one_address_for_both_is_one_server() -> None:
    address = f"127.0.0.1:{free_port()}"
    with serve_health(HealthConfig(address), Watchdog(), telling=MetricsConfig(address)) as port:
        assert ask(port, "/metrics")[0] == ask(port, "/healthz")[0] == 200


# --- what lies in deploy/


def names_in(expression: str) -> set[str]:
    found = re.findall(r"\b(secondlook_[a-z_]+)", expression)
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in found}


def test_the_dashboard_asks_for_metrics_and_labels_that_exist() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "secondlook.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    expressions += [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    assert len(expressions) > 20
    for expression in expressions:
        assert names_in(expression) <= set(KNOWN), expression
        assert names_in(expression) or "process_" in expression
        allowed = {label for name in names_in(expression) for label in KNOWN[name].labels} | {"le", "job"}
        assert set(re.findall(r'(\w+)=~?"', expression)) <= allowed, expression
        for labels in re.findall(r"by \(([\w, ]+)\)", expression):
            assert set(labels.split(", ")) <= allowed, expression
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_there_is_an_alert_for_each_condition_that_a_process_tells() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "secondlook.rules.yaml").read_text())
    listed = rules["groups"][0]["rules"]
    told = {match[1] for rule in listed if (match := re.search(r'condition="([\w-]+)"', rule["expr"]))}
    assert told == set(NAMES) - set(TOLD_BY_STATUS)
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    for rule in listed:
        assert names_in(rule["expr"]) <= set(KNOWN)
        heading = rule["annotations"]["runbook"].partition("#")[2]
        assert re.search(rf"^### {heading.replace('-', '[- ]')}$", page, re.MULTILINE | re.IGNORECASE), (
            heading
        )


# --- the host


def test_temperature_and_throttling_are_read_where_a_host_tells_them(tmp_path: Path) -> None:
    assert temperatures(tmp_path) == {} and throttle_counts(tmp_path) == {}
    for number, (kind, text) in enumerate((("cpu-thermal", "61234"), ("cpu-thermal", "58000"), ("gpu", "?"))):
        zone = tmp_path / f"class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{text}\n")
    for core, count in enumerate(("3", "4")):
        folder = tmp_path / f"devices/system/cpu/cpu{core}/thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(count)
        (folder / "package_throttle_count").write_text("9")
    firmware = tmp_path / "devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50005\n")
    assert temperatures(tmp_path) == {"cpu-thermal": 61.234, "cpu-thermal-1": 58.0}
    assert throttle_counts(tmp_path) == {"core": 7, "package": 9, "firmware": 2}


def test_the_kernel_is_asked_whether_the_clock_is_kept() -> None:
    assert clock_is_kept() in (True, False, None)
