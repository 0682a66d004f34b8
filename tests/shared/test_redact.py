"""No password in any line: whatever it holds, wherever in an address it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.main import _fail
from secondlook.shared.errors import ConfigError
from secondlook.shared.redact import (
    Login,
    has_secret,
    redacted,
    redacted_address,
    refuse_on_command_line,
    split_login,
    with_login,
)

# No word of an address around it, so that finding it in a text means that it leaked.
_PASSWORDS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["C", "Z"]), min_size=1
)
SECRET = _PASSWORDS.map(lambda text: f"Zq7{text}7qZ")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://me:hush@10.0.0.1:554/x?y=1", "rtsp://me:***@10.0.0.1:554/x?y=1"),
        ("rtsp://me:hu#sh@h/x", "rtsp://me:***@h/x"),
        ("rtsp://me:hu/s?h@h/x", "rtsp://me:***@h/x"),
        ("rtsp://me:hu[sh@h/x", "rtsp://me:***@h/x"),
        ("rtsp://me:a@b@h/x", "rtsp://me:***@h/x"),
        ("rtsp://h/user=admin&password=hush&channel=1", "rtsp://h/user=admin&password=***&channel=1"),
        ("rtsp://h/user=admin_password=hush_channel=1.sdp", "rtsp://h/user=admin_password=***"),
        ("http://h/a.cgi?user=me&pwd=hush", "http://h/a.cgi?user=me&pwd=***"),
        ("http://h/a.cgi?user=me&pwd=hu#s/h?&x=1", "http://h/a.cgi?user=me&pwd=***&x=1"),
        (
            "http://h/a.cgi?loginuse=me&loginPas=x&PASSWD=hush",
            "http://h/a.cgi?loginuse=me&loginPas=x&PASSWD=***",
        ),
        ("http://h/a?token=hush", "http://h/a?token=***"),
        ("rtsp://admin@h/x", "rtsp://admin@h/x"),
        ("https://hush@h/x", "https://***@h/x"),
        ("postgresql://me@db/x", "postgresql://me@db/x"),
        ("file:///home/a@b/c:d@e.mp4", "file:///home/a@b/c:d@e.mp4"),
        ("demo:", "demo:"),
        ("/home/me/a@b.mp4", "/home/me/a@b.mp4"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_what_is_shown(address: str, shown: str) -> None:
    assert redacted(address) == redacted_address(address) == shown
    assert redacted(shown) == redacted_address(shown) == shown
    assert has_secret(address) == (address != shown)


@given(SECRET, st.sampled_from(["rtsp", "http", "nats", "postgresql+psycopg", "s3"]))
def test_no_login_survives(password: str, scheme: str) -> None:
    address = f"{scheme}://me:{password}@camera:554/path?x=1"
    for shown in (redacted_address(address), redacted(address), redacted(f"cannot open {address}: refused")):
        assert "Zq7" not in shown and "7qZ" not in shown
        assert "camera:554/path?x=1" in shown
    assert has_secret(address)


@given(
    SECRET.filter(lambda text: "&" not in text),
    st.sampled_from(["password", "pwd", "passwd", "Pass", "token", "user_password", "sslpassword"]),
    st.sampled_from(["?user=me&", "/user=me&", "?", "/a;"]),
)
def test_no_option_survives(password: str, key: str, before: str) -> None:
    address = f"rtsp://camera{before}{key}={password}&channel=1"
    shown = redacted_address(address)
    assert "Zq7" not in shown and "7qZ" not in shown and shown.endswith(f"{key}=***&channel=1")


@given(st.text(max_size=200))
def test_any_text_is_taken_and_hiding_is_done_once(text: str) -> None:
    for hide in (redacted, redacted_address):
        once = hide(text)
        assert hide(once) == once


def test_hiding_takes_no_time() -> None:
    for text in ("a_" * 50_000, "a://" * 20_000, "password=" * 10_000, "=" * 100_000, "a://" + "@" * 50_000):
        redacted(text)
        redacted_address(text)


@given(st.text(min_size=1), st.text())
def test_a_login_goes_into_an_address_and_comes_out_again(user: str, password: str) -> None:
    login = Login(user.encode("utf-8", "ignore").decode() or "u", password.encode("utf-8", "ignore").decode())
    address = with_login("rtsp://old:one@camera:554/path?x=1#y", login)
    assert split_login(address) == ("rtsp://camera:554/path?x=1#y", login)
    assert address.count("@") == 1


@pytest.mark.parametrize(
    ("address", "plain", "login"),
    [
        ("rtsp://camera/x", "rtsp://camera/x", None),
        ("rtsp://[::1]:554/x@y", "rtsp://[::1]:554/x@y", None),
        ("http://camera:80/a@b", "http://camera:80/a@b", None),
        ("rtsp://me:a#b@camera/x", "rtsp://camera/x", Login("me", "a#b")),
        ("rtsp://me:a/b?c@camera:554/x@y", "rtsp://camera:554/x@y", Login("me", "a/b?c")),
        ("rtsp://me:a@b@[::1]/x", "rtsp://[::1]/x", Login("me", "a@b")),
        ("rtsp://me:a%23b@camera/x", "rtsp://camera/x", Login("me", "a#b")),
        ("rtsp://me@camera", "rtsp://camera", Login("me", "")),
        ("demo:", "demo:", None),
    ],
)
def test_logins_are_taken_out_of_addresses(address: str, plain: str, login: Login | None) -> None:
    assert split_login(address) == (plain, login)


def test_the_last_line_of_a_command_tells_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert _fail(ConfigError("cannot open rtsp://me:hu#sh@camera/x\nor so")) == 1
    assert capsys.readouterr().err == "secondlook: error: cannot open rtsp://me:***@camera/x or so\n"


def test_a_command_line_holds_no_password() -> None:
    refuse_on_command_line("--source", "rtsp://camera/x", "")
    refuse_on_command_line("--source", None, "")
    with pytest.raises(ConfigError, match="--source: everybody can read a command line; do that") as error:
        refuse_on_command_line("--source", "rtsp://me:hush@camera/x", "do that")
    assert "hush" not in str(error.value)
