"""Addresses with passwords: how they are read, shown, and where they may stand."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.cloud.catalogue import open_catalogue
from secondlook.cloud.storage.addresses import NatsAddress, has_secret, parse_nats, redacted
from secondlook.main import main
from secondlook.shared.errors import ConfigError, StoreUnavailable


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("nats://broker:4222/site", "nats://broker:4222/site"),
        ("nats://me:hush@broker/site", "nats://me:***@broker/site"),
        ("nats://token@broker", "nats://***@broker"),
        ("tls://me:a@b:c@one,two:1/x", "tls://me:***@one,two:1/x"),
        (
            "postgresql+psycopg://me:hush@db/x?sslmode=require",
            "postgresql+psycopg://me:***@db/x?sslmode=require",
        ),
        ("postgresql+psycopg://db/x?user=me&password=hush", "postgresql+psycopg://db/x?user=me&password=***"),
        ("cannot use 'nats://me:hush@h' here", "cannot use 'nats://me:***@h' here"),
        ("sqlite:////var/lib/x.db", "sqlite:////var/lib/x.db"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    assert redacted(address) == shown
    assert redacted(shown) == shown
    assert has_secret(address) == (address != shown)


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("postgresql+psycopg://me@db/x", False),
        ("postgresql+psycopg://me:@db/x", False),
        ("postgresql+psycopg://me@db/x?sslmode=require", False),
        ("postgresql+psycopg://me@db/x?password=hush", True),
        ("postgresql+psycopg://me:hu/sh@db/x", True),
        ("postgresql+psycopg://me:hu?sh#@db/x", True),
        ("s3://key:hush@bucket/prefix", True),
        ("nats://token@broker", True),
        ("sqlite:////data/a:b@c.db", False),
    ],
)
def test_a_name_alone_is_no_secret(address: str, secret: bool) -> None:
    assert has_secret(address) == secret


@given(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=4))
def test_no_password_survives(password: str) -> None:
    address = f"nats://me:{quote(password, safe='')}@broker/site"
    assert redacted(address) == "nats://me:***@broker/site"
    assert parse_nats(address).password == password


def test_nats_addresses() -> None:
    assert parse_nats("nats://broker") == NatsAddress(
        ("nats://broker:4222",), False, None, None, "secondlook"
    )
    assert parse_nats("tls://u:p%40@a:1,b,[::1]:5/site-1") == NatsAddress(
        ("tls://a:1", "tls://b:4222", "tls://[::1]:5"), True, "u", "p@", "site-1"
    )


def test_a_password_must_not_stand_on_a_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, flag, address in (
        ("gateway", "--queue", "nats://me:hush@broker"),
        ("gateway", "--ledger", "postgresql+psycopg://me:hush@db/x"),
        ("worker", "--catalogue", "postgresql+psycopg://me:hush@db/x"),
        ("station", "--catalogue", "postgresql+psycopg://db/x?password=hush"),
    ):
        assert main([command, "--data-dir", str(tmp_path), flag, address]) == 1
        told = capsys.readouterr().err
        assert flag in told and "--config" in told and "hush" not in told


def test_a_file_with_a_password_must_not_be_open_to_everybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cloud.toml"
    file.write_text('catalogue = "postgresql+psycopg://me:hush@127.0.0.1:1/x"\n')
    file.chmod(0o644)
    assert main(["station", "--config", str(file), "--port", "0"]) == 1
    assert f"others may read {file}" in capsys.readouterr().err
    file.chmod(0o600)
    assert main(["station", "--config", str(file), "--port", "0"]) == 1
    told = capsys.readouterr().err
    assert "no answer" in told and "hush" not in told


def test_a_password_in_the_environment_leaves_the_file_open_to_everybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cloud.toml"
    file.write_text("")
    file.chmod(0o644)
    monkeypatch.setenv("SECONDLOOK_CATALOGUE", "postgresql+psycopg://me:hush@127.0.0.1:1/x")
    assert main(["station", "--config", str(file), "--port", "0"]) == 1
    told = capsys.readouterr().err
    assert "no answer" in told and "hush" not in told


def test_errors_about_a_catalogue_tell_no_password() -> None:
    for url in (
        "postgresql+nodriver://me:hush@db/x",
        "oracle://me:hush@db/x",
        "postgresql+psycopg://me:hush@db:x/y",
    ):
        with pytest.raises(ConfigError) as error:
            open_catalogue(url)
        assert "hush" not in str(error.value)
    with pytest.raises(StoreUnavailable) as silence:
        open_catalogue("postgresql+psycopg://me:hush@127.0.0.1:1/x")
    assert "hush" not in str(silence.value)
