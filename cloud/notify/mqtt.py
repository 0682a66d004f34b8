"""Telling a broker by MQTT, with Home Assistant's discovery: each camera host is a device with three entities.

Topics, below the configured one: `CAMERA/detection`, `CAMERA/verdict` and so on, the message each time;
`CAMERA/state`, retained, `online` or `silent`; `CAMERA/last_detection`, retained. Quality of service 1: a message is
taken when the broker has said so.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from secondlook.cloud.catalogue.deliveries import Message
from secondlook.cloud.notify.messages import wanted_by
from secondlook.cloud.receivers import MqttConfig
from secondlook.cloud.station.api.cameras import CAMERA
from secondlook.shared.errors import ConfigError, DeliveryFailed
from secondlook.shared.keyfiles import read_private

NAME = "mqtt broker"  # no webhook can be called so


class Broker:
    """A sink, connected when it first has something to send, and again after the way broke."""

    def __init__(self, config: MqttConfig) -> None:
        """Raises ConfigError, SecretExposed for a password or certificate that cannot be used."""
        self.name = NAME
        self.wanted = wanted_by(config)
        self._config = config
        if config.password_file is not None and not config.user:
            raise ConfigError("mqtt: password_file wants a user")
        try:
            self._password = None if config.password_file is None else _first_line(config)
            self._tls = config.tls
            self._client = self._new_client()
        except ConfigError:
            raise
        except (OSError, ValueError) as error:
            raise ConfigError(f"mqtt: {error}") from error
        self._connected = threading.Event()
        self._refused = ""

    def send(self, message: Message) -> None:
        self._connect()
        data = json.loads(message.body)["data"]
        for topic, payload, retain in publications(self._config, message.kind, data, message.body):
            told = self._client.publish(topic, payload, qos=1, retain=retain)
            try:
                told.wait_for_publish(self._config.timeout_seconds)
            except (RuntimeError, ValueError) as error:
                raise self._failed(str(error)) from error
            if not told.is_published():
                raise self._failed("the broker does not answer")

    def close(self) -> None:
        # Its thread ends when it is told that the connection has.
        self._client.disconnect()
        self._client.loop_stop()

    def _connect(self) -> None:
        if self._connected.is_set():
            return
        self.close()
        self._client = self._new_client()
        config = self._config
        try:
            self._client.connect(config.host, config.port, keepalive=30)
        except (OSError, ValueError) as error:
            raise DeliveryFailed(f"{config.host}:{config.port}: {error}") from error
        self._client.loop_start()
        if not self._connected.wait(config.timeout_seconds):
            raise self._failed(self._refused or "the broker does not answer")

    def _failed(self, why: str) -> DeliveryFailed:
        self._connected.clear()
        return DeliveryFailed(f"{self._config.host}:{self._config.port}: {why}")

    def _new_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"secondlook-{uuid.uuid4().hex[:12]}",
            reconnect_on_failure=False,
        )
        if self._config.user:
            client.username_pw_set(self._config.user, self._password)
        if self._tls:
            ca_file = self._config.ca_file
            client.tls_set(ca_certs=None if ca_file is None else str(ca_file))
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        return client

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
        else:
            self._connected.set()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, _reason: Any, _properties: Any) -> None:
        self._connected.clear()


def publications(
    config: MqttConfig, kind: str, data: dict[str, Any], body: str
) -> list[tuple[str, str, bool]]:
    """Topic, payload and whether it is retained, of all that one message makes."""
    event, _, what = kind.partition(".")
    facts = data[event]
    camera = facts["id"] if event == CAMERA else facts["camera"]
    topic = f"{config.topic}/{_level(camera)}"
    told = [(f"{topic}/{event}", body, False)]
    if event == CAMERA:
        if config.discovery_topic:
            told += _discovery(config, camera, facts["name"], topic)
        told.append((f"{topic}/state", what, True))
    elif event == "detection":
        told.append((f"{topic}/last_detection", json.dumps(facts), True))
    return told


def _discovery(config: MqttConfig, camera: str, name: str, topic: str) -> list[tuple[str, str, bool]]:
    """What Home Assistant has to know of a camera host's entities."""
    node = "secondlook_" + re.sub(r"[^A-Za-z0-9_-]", "_", camera)
    device = {"identifiers": [node], "name": name or camera, "manufacturer": "Secondlook"}
    entities = {
        ("binary_sensor", "state"): {
            "name": "Camera",
            "device_class": "connectivity",
            "state_topic": f"{topic}/state",
            "payload_on": "online",
            "payload_off": "silent",
        },
        ("sensor", "last_detection"): {
            "name": "Last detection",
            "state_topic": f"{topic}/last_detection",
            "value_template": "{{ value_json.label }}",
            "json_attributes_topic": f"{topic}/last_detection",
        },
        ("sensor", "last_verdict"): {
            "name": "Last verdict",
            "state_topic": f"{topic}/verdict",
            "value_template": "{{ value_json.data.verdict.verdict }}",
        },
    }
    return [
        (
            f"{config.discovery_topic}/{kind}/{node}/{entity}/config",
            json.dumps({**facts, "unique_id": f"{node}_{entity}", "device": device}),
            True,
        )
        for (kind, entity), facts in entities.items()
    ]


def _level(text: str) -> str:
    """A name as one level of a topic."""
    return re.sub(r"[+#/\0]", "_", text)


def _first_line(config: MqttConfig) -> str:
    assert config.password_file is not None
    return read_private(config.password_file).partition("\n")[0]
