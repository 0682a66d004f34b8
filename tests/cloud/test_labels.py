"""Rules that name what the detector cannot see."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondlook.cloud.config import PolicyConfig
from secondlook.cloud.workers.labels import check_labels
from secondlook.main import main
from secondlook.shared.errors import ConfigError

CLASSES = ("person", "car", "Hardhat")


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        ("perosn", "has no class 'perosn', did you mean 'person'?; its classes are person, car, Hardhat"),
        ("Person", "has no class 'Person', did you mean 'person'?"),
        ("hardhat", "has no class 'hardhat', did you mean 'Hardhat'?"),
        ("zebra", "has no class 'zebra'; its classes are person, car, Hardhat"),
        ("", "has no class ''; its classes are"),
    ],
)
@pytest.mark.parametrize("setting", ["watched_labels", "rule_labels"])
def test_a_label_that_cannot_occur_is_named(setting: str, label: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_labels(PolicyConfig(**{setting: ("car", label)}), "finder", CLASSES)
    assert str(caught.value).startswith(f"policy.{setting}: finder {hint}")


def test_labels_that_can_occur_pass() -> None:
    check_labels(PolicyConfig(watched_labels=CLASSES, rule_labels=("car",)), "finder", CLASSES)


def test_the_worker_does_not_start_with_such_a_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cloud.toml").write_text('[policy]\nwatched_labels = ["perosn"]\n[worker]\nthreads = 1\n')
    assert main(["worker", "--config", str(tmp_path / "cloud.toml")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("secondlook: error: policy.watched_labels: detector-")
    assert "did you mean 'person'?" in line
    assert [path.name for path in tmp_path.iterdir()] == ["cloud.toml"]  # no store was made
