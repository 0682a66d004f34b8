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
