"""Changes of conditions are told by webhook and e-mail; again where the receiver is away, at last dropped."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from secondlook.cloud.config import CloudConfig
from secondlook.edge.config import EdgeConfig
from secondlook.shared.alerts import AlertSender, MailChannel, WebhookChannel, open_alerts
from secondlook.shared.conditions import Active, Change, WatchConfig
from secondlook.shared.config import load
from secondlook.shared.errors import ConfigError
from secondlook.shared.mail import Mailer, SmtpConfig
from secondlook.shared.webhooks import parse_secret
from tests.cloud.helpers import wait_until
from tests.cloud.mailserver import taking_mail
from tests.cloud.receiver import SECRET, receiving, secret_file

CHANGE = Change(
    True, Active("camera-away", "gate", "critical", 5.0, 20.0, "camera host gate is away", "look")
)


def test_a_change_is_posted_and_signed(tmp_path: Path) -> None:
    with receiving() as receiver:
        config = WatchConfig(webhook=receiver.url, webhook_secret_file=secret_file(tmp_path))
        send = open_alerts(config, SmtpConfig(), "gateway")
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
        channel = WebhookChannel(receiver.url, parse_secret(SECRET), pauses=(0.0, 0.0, 0.0))
        send = AlertSender(channel, "edge")
        send(CHANGE)
        send(CHANGE)
        wait_until(lambda: len(receiver.taken) == 1)
    first, second = receiver.refused[:4], receiver.refused[4:]
    assert len({one["id"] for one in first}) == 1
    assert {one["id"] for one in second} == {receiver.taken[0]["id"]} != {first[0]["id"]}
    assert [line.message for line in caplog.records if "dropped" in line.message] == [
        "webhook: the receiver answers 503; dropped: camera host gate is away"
    ]


def smtp(port: int) -> SmtpConfig:
    return SmtpConfig(
        host="127.0.0.1", port=port, security="none", sender="site@example.org", timeout_seconds=5.0
    )


def test_a_change_is_mailed_beside_a_webhook_that_is_away() -> None:
    config = WatchConfig(webhook="http://127.0.0.1:1/", email=("ops@example.org",))
    ended = Change(False, CHANGE.condition, 90.0)
    with taking_mail() as server:
        send = open_alerts(config, smtp(server.port), "gateway")
        assert send is not None
        send(CHANGE)
        send(ended)
        wait_until(lambda: len(server.taken) == 2)
    (_, began), (_, over) = server.taken
    assert began["Subject"] == "[secondlook] critical: camera-away gate"
    assert over["Subject"] == "[secondlook] over: camera-away gate"
    text = began.get_content()
    assert text.startswith("camera host gate is away.\n") and "What helps: look" in text
    assert "It lasted 1 min 30 s." in over.get_content()


def test_a_mail_that_is_not_taken_is_tried_again_under_its_id(caplog: pytest.LogCaptureFixture) -> None:
    with taking_mail() as server, caplog.at_level(logging.WARNING):
        server.of_mail = lambda number: "250 taken" if number in (2, 5) else "451 later"
        mailer = Mailer(smtp(server.port))
        send = AlertSender(MailChannel(mailer, ("ops@example.org",), pauses=(0.0,)), "edge")
        for _ in range(3):
            send(CHANGE)
        wait_until(lambda: len(server.taken) == 2)
    assert server.tried == 5
    assert len({mail["Message-ID"] for _, mail in server.taken}) == 2
    dropped = [line.message for line in caplog.records if "dropped" in line.message]
    assert len(dropped) == 1 and dropped[0].startswith("e-mail: 127.0.0.1:") and "451 later" in dropped[0]


def test_a_condition_that_comes_and_goes_is_mailed_once_and_then_if_it_lasts() -> None:
    with taking_mail() as server:
        channel = MailChannel(Mailer(smtp(server.port)), ("ops@example.org",))
        send = AlertSender(channel, "edge", cooldown_seconds=1.5)
        for began in (True, False, True, False, True):
            send(Change(began, CHANGE.condition))
        wait_until(lambda: len(server.taken) == 2)
        assert [("over" in mail["Subject"]) for _, mail in server.taken] == [False, True]
        wait_until(lambda: len(server.taken) == 3)
    assert "critical" in server.taken[2][1]["Subject"]


def test_settings_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    assert open_alerts(WatchConfig(), SmtpConfig(), "edge") is None
    with pytest.raises(ConfigError, match="cannot read"):
        open_alerts(
            WatchConfig(webhook="https://x/", webhook_secret_file=tmp_path / "none"), SmtpConfig(), "edge"
        )
    with pytest.raises(ConfigError, match=r"email: 'ops' is not as name@example\.org"):
        WatchConfig(email=("ops",))
    for config in (CloudConfig, EdgeConfig):
        with pytest.raises(ConfigError, match=r"watch.email wants a mail server: smtp\.host"):
            load(None, config, {"watch.email": ["ops@example.org"], **_wanted(config)})


def _wanted(config: type) -> dict[str, object]:
    return {"edge_id": "gate", "source.address": "demo:"} if config is EdgeConfig else {}
