"""The units run commands that exist, with configuration files that load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cloud.config import CloudConfig
from edge.config import EdgeConfig
from shared.config import load
from shared.main import build_parser

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_unit_runs_a_command_with_a_shipped_configuration(unit):
    line = re.search(r"^ExecStart=/opt/secondlook/bin/secondlook (.+)$", unit.read_text(), re.MULTILINE)
    args = build_parser().parse_args(line[1].split())
    assert (DEPLOY / args.config.name).exists()


@pytest.mark.parametrize(("name", "cls"), [("edge.toml", EdgeConfig), ("cloud.toml", CloudConfig)])
def test_example_configuration_loads(name, cls):
    load(DEPLOY / name, cls)
