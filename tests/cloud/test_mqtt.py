"""MQTT: what a broker is told and Home Assistant finds, log-ins, and a broker that is away or silent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import deliveries
from secondlook.cloud.notify.mqtt import Broker
from secondlook.cloud.notify.sender import Turns
from secondlook.cloud.receivers import MqttConfig, NotifyConfig
from secondlook.main import main
from secondlook.shared.errors import ConfigError, DeliveryFailed, SecretExposed
from tests.cloud.broker import TestBroker, broker_running
from tests.cloud.test_catalogue import box, frame

MESSAGE = deliveries.Message("u", "tombstone.stored", '{"type":"t","data":{"tombstone":{"camera":"a/b+c"}}}')


@pytest.fixture
def broker() -> Iterator[TestBroker]:
    with broker_running() as broker:
        yield broker


def test_what_a_broker_is_told(tmp_path: Path, broker: TestBroker) -> None:
    catalogue = cat.open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")
    sink = Broker(MqttConfig(host="127.0.0.1", port=broker.port, topic="site/secondlook"))
    now = [1_000_000_000]
    turns = Turns(catalogue, sink, NotifyConfig(), stop=threading.Event(), now_ns=lambda: now[0])
    turns.turn()
    cat.store_frame(catalogue, frame(1), [box("dog", 0.9)], detector="t", reasons=[], now_ns=now[0])
    while turns.turn():
        pass
    now[0] += 301_000_000_000
    while turns.turn():
        pass
    assert deliveries.count_waiting(catalogue, sink.name, 10) == 0
    sink.close()
    catalogue.close()
    topics = [topic for topic, _, _ in broker.published]
    assert (
        topics.count("site/secondlook/gate/detection") == 1
        and topics.count("site/secondlook/gate/camera") == 2
    )
    retained = broker.retained()
    assert retained["site/secondlook/gate/state"] == "silent"
    assert json.loads(retained["site/secondlook/gate/last_detection"])["label"] == "dog"
    found = {
        topic: json.loads(text) for topic, text in retained.items() if topic.startswith("homeassistant/")
    }
    assert set(found) == {
        "homeassistant/binary_sensor/secondlook_gate/state/config",
        "homeassistant/sensor/secondlook_gate/last_detection/config",
        "homeassistant/sensor/secondlook_gate/last_verdict/config",
    }
    assert len({entity["unique_id"] for entity in found.values()}) == 3
    assert {entity["state_topic"] for entity in found.values()} - set(retained) == {
        "site/secondlook/gate/verdict"
    }
    assert all(entity["device"]["identifiers"] == ["secondlook_gate"] for entity in found.values())


def test_a_camera_is_one_level_of_a_topic(broker: TestBroker) -> None:
    sink = Broker(MqttConfig(host="127.0.0.1", port=broker.port))
    sink.send(MESSAGE)
    sink.close()
    assert broker.published == [("secondlook/a_b_c/tombstone", MESSAGE.body, False)]


def test_log_ins(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    password.chmod(0o600)
    with broker_running(b"open sesame") as broker:
        config = MqttConfig(host="127.0.0.1", port=broker.port, user="me", password_file=password)
        sink = Broker(config)
        sink.send(MESSAGE)
        sink.close()
        assert broker.logins == [(b"me", b"open sesame")]
        wrong = Broker(MqttConfig(host="127.0.0.1", port=broker.port, user="me", timeout_seconds=0.5))
        with pytest.raises(DeliveryFailed, match="Not authorized"):
            wrong.send(MESSAGE)
        wrong.close()
        password.chmod(0o644)
        with pytest.raises(SecretExposed):
            Broker(config)


def test_a_broker_that_is_silent_or_away(broker: TestBroker) -> None:
    broker.answers = False
    sink = Broker(MqttConfig(host="127.0.0.1", port=broker.port, timeout_seconds=0.3))
    with pytest.raises(DeliveryFailed, match="does not answer"):
        sink.send(MESSAGE)
    broker.answers = True
    sink.send(MESSAGE)
    assert [topic for topic, _, _ in broker.published] == ["secondlook/a_b_c/tombstone"]
    sink.close()
    away = Broker(MqttConfig(host="127.0.0.1", port=1, timeout_seconds=0.3))
    with pytest.raises(DeliveryFailed, match="refused"):
        away.send(MESSAGE)
    away.close()


def test_settings_that_make_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ({"topic": "a/#"}, {"topic": ""}, {"events": ("x",)}):
        with pytest.raises(ConfigError):
            MqttConfig(host="h", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="wants a user"):
        Broker(MqttConfig(host="h", password_file=tmp_path / "x"))
    with pytest.raises(ConfigError, match="mqtt"):
        Broker(MqttConfig(host="h", user="u", password_file=tmp_path / "none"))
    assert main(["notify", "--data-dir", str(tmp_path)]) == 1
    assert "nobody is to be told" in capsys.readouterr().err
