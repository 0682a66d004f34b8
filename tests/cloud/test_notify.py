"""Telling other systems: what is told, again rather than never, retries, the dead-letter list and its commands."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

import secondlook
from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import deliveries
from secondlook.cloud.catalogue.deliveries import CameraNote
from secondlook.cloud.catalogue.schema import table_of
from secondlook.cloud.config import CloudConfig
from secondlook.cloud.notify.messages import pause_seconds
from secondlook.cloud.notify.sender import Notifier, Turns
from secondlook.cloud.notify.sinks import Webhook
from secondlook.cloud.receivers import NotifyConfig, WebhookConfig
from secondlook.cloud.station.api.cameras import camera_changes
from secondlook.main import main
from secondlook.shared.config import load
from secondlook.shared.errors import ConfigError, DeliveryFailed, SecretExposed, SignatureRefused
from secondlook.shared.webhooks import parse_secret, signed_headers
from tests.cloud.helpers import wait_until
from tests.cloud.receiver import SECRET, Receiver, receiving, secret_file
from tests.cloud.test_catalogue import BOOT, RESULT, SECOND, box, frame

HOUR = 3600 * SECOND


class Clock:
    def __init__(self) -> None:
        self.now_ns = time.time_ns()

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    opened = cat.open_catalogue(catalogue_url)
    yield opened
    opened.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


class Site:
    """One webhook, and turns of it when the test says so, at times that the test says."""

    def __init__(self, catalogue: cat.Catalogue, url: str, folder: Path, **options: Any) -> None:
        self.catalogue, self.clock = catalogue, Clock()
        notify = {name: options.pop(name) for name in ("silent_seconds", "max_waiting") if name in options}
        self.hook = Webhook(WebhookConfig(name="hook", url=url, secret_file=secret_file(folder), **options))
        self.turns = self.new_turns(**notify)
        self.turn()

    def new_turns(self, **notify: Any) -> Turns:
        config = NotifyConfig(give_up_hours=1, **notify)
        return Turns(self.catalogue, self.hook, config, stop=threading.Event(), now_ns=self.clock)

    def turn(self, after_seconds: float = 0.0) -> None:
        self.clock.now_ns += int(after_seconds * SECOND)
        while self.turns.turn():
            pass

    def see(self, seq: int, *labels: str, score: float = 0.9, review: bool = False) -> None:
        reasons = [cat.NewReview(reason="x", priority=5)] if review else []
        cat.store_frame(
            self.catalogue,
            frame(seq, captured_ns=seq * SECOND),
            [box(label, score) for label in labels],
            detector="tiny",
            reasons=reasons,
            now_ns=self.clock(),
        )


@pytest.fixture
def site(catalogue: cat.Catalogue, receiver: Receiver, tmp_path: Path) -> Iterator[Site]:
    made = Site(catalogue, receiver.url, tmp_path)
    yield made
    made.hook.close()


def judged(catalogue: cat.Catalogue) -> int:
    lease = cat.lease_due_review(catalogue, "r", lease_seconds=9, now_ns=1)
    assert lease is not None
    cat.mark_ready(catalogue, lease.review_id, "r", RESULT, now_ns=2)
    verdict = cat.NewVerdict(cat.VerdictKind.CONFIRM, "ann", RESULT.shown_sha256)
    return cat.record_verdict(catalogue, lease.review_id, verdict, now_ns=3)


# --- what is told


def test_what_a_webhook_is_told(site: Site, receiver: Receiver) -> None:
    site.see(1, "cat", review=True)
    judged(site.catalogue)
    site.turn()
    told = {message["type"]: message["data"] for message in receiver.taken}
    assert set(told) == {"detection.stored", "verdict.given", "camera.online"}
    assert told["detection.stored"]["detection"]["label"] == "cat"
    assert told["verdict.given"]["verdict"]["reviewer"] == "ann"
    assert told["camera.online"]["camera"]["id"] == "gate"
    assert len(set(receiver.ids())) == 3


def test_what_was_before_the_webhook_is_not_told(
    catalogue: cat.Catalogue, receiver: Receiver, tmp_path: Path
) -> None:
    cat.store_frame(catalogue, frame(0), [box()], detector="t", reasons=[], now_ns=1)
    site = Site(catalogue, receiver.url, tmp_path, events=("detection",), once_per_object=False)
    site.see(1, "dog")
    site.turn()
    assert [message["data"]["detection"]["label"] for message in receiver.taken] == ["dog"]


def test_an_object_is_told_of_once_unless_every_frame_is_wanted(
    catalogue: cat.Catalogue, receiver: Receiver, tmp_path: Path
) -> None:
    site = Site(catalogue, receiver.url, tmp_path, events=("detection",), labels=("cat",), min_score=0.6)
    for seq, score in enumerate((0.5, 0.55, 0.7, 0.8)):
        site.see(seq, "cat", score=score)
        site.turn()
    site.see(9, "dog")
    site.turn()
    assert [message["data"]["detection"]["score"] for message in receiver.taken] == [0.7]
    site.hook.wanted = type(site.hook.wanted)(
        frozenset({"detection"}), labels=frozenset({"cat"}), once_per_object=False
    )
    site.see(5, "cat", "cat")
    site.turn()
    assert len(receiver.taken) == 3


def test_camera_hosts_that_fall_silent(catalogue: cat.Catalogue, receiver: Receiver, tmp_path: Path) -> None:
    site = Site(catalogue, receiver.url, tmp_path, events=("camera",), silent_seconds=60)
    site.see(1)
    site.turn()
    site.turn(after_seconds=50)
    site.turn(after_seconds=20)
    site.turn(after_seconds=20)
    site.see(2)
    site.turn()  # too soon after the last change
    assert receiver.types() == ["camera.online", "camera.silent"]
    site.turn(after_seconds=41)
    assert receiver.types() == ["camera.online", "camera.silent", "camera.online"]


def test_only_some_cameras(catalogue: cat.Catalogue, receiver: Receiver, tmp_path: Path) -> None:
    site = Site(catalogue, receiver.url, tmp_path, cameras=("yard", "roof"), events=("camera", "tombstone"))
    site.see(1)
    gaps = [cat.FrameTombstone(edge_id, BOOT, 5, 6, "idle", 7) for edge_id in ("gate", "yard")]
    cat.store_tombstones(catalogue, gaps)
    site.turn()
    assert [message["data"]["tombstone"]["camera"] for message in receiver.taken] == ["yard"]


def test_changes_of_cameras_are_debounced() -> None:
    camera = cat.Camera(edge_id="gate", camera="g", first_seen_ns=0, last_seen_ns=100 * SECOND)
    told = {"gate": CameraNote("online", 0)}

    def changes(noted: dict[str, CameraNote], now: int) -> dict[str, CameraNote]:
        return camera_changes([camera], noted, silent_seconds=30, now_ns=now * SECOND)

    assert changes({}, 100) == {"gate": CameraNote("online", 100 * SECOND)}
    assert changes(told, 130) == {} and changes(told, 131) == {"gate": CameraNote("silent", 131 * SECOND)}
    assert changes({"gate": CameraNote("silent", 110 * SECOND)}, 120) == {}


# --- retries, crashes


def test_what_is_not_taken_is_sent_again_under_the_same_number(
    catalogue: cat.Catalogue, tmp_path: Path
) -> None:
    with receiving(lambda number: 500 if number <= 3 else 200) as receiver:
        site = Site(catalogue, receiver.url, tmp_path, events=("detection",))
        site.see(1, "cat")
        site.turn()
        for after in (0.1, 1.1, 2.1, 4.1):
            site.turn(after_seconds=after)
        assert receiver.requests == 4
        assert len({message["id"] for message in (*receiver.refused, *receiver.taken)}) == 1
        assert deliveries.count_waiting(catalogue, "hook", 10) == 0


def test_a_message_that_nobody_takes_holds_no_other_up_for_long(
    catalogue: cat.Catalogue, tmp_path: Path
) -> None:
    with receiving(lambda number: 500 if number == 1 else 200) as receiver:
        site = Site(catalogue, receiver.url, tmp_path, events=("detection",), once_per_object=False)
        for seq in range(3):
            site.see(seq, "cat")
        site.turn()
        site.turn(after_seconds=0.4)
        assert receiver.requests == 1
        site.turn(after_seconds=0.7)
        assert len(receiver.taken) == 3


def test_pauses_double_up_to_a_quarter_of_an_hour() -> None:
    assert [pause_seconds(n, 1.0) for n in (0, 1, 2, 9, 10, 500)] == [1, 2, 4, 512, 900, 900]
    assert pause_seconds(3, 0.0) == 4


def test_a_crash_after_the_receiver_had_it_repeats_it_and_loses_nothing(
    site: Site, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def dies(*_: object, **__: object) -> None:
        raise Killed

    site.see(1, "cat")
    for name in ("move_on", "end_delivery"):
        with monkeypatch.context() as patch:
            patch.setattr(deliveries, name, dies)
            with pytest.raises(Killed):
                site.turn()
        site.turns = site.new_turns()  # the next process
    site.turn()
    told = [message["id"] for message in receiver.taken if message["type"] == "detection.stored"]
    assert len(told) == 2 and len(set(told)) == 1


def test_another_sender_that_moved_on_meanwhile_is_noticed(site: Site, receiver: Receiver) -> None:
    before = deliveries.cursor_of(site.catalogue, "hook")
    assert not deliveries.move_on(site.catalogue, "hook", "1-0-0-7", "9-0-0-9", [], {}, now_ns=1)
    assert deliveries.cursor_of(site.catalogue, "hook") == before


def test_a_full_queue_waits_in_the_catalogue(catalogue: cat.Catalogue, tmp_path: Path) -> None:
    with receiving(lambda _number: 503) as receiver:
        site = Site(
            catalogue, receiver.url, tmp_path, events=("detection",), once_per_object=False, max_waiting=2
        )
        for seq in range(4):
            site.see(seq, "cat")
            site.turn()
        assert deliveries.count_waiting(catalogue, "hook", 100) == 2
        receiver.status = lambda _number: 200
        for _ in range(4):
            site.turn(after_seconds=5)
        assert [message["data"]["detection"]["frame_id"] for message in receiver.taken] == [1, 2, 3, 4]


def test_one_process_sends_and_another_takes_over(catalogue: cat.Catalogue) -> None:
    def take(owner: str, now: int) -> bool:
        return deliveries.take_sender(catalogue, "notify", owner, lease_seconds=30, now_ns=now * SECOND)

    assert take("a", 0) and not take("b", 29) and take("a", 29) and not take("b", 58) and take("b", 60)
    assert not take("a", 61)
    deliveries.release_sender(catalogue, "notify", "a")  # not its own
    assert not take("a", 62)
    deliveries.release_sender(catalogue, "notify", "b")
    assert take("a", 63)


# --- the dead-letter list


def test_the_dead_letter_list_and_its_commands(
    catalogue: cat.Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str], catalogue_url: str
) -> None:
    def ask(*words: str) -> str:
        assert main(["webhooks", *words, "--catalogue", catalogue_url]) == 0
        return capsys.readouterr().out

    with receiving(lambda _number: 410) as receiver:
        site = Site(catalogue, receiver.url, tmp_path, events=("detection",), once_per_object=False)
        site.see(1, "cat")
        site.see(2, "cat")
        site.turn()
        site.turn(after_seconds=3601)
        site.turn(after_seconds=3601)
        assert ask("list").split() == ["hook", "0", "waiting", "2", "dead", "it", "answered", "410"]
        lines = [json.loads(line) for line in ask("dead", "--receiver", "hook").splitlines()]
        assert [line["number"] for line in lines] == [2, 1] and lines[0]["error"] == "it answered 410"
        assert lines[1]["id"] == receiver.refused[0]["id"] and ask("dead", "--receiver", "other") == ""
        asked = receiver.requests
        site.turn(after_seconds=9000)
        assert receiver.requests == asked
        receiver.status = lambda _number: 200
        assert ask("retry", "1") == "1 will be sent again\n" and ask("drop", "--all") == "1 thrown away\n"
        site.turn(after_seconds=1)
        assert receiver.ids() == [lines[1]["id"]]
        for words in (["retry"], ["drop", "1", "--all"]):
            assert main(["webhooks", *words, "--catalogue", catalogue_url]) == 1


def test_the_dead_letter_list_is_bounded(
    catalogue: cat.Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(lambda _number: 500) as receiver:
        site = Site(catalogue, receiver.url, tmp_path, events=("detection",), once_per_object=False)
        site.turns = site.new_turns(max_dead=2)
        for seq in range(4):
            site.see(seq, "cat")
        site.turn()
        for _ in range(4):
            site.turn(after_seconds=3601)
        assert [one.id for one in deliveries.list_dead(catalogue)] == [4, 3]
        assert "threw away the 1 oldest" in caplog.text


# --- signatures and settings


def test_signatures() -> None:
    key, body = parse_secret(SECRET), b'{"type":"x"}'
    headers = signed_headers(key, "id-1", int(time.time()), body)
    assert secondlook.verify_webhook(body, headers, SECRET) == {"id": "id-1", "type": "x"}
    titled = {name.title(): value for name, value in headers.items()}
    assert secondlook.verify_webhook(body, titled, SECRET)["id"] == "id-1"
    both = {**headers, "webhook-signature": f"v1,AAAA {headers['webhook-signature']}"}
    assert secondlook.verify_webhook(body, both, SECRET)["id"] == "id-1"
    old = signed_headers(key, "id-1", int(time.time()) - 301, body)
    forged = [
        (body + b" ", headers),
        (body, {**headers, "webhook-id": "id-2"}),
        (body, {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}),
        (body, {**headers, "webhook-timestamp": "soon"}),
        (body, {**headers, "webhook-signature": "v1,"}),
        (body, {}),
        (body, old),
    ]
    for data, given in forged:
        with pytest.raises(SignatureRefused):
            secondlook.verify_webhook(data, given, SECRET)
    # As the standard's own example has it.
    known = base64.b64decode("plJ3nmyCDGBKInavdOK15jsl")
    signed = signed_headers(
        known, "msg_loFOjxBNrRLzqYUf", 1731705121, b'{"event_type":"ping","data":{"success":true}}'
    )
    assert signed["webhook-signature"] == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


def test_settings_of_webhooks(tmp_path: Path) -> None:
    secret_file(tmp_path)
    file = tmp_path / "cloud.toml"
    hook = '[[webhook]]\nname = "a"\nurl = "https://example.org/x"\nsecret_file = "hook.secret"\n'
    file.write_text(hook + hook.replace('"a"', '"b"') + 'labels = ["person"]\n')
    config = load(file, CloudConfig)
    assert [one.name for one in config.webhook] == ["a", "b"] and config.webhook[1].labels == ("person",)
    assert config.webhook[0].secret_file == tmp_path / "hook.secret"
    for text, why in (
        (hook + hook, "webhook: two are named a"),
        (hook + "colour = 1\n", r"cloud.toml: unknown setting webhook\[0\].colour"),
        (
            hook + "min_score = 2\n",
            r"cloud.toml: webhook\[0\].min_score is 2, it must be a number from 0 to 1",
        ),
        (hook + 'events = ["x"]\n', r"webhook\[0\].events: 'x' is none of detection"),
        ('[[webhook]]\nname = "a"\n', r"cloud.toml: setting webhook\[0\].url is missing"),
        (hook.replace("https://", "ftp://"), r"webhook\[0\].url: .* is not as https://name/path"),
        (hook.replace("https://", "https://u:p@"), "no user and password in it"),
        ("webhook = 3\n", "webhook must be a list"),
        ("webhook = [3]\n", r"webhook\[0\] must be a table"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=why):
            load(file, CloudConfig)
    from_environment = json.dumps([{"name": "c", "url": "http://h/", "secret_file": "s"}])
    assert load(None, CloudConfig, {}, {"SECONDLOOK_WEBHOOK": from_environment}).webhook[0].name == "c"


def test_secrets_that_cannot_be_used(tmp_path: Path) -> None:
    path = secret_file(tmp_path)
    config = WebhookConfig(name="a", url="http://h/", secret_file=path)
    path.chmod(0o644)
    with pytest.raises(SecretExposed):
        Webhook(config)
    path.chmod(0o600)
    for text in ("", "whsec_", "whsec_AAAA", SECRET.removeprefix("whsec_"), "whsec_!"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="a secret of a webhook is whsec_"):
            Webhook(config)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        Webhook(config)


def test_a_receiver_that_is_away_or_sends_elsewhere(catalogue: cat.Catalogue, tmp_path: Path) -> None:
    config = WebhookConfig(name="a", url="http://127.0.0.1:1/", secret_file=secret_file(tmp_path))
    message = deliveries.Message("u", "x.y", "{}")
    hook = Webhook(config)
    with pytest.raises(DeliveryFailed, match="refused"):
        hook.send(message)
    hook.close()
    with receiving(lambda _number: 302) as receiver:
        hook = Webhook(WebhookConfig(name="a", url=receiver.url, secret_file=config.secret_file))
        with pytest.raises(DeliveryFailed, match="it answered 302"):
            hook.send(message)
        hook.close()


# --- the process


def test_each_sink_has_its_turns(catalogue: cat.Catalogue, receiver: Receiver, tmp_path: Path) -> None:
    """One receiver is away, the other is not held up."""
    path = secret_file(tmp_path)
    hooks = [
        Webhook(WebhookConfig(name=name, url=url, secret_file=path, events=("detection",)))
        for name, url in (("away", "http://127.0.0.1:1/"), ("here", receiver.url))
    ]
    stop = threading.Event()
    config = NotifyConfig(interval_seconds=0.05)
    notifier = Notifier(catalogue, hooks, config, owner="me", stop=stop)
    thread = threading.Thread(target=notifier.run)
    thread.start()
    wait_until(lambda: all(deliveries.cursor_of(catalogue, one.name) for one in hooks))
    for seq in range(5):
        cat.store_frame(
            catalogue, frame(seq, captured_ns=seq * HOUR), [box()], detector="t", reasons=[], now_ns=seq
        )
    wait_until(lambda: len(receiver.taken) == 5)
    wait_until(lambda: deliveries.count_waiting(catalogue, "away", 100) == 5)
    stop.set()
    thread.join(20)
    assert deliveries.take_sender(catalogue, "notify", "another", lease_seconds=1, now_ns=time.time_ns())
    for hook in hooks:
        hook.close()


def test_processes_that_are_killed_lose_nothing(tmp_path: Path, receiver: Receiver) -> None:
    url = f"sqlite:///{tmp_path}/catalogue.db"
    catalogue = cat.open_catalogue(url)
    cat.store_frame(catalogue, frame(0), [], detector="t", reasons=[], now_ns=time.time_ns())
    secret_file(tmp_path)
    file = tmp_path / "cloud.toml"
    file.write_text(
        f'catalogue = "{url}"\n[notify]\ninterval_seconds = 0.02\n[[webhook]]\nname = "hook"\nurl = "{receiver.url}"\n'
        'secret_file = "hook.secret"\nevents = ["detection"]\nonce_per_object = false\n'
    )
    command = [sys.executable, "-m", "secondlook", "notify", "--config", str(file)]
    seq = 0
    for kill in (True, True, False):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        with process:
            wait_until(lambda: deliveries.cursor_of(catalogue, "hook") is not None, 30)
            before = len(receiver.taken)
            for _ in range(40):
                seq += 1
                cat.store_frame(
                    catalogue, frame(seq), [box()], detector="t", reasons=[], now_ns=time.time_ns()
                )
            if kill:
                wait_until(lambda mark=before: len(receiver.taken) > mark + 5, 30)  # type: ignore[misc]
                process.kill()
                # The next one need not wait for the lease of one that is dead.
                with catalogue.writing() as session:
                    session.execute(update(deliveries.Sender).values(until_ns=0))
            else:
                wait_until(lambda: len(frames_told(receiver)) == 120, 30)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
    with catalogue.reading() as session:
        stored = set(session.scalars(select(table_of(cat.DetectedBox).c.frame_id)))
    catalogue.close()
    assert frames_told(receiver) == stored and len(stored) == 120
    assert len(set(receiver.ids())) == 120  # what came twice came under the same number


def frames_told(receiver: Receiver) -> set[int]:
    with receiver.lock:
        return {message["data"]["detection"]["frame_id"] for message in receiver.taken}
