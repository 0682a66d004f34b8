"""The configuration loader: what it reads, and that each mistake is named with its file and key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from secondlook.shared.config import load
from secondlook.shared.errors import ConfigError


@dataclass(frozen=True)
class Spool:
    max_bytes: int = 1000
    folder: Path | None = None
    policy: Literal["oldest", "newest"] = "oldest"

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes is {self.max_bytes}, it must be above 0")


@dataclass(frozen=True)
class Edge:
    edge_id: str
    rate_fps: float | None = None
    realtime: bool = False
    classes: tuple[str, ...] = ()
    spool: Spool = field(default_factory=Spool)


@dataclass(frozen=True)
class WithFolder:
    data_dir: Path = Path("data")


def _file(folder: Path, text: str) -> Path:
    path = folder / "edge.toml"
    path.write_text(text)
    return path


def test_defaults_without_a_file() -> None:
    assert load(None, Edge, {"edge_id": "gate"}) == Edge("gate")


def test_file_and_overrides(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        'edge_id = "gate"\nrate_fps = 6\nrealtime = true\nclasses = ["dog", "cat"]\n'
        '[spool]\nmax_bytes = 5\nfolder = "kept"\npolicy = "newest"\n',
    )
    loaded = load(path, Edge, {"edge_id": None, "spool.max_bytes": 7})
    assert loaded == Edge("gate", 6.0, True, ("dog", "cat"), Spool(7, tmp_path / "kept", "newest"))
    assert isinstance(loaded.rate_fps, float)


def test_a_path_on_the_command_line_stays_relative_to_where_one_stands(tmp_path: Path) -> None:
    path = _file(tmp_path, 'edge_id = "gate"\n')
    assert load(path, Edge, {"spool.folder": Path("kept")}).spool.folder == Path("kept")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "edge.toml: setting edge_id is missing"),
        ('edge_id = "a"\nnoise = 1', "edge.toml: unknown setting noise"),
        ('edge_id = "a"\n[spool]\nnoise = 1', "unknown setting spool.noise"),
        ("edge_id = 1", "edge_id must be text"),
        ('edge_id = "a"\nrate_fps = "fast"', "rate_fps must be a number"),
        ('edge_id = "a"\nrealtime = 1', "realtime must be true or false"),
        ('edge_id = "a"\nclasses = "dog"', "classes must be a list"),
        ('edge_id = "a"\nclasses = ["dog", 1]', r"classes\[1\] must be text"),
        ('edge_id = "a"\nspool = 1', "spool must be a table"),
        ('edge_id = "a"\n[spool]\nmax_bytes = true', "spool.max_bytes must be an integer"),
        ('edge_id = "a"\n[spool]\nmax_bytes = 0', "edge.toml: spool.max_bytes is 0"),
        ('edge_id = "a"\n[spool]\npolicy = "none"', "spool.policy must be one of oldest, newest"),
        ("edge_id = ", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(_file(tmp_path, text), Edge)


def test_a_plain_value_where_an_override_needs_a_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="spool must be a table"):
        load(_file(tmp_path, 'edge_id = "a"\nspool = 1'), Edge, {"spool.max_bytes": 7})


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.toml"):
        load(tmp_path / "nowhere.toml", Edge)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_bytes(b'\xef\xbb\xbfedge_id = "gate"\n')
    assert load(path, Edge) == Edge("gate")


@pytest.mark.parametrize("data", [b'edge_id = "\xff"', b"edge_id = " + b"9" * 5000, b"a = " + b"[" * 5000])
def test_what_is_no_toml_is_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "edge.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"edge\.toml is not TOML: "):
        load(path, Edge)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("edge_idd = 1", "; did you mean edge_id?"),
        (
            'edge_id = "a"\n[spool]\nmax_byte = 1',
            "unknown setting spool.max_byte; did you mean spool.max_bytes?",
        ),
        ('edge_id = "a"\nmax_bytes = 1', "unknown setting max_bytes; did you mean spool.max_bytes?"),
        ('edge_id = "a"\n[spool]\nzzz = 1', r"\(known: max_bytes, folder, policy\)"),
    ],
)
def test_a_like_name_is_suggested(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        load(_file(tmp_path, text), Edge)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, 'edge_id = "file"\n[spool]\nmax_bytes = 1\n')
    environment = {"SL_EDGE_ID": "variable", "SL_SPOOL__MAX_BYTES": "2", "PATH": "/bin"}
    assert load(path, Edge, {}, environment, variables="SL_") == Edge("variable", spool=Spool(2))
    assert load(path, Edge, {"edge_id": "flag"}, environment, variables="SL_").edge_id == "flag"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("RATE_FPS", "6", Edge("a", rate_fps=6.0)),
        ("RATE_FPS", "", Edge("a")),
        ("REALTIME", "true", Edge("a", realtime=True)),
        ("REALTIME", "0", Edge("a")),
        ("CLASSES", "dog, cat", Edge("a", classes=("dog", "cat"))),
        ("CLASSES", '["a,b"]', Edge("a", classes=("a,b",))),
        ("SPOOL__POLICY", "newest", Edge("a", spool=Spool(policy="newest"))),
        ("SPOOL__FOLDER", "kept", Edge("a", spool=Spool(folder=Path("kept")))),
    ],
)
def test_a_variable_is_read_as_its_setting_wants(name: str, text: str, expected: Edge) -> None:
    assert load(None, Edge, {"edge_id": "a"}, {f"SL_{name}": text}, variables="SL_") == expected


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("RATE_FPS", "fast", "^SL_RATE_FPS: rate_fps must be a number$"),
        ("REALTIME", "perhaps", "^SL_REALTIME: realtime must be true or false$"),
        ("CLASSES", "[1]", r"^SL_CLASSES: classes\[0\] must be text$"),
        ("CLASSES", "[", "^SL_CLASSES: classes must be a list$"),
        ("SPOOL__MAX_BYTES", "0", "^SL_SPOOL__MAX_BYTES: spool.max_bytes is 0"),
        ("SPOOL__MAX_BYTE", "1", "SL_SPOOL__MAX_BYTE: .*did you mean SL_SPOOL__MAX_BYTES"),
        ("SPOOL", "1", "SL_SPOOL: no setting has this variable"),
        ("spool__max_bytes", "1", "no setting has this variable"),
    ],
)
def test_a_wrong_variable_is_named(name: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(None, Edge, {"edge_id": "a"}, {f"SL_{name}": text}, variables="SL_")


def test_a_wrong_flag_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^--max-bytes: spool\.max_bytes is 0"):
        load(
            None, Edge, {"edge_id": "a", "spool.max_bytes": 0}, flag_names={"spool.max_bytes": "--max-bytes"}
        )


def test_the_agents_variables_are_not_the_clouds() -> None:
    assert load(None, Spool, environment={"SECONDLOOK_EDGE_CODEC__THREADS": "2"}) == Spool()


def test_a_default_that_is_a_path_is_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("")
    assert load(path, WithFolder).data_dir == tmp_path / "data"
    assert load(None, WithFolder).data_dir == Path("data")


def test_the_home_folder_is_known_and_others_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    path = tmp_path / "x.toml"
    path.write_text('data_dir = "~/frames"')
    assert load(path, WithFolder).data_dir == Path("/home/somebody/frames")
    path.write_text('data_dir = "~nobody-of-that-name/frames"')
    with pytest.raises(ConfigError, match="data_dir ~nobody-of-that-name is no home folder"):
        load(path, WithFolder)


@pytest.mark.parametrize("text", ["", "a\0b", "a\nb", "x" * 5000])
def test_what_cannot_be_a_path_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^data_dir "):
        load(None, WithFolder, {"data_dir": text})
