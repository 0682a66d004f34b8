"""The command line as a whole: groups, defaults, completion, and settings from the environment."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from secondlook.edge.config import EdgeConfig
from secondlook.main import GROUPS, build_parser, main
from tests.reference import commands


def test_help_lists_every_command_in_one_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    listed = [name for names in GROUPS.values() for name in names]
    known = {command for command in commands() if " " not in command}
    assert sorted(listed) == sorted(known)
    for title in GROUPS:
        assert f"\n{title}:\n" in text
    for name in known:
        assert text.count(f"\n  {name} ") == 1


def test_every_flag_with_a_default_shows_it() -> None:
    for name, parser in commands().items():
        for action in parser._actions:
            has_default = action.default not in (None, False, argparse.SUPPRESS, [], ()) or (
                action.default == 0 and action.default is not False
            )
            if action.option_strings and action.nargs != 0 and has_default:
                assert "default" in (action.help or ""), (name, action.option_strings)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("worker", ("(default: auto)", "(default: lite)", "(default: 0)", "(default: data/cloud)")),
        ("edge", (f"(default: {EdgeConfig.data_dir})", "(default: 16)", "(default: 40)", "(default: 1)")),
        ("station", ("(default: 7600)", "(default: 127.0.0.1)")),
    ],
)
def test_flags_of_settings_show_the_defaults_of_those(
    command: str, shown: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    for part in shown:
        assert part in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="the completion extra is not installed")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("gateway", "listen-workers", "completion"):
        assert word in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_completes_commands_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="the completion extra is not installed")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "secondlook.bash"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in words)
        program = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{' '.join(words)}'; "
            'compopt() { :; }; _shtab_secondlook; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", program], text=True, capture_output=True, check=True)
        return set(done.stdout.split())

    assert "gateway" in completed("secondlook", "gat")
    assert completed("secondlook", "worker", "--det") == {"--detector"}


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "pip install 'secondlook[completion]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name", "complaint"),
    [
        (
            ["worker"],
            "SECONDLOOK_WORKER__THREADS",
            "SECONDLOOK_WORKER__THREADS: worker.threads must be an integer",
        ),
        (
            ["edge"],
            "SECONDLOOK_EDGE_CODEC__THREADS",
            "SECONDLOOK_EDGE_CODEC__THREADS: codec.threads must be an",
        ),
        (
            ["station"],
            "SECONDLOOK_STATION__PROT",
            "no setting has this variable; did you mean SECONDLOOK_STATION__P",
        ),
        (
            ["users", "list"],
            "SECONDLOOK_DATADIR",
            "no setting has this variable; did you mean SECONDLOOK_DATA_DIR?",
        ),
    ],
)
def test_the_environment_reaches_every_role(
    command: list[str],
    name: str,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, "many")
    flags = ["--edge-id", "gate", "--source", "demo:"] if command == ["edge"] else []
    assert main([*command, *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_flags_win_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECONDLOOK_DATA_DIR", str(tmp_path / "variable"))
    assert main(["users", "list"]) == 0
    assert main(["users", "list", "--data-dir", str(tmp_path / "flag")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flag", "variable"]


def test_a_wrong_flag_is_called_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", "--listen", "tcp://127.0.0.1:99999"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("secondlook: error: --listen: gateway.edge_address ")
    assert "it must be at most 65535" in line


@pytest.mark.parametrize("host", ["x" * 300, "a..b", "."])
def test_a_host_that_cannot_be_is_one_line(
    host: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(
        f'data_dir = "d"\n[station]\nhost = "{host}"\ntrusted_proxies = ["::1"]\n'
    )
    assert main(["station", "--config", str(tmp_path / "c.toml")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "station.host" in line


def test_build_parser_is_cheap() -> None:
    """No schema is imported for the parser alone: defaults are looked up when a help text is printed."""
    program = (
        "import sys; from secondlook.main import build_parser; build_parser(); print('cv2' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
    assert build_parser().prog == "secondlook"
