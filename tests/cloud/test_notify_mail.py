"""`secondlook notify` by e-mail: what mails say, cool-downs that hold over a crash, the dead-letter list."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondlook.cloud import catalogue as cat
from secondlook.cloud.catalogue import deliveries
from secondlook.cloud.catalogue.feed import EventKind
from secondlook.cloud.config import CloudConfig
from secondlook.cloud.notify.mail import Email, mail_of
from secondlook.cloud.notify.sender import Turns
from secondlook.cloud.receivers import EmailConfig, NotifyConfig
from secondlook.main import main
from secondlook.shared.config import load
from secondlook.shared.errors import ConfigError
from secondlook.shared.mail import SmtpConfig
from tests.cloud.mailserver import MailServer, taking_mail
from tests.cloud.test_catalogue import SECOND, box, frame

TO = ("ann@example.org",)


@pytest.fixture
def server() -> Iterator[MailServer]:
    with taking_mail() as server:
        yield server


@pytest.fixture
def catalogue(catalogue_url: str) -> Iterator[cat.Catalogue]:
    opened = cat.open_catalogue(catalogue_url)
    yield opened
    opened.close()


class Site:
    """One table [[email]], and turns of it at times that the test says."""

    def __init__(self, catalogue: cat.Catalogue, server: MailServer, **options: object) -> None:
        self.catalogue, self.now_ns = catalogue, time.time_ns()
        smtp = SmtpConfig(
            host="127.0.0.1", port=server.port, security="none", sender="s@example.org", timeout_seconds=5.0
        )
        self.sink = Email(EmailConfig(name="people", to=TO, **options), smtp)  # type: ignore[arg-type]
        self.begin_anew()
        self.turn()

    def begin_anew(self) -> None:
        """As another process does."""
        config = NotifyConfig(give_up_hours=1)
        self.turns = Turns(
            self.catalogue, self.sink, config, stop=threading.Event(), now_ns=lambda: self.now_ns
        )

    def turn(self, after_seconds: float = 0.0) -> None:
        self.now_ns += int(after_seconds * SECOND)
        while self.turns.turn():
            pass

    def see(self, seq: int, label: str = "person", edge_id: str = "gate") -> None:
        seen = frame(seq, captured_ns=seq * 3600 * SECOND)
        if edge_id != seen.edge_id:
            seen = type(seen)(**{**vars(seen), "edge_id": edge_id})
        cat.store_frame(self.catalogue, seen, [box(label, 0.9)], detector="t", reasons=[], now_ns=self.now_ns)


def subjects(server: MailServer) -> list[str]:
    return [str(mail["Subject"]) for _, mail in server.taken]


def test_what_people_are_mailed(catalogue: cat.Catalogue, server: MailServer) -> None:
    site = Site(catalogue, server, station="https://review.example.org/")
    site.see(1)
    site.turn()
    assert sorted(subjects(server)) == [
        "[secondlook] camera yard is online",
        "[secondlook] person at gate (0.90)",
    ]
    assert all(addresses == list(TO) for addresses, _ in server.taken)
    (detection,) = (mail for _, mail in server.taken if "person" in mail["Subject"])
    text = detection.get_content()
    assert "score           0.9\n" in text and "camera          gate\n" in text
    assert text.endswith("\nhttps://review.example.org/frames/1\n")
    site.turn(after_seconds=301)
    assert subjects(server)[-1] == "[secondlook] camera yard is silent"


def test_a_cool_down_of_a_camera_and_class(catalogue: cat.Catalogue, server: MailServer) -> None:
    site = Site(catalogue, server, events=("detection",), cooldown_seconds=600)
    for seq in range(1, 4):
        site.see(seq)
        site.turn(after_seconds=10)
    site.see(4, "car")
    site.see(5, edge_id="yard")
    site.turn()
    assert subjects(server) == [
        f"[secondlook] {one} (0.90)" for one in ("person at gate", "car at gate", "person at yard")
    ]
    site.see(6)
    site.turn(after_seconds=600)
    assert "2 more like it were not mailed meanwhile" in server.taken[-1][1].get_content()
    site.see(7)
    site.begin_anew()  # which has forgotten, and rather tells once more
    site.turn()
    assert len(server.taken) == 5


def test_a_crash_before_the_queue_has_it_keeps_no_mail_back(
    catalogue: cat.Catalogue, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(catalogue, server, events=("detection",), cooldown_seconds=600)
    site.see(1)
    with monkeypatch.context() as patch:
        patch.setattr(
            deliveries, "move_on", lambda *_, **__: False
        )  # another process was faster, or none was
        site.turns._collect()
    site.turn()
    assert len(server.taken) == 1


def test_mails_that_nobody_takes_are_dead_letters(
    catalogue: cat.Catalogue, catalogue_url: str, server: MailServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.of_mail = lambda _number: "451 later"
    site = Site(catalogue, server, events=("detection",))
    site.see(1)
    site.turn()
    site.turn(after_seconds=3601)
    (dead,) = deliveries.list_dead(catalogue)
    assert dead.sink == "people" and (dead.last_error or "").endswith(": 451 later")
    server.of_mail = lambda _number: "250 taken"
    assert main(["webhooks", "retry", "--all", "--catalogue", catalogue_url]) == 0
    capsys.readouterr()
    site.now_ns = time.time_ns() + 3600 * SECOND
    site.turn(after_seconds=3600)
    assert subjects(server) == ["[secondlook] person at gate (0.90)"]


def test_a_subject_and_a_page_for_every_kind() -> None:
    kinds = {
        "verdict.given": (
            {"verdict": "confirm", "reviewer": "ann", "review_id": 3, "camera": "gate", "note": ""},
            "confirm given by ann: review 3 of gate",
            "reviews/3",
        ),
        "comment.given": (
            {"id": 7, "author": "ann", "review_id": 3, "camera": "gate", "note": ""},
            "comment given by ann: review 3 of gate",
            "reviews/3",
        ),
        "detection.stored": (
            {"label": "person", "score": 0.9, "camera": "gate", "frame_id": 4, "note": ""},
            "person at gate (0.90)",
            "frames/4",
        ),
        "review.expired": ({"id": 3, "camera": "gate"}, "review 3 of gate expired", "reviews/3"),
        "tombstone.stored": (
            {"camera": "gate", "first_seq": 5, "last_seq": 9, "reason": "idle"},
            "frames 5 to 9 of gate were dropped: idle",
            "",
        ),
    }
    assert {kind.partition(".")[0] for kind in kinds} == set(EventKind)
    for kind, (facts, subject, page) in kinds.items():
        body = {"timestamp": "2026-01-01T00:00:00Z", "data": {kind.partition(".")[0]: facts}}
        told, text = mail_of(kind, body, "https://s")
        assert told == f"[secondlook] {subject}" and "note" not in text
        assert text.endswith(f"\nhttps://s/{page}\n") if page else "https://s" not in text


def test_settings_of_mails(tmp_path: Path) -> None:
    table = '[[email]]\nname = "a"\nto = ["ann@example.org"]\n'
    server = '[smtp]\nhost = "mail.example.org"\nsender = "s@example.org"\n'
    hook = '[[webhook]]\nname = "a"\nurl = "https://h/"\nsecret_file = "s"\n'
    file = tmp_path / "cloud.toml"
    file.write_text(table + server)
    (email,) = load(file, CloudConfig).email
    assert (email.to, email.cooldown_seconds, email.events) == (TO, 300.0, ("detection", "camera"))
    for text, why in (
        (table, r"email wants a mail server: smtp\.host"),
        (table + hook + server, "two are named a"),
        (
            table.replace("ann@example.org", "ann") + server,
            r"email\[0\]\.to: 'ann' is not as name@example.org",
        ),
        (table.replace('["ann@example.org"]', "[]") + server, r"email\[0\]\.to: nobody is named"),
        (table + 'station = "x"\n' + server, r"email\[0\]\.station 'x' does not begin"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=why):
            load(file, CloudConfig)


def test_a_password_that_cannot_be_read_ends_the_process_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cloud.toml"
    file.write_text(
        '[[email]]\nname = "a"\nto = ["ann@example.org"]\n[smtp]\nhost = "mail.example.org"\n'
        'sender = "s@example.org"\nuser = "me"\npassword_file = "none"\n'
    )
    assert main(["notify", "--config", str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("secondlook: error: smtp: ") and line.endswith("none'")
