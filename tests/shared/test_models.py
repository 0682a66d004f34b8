"""Model folders: found by name, path and hash; every way one can be broken."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from secondlook.shared import models
from secondlook.shared.codec import load_codec
from secondlook.shared.errors import ModelCorrupt, ModelNotFound, SecondlookError
from secondlook.shared.inference import open_session
from secondlook.shared.models import MAX_MANIFEST_BYTES, describe_files, find_by_hash, find_model, model_hash


def make(root, name, *, kind="codec", files=(("a.onnx", b"graph"), ("b.bin", b"table")), **more):
    """A model folder with these files and an honest manifest."""
    folder = root / name
    folder.mkdir()
    for file, data in files:
        (folder / file).write_bytes(data)
    manifest = {"name": name, "kind": kind, "files": describe_files(folder, [f for f, _ in files]), **more}
    write(folder, manifest)
    return folder


def write(folder, manifest):
    (folder / "manifest.json").write_text(json.dumps(manifest))


def read(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_by_name_and_by_path(tmp_path):
    folder = make(tmp_path, "small")
    by_name, by_path = find_model("small", root=tmp_path), find_model(folder)
    assert by_name == by_path
    assert (by_name.name, by_name.kind, by_name.path) == ("small", "codec", folder)
    assert by_name.file("a.onnx").read_bytes() == b"graph"


def test_the_hash_covers_contents_and_names():
    """As FORMAT.md's reader would compute it from the manifest alone."""
    files = {"b": {"sha256": "22", "bytes": 1}, "a": {"sha256": "11", "bytes": 1}}
    assert model_hash(files) == hashlib.sha256(b"11 a\n22 b\n").digest()[:8]
    assert model_hash(files) != model_hash({"b": {"sha256": "11"}, "a": {"sha256": "22"}})


def test_descriptions_are_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert describe_files(tmp_path, ["x"]) == {
        "x": {"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "bytes": 3}
    }


def test_by_hash(tmp_path):
    make(tmp_path, "one")
    two = make(tmp_path, "two", files=[("a.onnx", b"other")])
    assert find_by_hash(find_model(two).model_hash, root=tmp_path).name == "two"
    with pytest.raises(ModelNotFound, match="0011223344556677"):
        find_by_hash(bytes.fromhex("0011223344556677"), root=tmp_path)


def test_by_hash_verifies_what_it_finds(tmp_path):
    folder = make(tmp_path, "one")
    wanted = find_model(folder).model_hash
    (folder / "b.bin").write_bytes(b"altered")
    with pytest.raises(ModelCorrupt, match=r"b\.bin differs"):
        find_by_hash(wanted, root=tmp_path)


def test_no_such_model(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty", "", "../absent", "nul\0", "n" * 5000):
        with pytest.raises(ModelNotFound):
            find_model(name, root=tmp_path)


def test_a_name_means_the_same_in_every_folder(tmp_path, monkeypatch):
    make(tmp_path, "here")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound):
        find_model("here", root=tmp_path / "models")
    assert find_model("./here").name == find_model(Path("here")).name == "here"


def test_a_model_of_another_kind(tmp_path):
    make(tmp_path, "filter", kind="postfilter")
    assert find_model("filter", kind="postfilter", root=tmp_path).kind == "postfilter"
    with pytest.raises(ModelNotFound, match="is a 'postfilter', not a 'codec'"):
        find_model("filter", kind="codec", root=tmp_path)


def test_a_missing_file(tmp_path):
    (make(tmp_path, "m") / "b.bin").unlink()
    with pytest.raises(ModelCorrupt, match=r"b\.bin is missing"):
        find_model("m", root=tmp_path)


@pytest.mark.parametrize("data", [b"", b"tablf", b"table "])
def test_an_altered_file(tmp_path, data):
    (make(tmp_path, "m") / "b.bin").write_bytes(data)
    with pytest.raises(ModelCorrupt, match=r"b\.bin differs"):
        find_model("m", root=tmp_path)


def test_a_file_the_manifest_does_not_list(tmp_path):
    folder = make(tmp_path, "m")
    (folder / "extra").write_bytes(b"")
    with pytest.raises(ModelCorrupt, match="lists no extra"):
        find_model(folder).file("extra")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/x", "..", ".", "", "a\0b", "x" * 400])
def test_files_outside_the_folder(tmp_path, name):
    """Even when they exist and have the hash that is written there."""
    (tmp_path / "secret").write_bytes(b"s")
    folder = make(tmp_path, "m")
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_bytes(b"s")
    write(folder, read(folder) | {"files": {name: {"sha256": hashlib.sha256(b"s").hexdigest(), "bytes": 1}}})
    with pytest.raises(ModelCorrupt):
        find_model(folder)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"name": "m", "kind": "codec"}',
        b'{"name": 1, "kind": "codec", "files": {}}',
        b'{"name": "m", "kind": null, "files": {}}',
        b'{"name": "m", "kind": "codec", "files": []}',
        b'{"name": "m", "kind": "codec", "files": ""}',
        b'{"name": "m", "kind": "codec", "files": ["a.onnx"]}',
        b'{"name": "m", "kind": "codec", "files": [1]}',
        b'{"name": "m", "kind": "codec", "files": {"a.onnx": "deadbeef"}}',
        b'{"name": "m", "kind": "codec", "files": {"a.onnx": {"bytes": 5}}}',
        b'{"name": "m", "kind": "codec", "files": {"a.onnx": {"sha256": 5, "bytes": 5}}}',
        b'{"name": "m", "kind": "codec", "files": {"\\ud800": {"sha256": "", "bytes": 5}}}',
    ],
)
def test_manifests_that_are_none(tmp_path, text):
    folder = make(tmp_path, "m")
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(ModelCorrupt):
        find_model(folder)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"a":' * 100_000, b'{"name": "m", "kind": "codec", "files": ' + b"[" * 100_000]
)
def test_a_manifest_that_nests_without_end(tmp_path, text):
    folder = make(tmp_path, "m")
    (folder / "manifest.json").write_bytes(text)
    for find in (lambda: find_model(folder), lambda: find_by_hash(b"8 bytes.", root=tmp_path)):
        with pytest.raises(ModelCorrupt, match="is not a model manifest") as caught:
            find()
        assert len(str(caught.value)) < 500


def test_a_manifest_that_is_too_large(tmp_path):
    folder = make(tmp_path, "m")
    honest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(honest.ljust(MAX_MANIFEST_BYTES))
    assert find_model(folder).name == "m"
    (folder / "manifest.json").write_bytes(honest.ljust(MAX_MANIFEST_BYTES + 1))
    with pytest.raises(ModelCorrupt, match="is larger than"):
        find_model(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "kind", "files", "sha256", "a.onnx", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(manifest=JSON | st.fixed_dictionaries({"name": st.just("m"), "kind": st.just("codec"), "files": JSON}))
def test_arbitrary_manifests(tmp_path_factory, manifest):
    folder = tmp_path_factory.getbasetemp() / "arbitrary-manifest"
    folder.mkdir(exist_ok=True)
    write(folder, manifest)
    try:
        found = find_model(folder)
    except SecondlookError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(found.manifest["files"], dict)


@pytest.mark.parametrize("entropy", [None, b"no tensors", {"frequencies": np.ones((4, 6), np.int32)}, {}])
def test_a_codec_whose_tables_are_incomplete(tmp_path, entropy):
    """Its manifest is honest: what is wrong was exported wrong."""
    tables = tmp_path / "entropy.safetensors"
    if isinstance(entropy, dict):
        save_file(entropy, tables)
    elif entropy is not None:
        tables.write_bytes(entropy)
    files = [(tables.name, tables.read_bytes())] if entropy is not None else [("x", b"")]
    with pytest.raises(ModelCorrupt):
        load_codec(make(tmp_path, "bad", files=files))


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x07" * 40])
def test_a_file_that_is_no_graph(tmp_path, data):
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelCorrupt, match=r"x\.onnx"):
        open_session(path)


def test_a_graph_that_is_not_there(tmp_path):
    with pytest.raises(ModelCorrupt):
        open_session(tmp_path / "absent.onnx")


@pytest.fixture(scope="module")
def dequantise():
    return open_session(find_model("lite", kind="codec").file("dequantise_base.onnx"), 1)


def feeds(codec_channels, **changes):
    z, y = codec_channels
    return {
        "z_base": np.zeros((1, z, 1, 1), np.int16),
        "symbols_base": np.zeros((1, y, 4, 4), np.int16),
        "keep": np.ones((1, 1, 4, 4), np.float32),
        "reference_base": np.zeros((1, y, 4, 4), np.float32),
    } | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"keep": np.ones((1, 1, 5, 3), np.float32)},
        {"keep": np.ones((1, 1, 4, 4), np.float64)},
        {"keep": np.ones((4, 4), np.float32)},
        {"z_base": np.zeros((1, 1, 1, 1), np.int16)},
        {"z_base": None},
        {"other": np.zeros(1, np.float32)},
    ],
)
def test_inputs_that_do_not_fit_a_graph(dequantise, changes):
    changed = {name: value for name, value in feeds((32, 64), **changes).items() if value is not None}
    dequantise.run(feeds((32, 64)))
    with pytest.raises(ModelCorrupt):
        dequantise.run(changed)


def test_the_shipped_codec_is_found_by_its_hash():
    folder = find_model("lite", kind="codec")
    assert find_by_hash(folder.model_hash).path == folder.path
    assert folder.manifest["model_hash"] == folder.model_hash.hex()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Four folders of models, in the order in which a name is looked for where all of them count."""
    work, data = tmp_path / "work", tmp_path / "data"
    roots = {
        "variable": tmp_path / "variable",
        "here": work / "exported_models",
        "user": data / "secondlook" / "models",
        "package": tmp_path / "package",
    }
    for root in roots.values():
        root.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_DATA_HOME", str(data))
    monkeypatch.delenv(models.MODELS_VARIABLE)
    monkeypatch.setattr(models, "plugin_roots", lambda: (roots["package"],))
    return roots


def test_a_name_is_looked_for_in_one_order(places, monkeypatch):
    for root in places.values():
        make(root, "mine")
    make(places["package"], "theirs")
    assert find_model("mine").path == places["here"] / "mine"
    assert find_model("theirs").path == places["package"] / "theirs"
    monkeypatch.setenv(models.MODELS_VARIABLE, str(places["variable"]))
    assert find_model("mine").path == places["variable"] / "mine"
    assert places["user"] not in models.model_roots()  # the variable stands in its place
    monkeypatch.delenv(models.MODELS_VARIABLE)
    (places["here"] / "mine" / "manifest.json").unlink()
    assert find_model("mine").path == places["user"] / "mine"


def test_a_model_that_hides_one_that_ships_is_said(places, caplog):
    make(places["here"], "lite")
    with caplog.at_level("INFO"):
        find_model("lite")
        find_model("rrdb-fast")
        find_model("lite")
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("INFO", f"model lite lies in {places['here'] / 'lite'}") in said
    assert [level for level, _ in said].count("WARNING") == 1
    assert any("not the one that ships" in text for _, text in said)


def test_the_tree_itself_hides_nothing(monkeypatch):
    monkeypatch.chdir(models.MODELS_ROOT.parent)
    assert models.model_roots().count(models.MODELS_ROOT) == 1
    assert find_model("lite").path.parent == models.MODELS_ROOT


def test_a_model_is_found_by_its_hash_in_all_of_them(places):
    for name, root in places.items():
        make(root, name, files=[("a.onnx", name.encode())])
    for name in ("here", "user", "package"):
        assert find_by_hash(find_model(name).model_hash).path == places[name] / name
    (places["here"] / "here" / "manifest.json").write_text("{")  # a neighbour that is broken does no harm
    assert find_by_hash(find_model("user").model_hash).name == "user"


def test_what_is_in_none_of_them_is_an_error_that_lists_them(places):
    with pytest.raises(ModelNotFound) as caught:
        find_model("gone")
    assert all(str(places[name]) in str(caught.value) for name in ("here", "user", "package"))
