"""Codec families that come as plug-ins: found by the manifest, opened by entry point, named when they are missing."""

from __future__ import annotations

import json
import tomllib
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from secondlook.shared import plugins
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    manifest = {"name": "big", "kind": "codec", "family": "paper", "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def install(monkeypatch, *entries):
    """Entry points as if a package with these were installed."""
    found = [EntryPoint(name, value, plugins.GROUP) for name, value in entries]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: found if group == plugins.GROUP else [])


def test_the_family_of_the_manifest_chooses_the_plugin(monkeypatch, folder):
    install(monkeypatch, ("other", "builtins:print"), ("paper", "builtins:dict"))
    # dict(folder, threads=…) is an error of its own: the folder did reach the plug-in.
    with pytest.raises(TypeError, match="ModelFolder"):
        load_codec(folder, threads=3)


def test_the_plugin_gets_threads_and_device(monkeypatch, folder):
    install(monkeypatch, ("paper", "types:SimpleNamespace"))
    got = {}
    monkeypatch.setattr(
        types, "SimpleNamespace", lambda *given, **named: got.update(named, folder=given[0].path)
    )
    load_codec(folder, threads=3, device="cuda:1")
    assert got == {"folder": folder, "threads": 3, "device": "cuda:1"}


def test_without_the_plugin_the_error_says_what_to_install(monkeypatch, folder):
    install(monkeypatch, ("other", "builtins:print"))
    with pytest.raises(ConfigError, match=r"family paper.*secondlook\[training\]"):
        load_codec(folder)


def test_a_plugin_without_its_packages_is_named(monkeypatch, folder):
    install(monkeypatch, ("paper", "no_such_torch:load"))
    with pytest.raises(ConfigError, match=r"needs no_such_torch.*secondlook\[training\]"):
        load_codec(folder)


def test_lite_needs_no_plugin(monkeypatch):
    install(monkeypatch)
    assert load_codec("lite").name == "lite"


def test_the_project_declares_the_paper_family():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][plugins.GROUP] == {"paper": "secondlook.training.models.runtime:load"}
