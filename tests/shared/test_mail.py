"""E-mail by SMTP: what is handed in, log-ins, TLS, servers that refuse, are silent or away."""

from __future__ import annotations

import logging
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from secondlook.shared.errors import ConfigError, DeliveryFailed, SecretExposed
from secondlook.shared.mail import Mailer, SmtpConfig, one_line
from tests.cloud.mailserver import MailServer, certificate, taking_mail

TO = ("ann@example.org", "rolf@example.org")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def smtp(port: int, **more: Any) -> SmtpConfig:
    settings = {"security": "none", "timeout_seconds": 5.0, "sender": "secondlook@example.org"} | more
    return SmtpConfig(host="127.0.0.1", port=port, **settings)


def password(folder: Path, text: str = "open sesame\n") -> Path:
    path = folder / "password"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_mail_as_it_arrives() -> None:
    with taking_mail() as server:
        Mailer(smtp(server.port)).send(TO, "Tür\r\nBcc: x@example.org", "Grüße\n", "u-1")
    ((addresses, mail),) = server.taken
    assert addresses == list(TO)
    assert mail["Subject"] == "Tür Bcc: x@example.org" and mail["Bcc"] is None
    assert (mail["From"], mail["To"]) == ("secondlook@example.org", ", ".join(TO))
    assert mail["Message-ID"] == "<u-1@example.org>" and mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content() == "Grüße\n"


@needs_openssl
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_password_goes_over_tls_only(tmp_path: Path, security: str) -> None:
    ca_file, context = certificate(tmp_path)
    settings = {"security": security, "user": "me", "password_file": password(tmp_path)}
    with taking_mail(b"open sesame", context, implicit=security == "tls") as server:
        Mailer(smtp(server.port, ca_file=ca_file, **settings)).send(TO, "s", "t", "u")
        assert server.logins == [(b"me", b"open sesame")] and len(server.taken) == 1
        with pytest.raises(DeliveryFailed, match="certificate verify failed"):
            Mailer(smtp(server.port, **settings)).send(TO, "s", "t", "u")
        wrong = password(tmp_path, "sesame")
        with pytest.raises(DeliveryFailed, match="535 "):
            Mailer(smtp(server.port, ca_file=ca_file, **{**settings, "password_file": wrong})).check()
    assert len(server.taken) == 1


def test_a_server_without_tls_gets_nothing_where_tls_is_asked_for() -> None:
    with taking_mail() as server:
        with pytest.raises(DeliveryFailed, match="STARTTLS"):
            Mailer(smtp(server.port, security="starttls")).send(TO, "s", "t", "u")
        assert server.tried == 0


def refuses(server: MailServer, *addresses: str) -> None:
    server.of_address = lambda one: "550 nobody of that name" if one in addresses else "250 taken"


def test_who_is_refused_keeps_no_other_from_the_mail(caplog: pytest.LogCaptureFixture) -> None:
    with taking_mail() as server, caplog.at_level(logging.WARNING):
        refuses(server, TO[0])
        Mailer(smtp(server.port)).send(TO, "s", "t", "u")
        assert [addresses for addresses, _ in server.taken] == [[TO[1]]]
        assert f"does not take mail for {TO[0]}: 550 nobody of that name" in caplog.text
        refuses(server, *TO)
        with pytest.raises(DeliveryFailed, match="no address is taken: 550 nobody of that name"):
            Mailer(smtp(server.port)).send(TO, "s", "t", "u")


def test_a_server_that_is_away_or_silent_or_busy() -> None:
    with pytest.raises(DeliveryFailed, match=r"127\.0\.0\.1:1: .*refused"):
        Mailer(smtp(1)).send(TO, "s", "t", "u")
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(DeliveryFailed, match="timed out"),
    ):
        Mailer(smtp(silent.getsockname()[1], timeout_seconds=0.2)).send(TO, "s", "t", "u")
    with taking_mail() as server:
        server.of_mail = lambda _number: "451 come back later"
        with pytest.raises(DeliveryFailed, match="451 come back later"):
            Mailer(smtp(server.port)).send(TO, "s", "t", "u")


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    for more, why in (
        ({"sender": ""}, "sender: '' is not as name@example.org"),
        ({"sender": "a@b\nc"}, "sender"),
        ({"user": "me"}, "user and password_file go together"),
        ({"port": 0}, "port is 0"),
        ({"security": "ssl"}, "security"),
    ):
        with pytest.raises(ConfigError, match=why):
            smtp(**{"port": 25} | more)
    with pytest.raises(ConfigError, match="in the clear"):
        SmtpConfig(host="mail.example.org", sender="a@b", user="me", password_file=tmp_path, security="none")
    path = password(tmp_path)
    config = smtp(25, user="me", password_file=path)
    path.chmod(0o644)
    with pytest.raises(SecretExposed):
        Mailer(config)
    path.unlink()
    with pytest.raises(ConfigError, match=r"smtp: .*No such file"):
        Mailer(config)
    with pytest.raises(ConfigError, match=r"smtp\.host"):
        Mailer(SmtpConfig())


def test_a_subject_is_one_line_of_bounded_length() -> None:
    assert one_line("a\r\n\tb\x00c " + 300 * "x") == "a b c " + 194 * "x"
