"""Changes of conditions are posted, signed where a secret is set; again where the receiver is away, at last dropped."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from secondlook.shared.alerts import AlertSender, open_alerts
from secondlook.shared.conditions import Active, Change, WatchConfig
from secondlook.shared.errors import ConfigError
from secondlook.shared.webhooks import parse_secret
from tests.cloud.helpers import wait_until
from tests.cloud.receiver import SECRET, receiving, secret_file

CHANGE = Change(
    True, Active("camera-away", "gate", "critical", 5.0, 20.0, "camera host gate is away", "look")
)


def test_a_change_is_posted_and_signed(tmp_path: Path) -> None:
    with receiving() as receiver:
        send = open_alerts(
            WatchConfig(webhook=receiver.url, webhook_secret_file=secret_file(tmp_path)), "gateway"
        )
        assert send is not None
        send(CHANGE)
        wait_until(lambda: len(receiver.taken) == 1)
    (told,) = receiver.taken
    assert (told["event"], told["condition"], told["subject"]) == ("began", "camera-away", "gate")
    assert (told["role"], told["lasted_seconds"]) == ("gateway", None)


def test_what_is_not_taken_is_sent_again_under_its_number_and_dropped_in_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with receiving(lambda number: 503 if number < 7 else 204) as receiver, caplog.at_level(logging.WARNING):
        send = AlertSender(receiver.url, "edge", parse_secret(SECRET), pauses=(0.0, 0.0, 0.0))
        send(CHANGE)
        send(CHANGE)
        wait_until(lambda: len(receiver.taken) == 1)
    first, second = receiver.refused[:4], receiver.refused[4:]
    assert len({one["id"] for one in first}) == 1
    assert {one["id"] for one in second} == {receiver.taken[0]["id"]} != {first[0]["id"]}
    assert [line.message for line in caplog.records if "dropped" in line.message] == [
        "webhook: the receiver answers 503; dropped: camera host gate is away"
    ]


def test_settings_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    assert open_alerts(WatchConfig(), "edge") is None
    with pytest.raises(ConfigError, match="cannot read"):
        open_alerts(WatchConfig(webhook="https://x/", webhook_secret_file=tmp_path / "none"), "edge")
