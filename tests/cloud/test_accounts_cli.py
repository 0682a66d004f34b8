"""`secondlook users` and `secondlook tokens`: no secret among the arguments, none in messages."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from secondlook.cloud.accounts import find_token, list_users
from secondlook.cloud.accounts.passwords import password_fits
from secondlook.cloud.accounts.schema import User
from secondlook.cloud.catalogue import Catalogue, open_catalogue
from secondlook.main import main
from secondlook.shared.errors import ConfigError
from tests.reference import commands


@pytest.fixture
def secondlook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs a command; returns its status and what it said."""

    def run(*arguments: str, stdin: str = "") -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = main([*arguments, "--data-dir", str(tmp_path)])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return open_catalogue(f"sqlite:///{tmp_path}/catalogue.db")


def test_users_and_tokens_at_the_command_line(
    secondlook: Callable[..., tuple[int, str]], tmp_path: Path, catalogue: Catalogue
) -> None:
    assert secondlook("users", "add", "ann", "--role", "admin", stdin="from standard input\n") == (
        0,
        "",
    )
    status, said = secondlook("users", "add", "bob", stdin="short\n")
    assert status == 1 and "12 to 256 characters" in said
    secret = tmp_path / "password"
    secret.write_text("out of a file, here\n")
    secret.chmod(0o644)
    status, said = secondlook("users", "passwd", "ann", "--password-file", str(secret))
    assert status == 1 and "chmod 600" in said and "out of a file" not in said
    secret.chmod(0o600)
    assert secondlook("users", "passwd", "ann", "--password-file", str(secret)) == (0, "")
    with catalogue.reading() as session:
        user = session.get(User, "ann")
        assert user is not None and password_fits(user.password_hash, "out of a file, here")
    assert secondlook("users", "role", "ann", "reviewer") == (0, "")
    status, said = secondlook("tokens", "new", "ann", "--label", "x", "--role", "admin")
    assert status == 1 and "ann is no admin" in said
    status, token = secondlook("tokens", "new", "ann", "--label", "export")
    found = find_token(catalogue, token.strip(), now_ns=1)
    assert found is not None and (found.name, found.role) == ("ann", "viewer")
    _, listed = secondlook("tokens", "list")
    assert listed.split() == ["1", "viewer", "read", "ann", "export"] and token.strip() not in listed
    assert secondlook("tokens", "revoke", "1") == (0, "")
    assert find_token(catalogue, token.strip(), now_ns=1) is None
    assert secondlook("users", "remove", "ann") == (0, "")
    assert [user.removed for user in list_users(catalogue)] == [True]
    assert secondlook("users", "list") == (0, "removed   ann\n")
    catalogue.close()


def test_no_command_takes_a_secret_as_an_argument() -> None:
    for name, parser in commands().items():
        for action in parser._actions:
            words = " ".join([action.dest, *action.option_strings])
            if any(word in words for word in ("password", "secret", "token")):
                assert action.type is Path, (name, words)


def test_a_message_about_an_address_hides_its_password() -> None:
    for url in ("postgresql+nothing://me:hunter2@db/secondlook", "post gres://me:hunter2@db:x/y"):
        with pytest.raises(ConfigError) as raised:
            open_catalogue(url)
        assert "hunter2" not in str(raised.value)
