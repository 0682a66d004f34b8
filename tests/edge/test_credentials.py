"""User and password of a source: not on a command line, and from files that nobody else may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondlook.edge.config import SourceConfig
from secondlook.edge.source.credentials import VARIABLE, with_credentials
from secondlook.main import main
from secondlook.shared.errors import ConfigError, SecretExposed


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "address", ["rtsp://me:hush@camera/x", "rtsp://me:hu#sh@camera/x", "http://camera/x?user=me&pwd=hush"]
)
@pytest.mark.parametrize("command", ["edge", "demo"])
def test_a_password_must_not_stand_on_a_command_line(
    capsys: pytest.CaptureFixture[str], command: str, address: str
) -> None:
    identity = ["--edge-id", "gate"] if command == "edge" else []
    assert main([command, *identity, "--source", address]) == 1
    told = capsys.readouterr().err
    assert "--source: everybody can read a command line" in told and told.count("\n") == 1
    assert "hush" not in told and "hu#sh" not in told


def test_a_file_with_a_password_must_be_private(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f'edge_id = "gate"\ndata_dir = "{tmp_path}/edge"\n[source]\naddress = "rtsp://me:hush@127.0.0.1:9/x"\n'
    file = private(tmp_path / "edge.toml", text, 0o644)
    assert main(["edge", "--config", str(file)]) == 1
    assert f"others may read {file}" in capsys.readouterr().err
    with pytest.raises(SecretExposed):
        with_credentials(
            SourceConfig("rtsp://c/x", credentials_file=private(tmp_path / "c", "me:hush", 0o640)), None, {}
        )


def test_credentials_come_from_file_environment_or_systemd(tmp_path: Path) -> None:
    file = private(tmp_path / "source-credentials", "me:p#a/s:s@\n")
    expected = "rtsp://me:p%23a%2Fs%3As%40@camera/x"
    plain = SourceConfig("rtsp://camera/x")
    given = SourceConfig("rtsp://old:one@camera/x", credentials_file=file)
    assert with_credentials(given, None, {}).address == expected
    assert with_credentials(plain, None, {VARIABLE: "me:p#a/s:s@"}).address == expected
    assert with_credentials(plain, None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).address == expected
    assert with_credentials(plain, None, {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) == plain
    assert with_credentials(plain, None, {}) == plain
    demo = SourceConfig("demo:")
    assert with_credentials(demo, None, {VARIABLE: "me:hush"}) == demo


@pytest.mark.parametrize("text", ["", "me", ":hush", "me:hu\nsh"])
def test_credentials_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    source = SourceConfig("rtsp://camera/x", credentials_file=private(tmp_path / "c", text))
    with pytest.raises(ConfigError, match="USER:PASSWORD"):
        with_credentials(source, None, {})


def test_credentials_for_a_file_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only a source that is an address"):
        with_credentials(SourceConfig("a.mp4", credentials_file=private(tmp_path / "c", "me:hush")), None, {})
    with pytest.raises(ConfigError, match="cannot read credentials_file"):
        with_credentials(SourceConfig("rtsp://c/x", credentials_file=tmp_path / "none"), None, {})


def test_a_configuration_that_is_gone_meanwhile_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot read .*gone\.toml: No such file"):
        with_credentials(SourceConfig("rtsp://me:hush@camera/x"), tmp_path / "gone.toml", {})
