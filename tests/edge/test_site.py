"""One configuration file, one camera or several: what each is told, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from secondlook.edge.site import Given, Site, has_tables, one_camera, several_cameras
from secondlook.main import main
from secondlook.shared.config import read_tree
from secondlook.shared.errors import ConfigError

NOTHING = Given({}, {}, {})
TWO = """
data_dir = "data"
[source]
fps = 5.0
[uplink]
kbps = 100.0
[link]
gateway = "tcp://gateway.example:7601"
server_public_key_file = "gateway.key"
secret_key_file = "keys"

[[camera]]
edge_id = "north"
name = "North gate"
weight = 3.0
[camera.source]
address = "rtsp://192.0.2.1/a"
[[camera]]
edge_id = "yard"
data_dir = "elsewhere"
[camera.source]
address = "pictures"
fps = 1.0
[camera.codec]
family = "lite"
[camera.link]
secret_key_file = "yard-of-old.key_secret"
"""


def site(folder: Path, text: str, given: Given = NOTHING) -> Site:
    path = folder / "edge.toml"
    path.write_text(text)
    (folder / "keys").mkdir(exist_ok=True)
    tree = read_tree(path)
    return several_cameras(path, tree, given) if has_tables(tree) else one_camera(path, given)


def test_each_camera_has_what_is_common_and_what_is_its_own(tmp_path: Path) -> None:
    found = site(tmp_path, TWO)
    assert found.has_tables and found.data_dir == tmp_path / "data"
    north, yard = found.cameras
    assert (north.edge_id, north.camera, north.weight, north.source.fps) == ("north", "North gate", 3.0, 5.0)
    assert (yard.edge_id, yard.camera, yard.weight, yard.source.fps) == ("yard", "yard", 1.0, 1.0)
    assert north.source.address == "rtsp://192.0.2.1/a"
    assert yard.source.address == str(tmp_path / "pictures"), "paths start from the file's folder"
    assert (north.data_dir, yard.data_dir) == (tmp_path / "data" / "north", tmp_path / "elsewhere")
    assert north.link.secret_key_file == tmp_path / "keys" / "north.key_secret", (
        "a folder holds a key a camera"
    )
    assert yard.link.secret_key_file == tmp_path / "yard-of-old.key_secret"
    assert north.link.server_public_key_file == yard.link.server_public_key_file == tmp_path / "gateway.key"
    assert north.uplink.kbps == yard.uplink.kbps == 100.0


def test_a_file_of_one_camera_is_read_as_ever(tmp_path: Path) -> None:
    found = site(tmp_path, 'edge_id = "gate"\ncamera = "North gate"\n[source]\naddress = "demo:"\n')
    assert not found.has_tables and [one.camera for one in found.cameras] == ["North gate"]
    assert found.data_dir == found.host.data_dir == tmp_path / "edge-data"


def test_flags_and_variables_hold_for_every_camera(tmp_path: Path) -> None:
    given = Given(
        {"codec.base_quality": 20, "data_dir": tmp_path / "flags", "link.secret_key_file": tmp_path / "keys"},
        {"codec.base_quality": "--base-quality"},
        {"SECONDLOOK_EDGE_SPOOL__MAX_BYTES": "1000000"},
    )
    found = site(tmp_path, TWO, given)
    assert [one.codec.base_quality for one in found.cameras] == [20, 20]
    assert [one.spool.max_bytes for one in found.cameras] == [1_000_000] * 2
    assert found.data_dir == tmp_path / "flags" and found.cameras[0].data_dir == tmp_path / "flags" / "north"
    assert found.cameras[1].link.secret_key_file == tmp_path / "keys" / "yard.key_secret"


@pytest.mark.parametrize(
    ("flags", "environment", "told"),
    [
        ({"source.address": "demo:"}, {}, "--source is of one camera"),
        ({}, {"SECONDLOOK_EDGE_EDGE_ID": "north"}, "SECONDLOOK_EDGE_EDGE_ID is of one camera"),
    ],
)
def test_what_is_of_one_camera_is_no_flag_for_several(
    tmp_path: Path, flags: Mapping[str, object], environment: Mapping[str, str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        site(tmp_path, TWO, Given(flags, {"source.address": "--source"}, environment))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('edge_id = "yard"', 'edge_id = "north"'), "two cameras have the edge_id north"),
        (('data_dir = "elsewhere"', 'data_dir = "data/north"'), "two cameras have the data_dir"),
        (('edge_id = "yard"', ""), "camera 2: setting edge_id is missing"),
        (('edge_id = "yard"', "edge_id = 5"), "camera 2: edge_id must be text"),
        (('name = "North gate"', "name = 5"), "camera 1: camera must be text"),
        (("weight = 3.0", "weigth = 3.0"), "camera 1: unknown setting weigth; did you mean weight"),
        (("weight = 3.0", "weight = 0.0"), "weight is 0, it must be a number from 0.01"),
        (('family = "lite"', 'family = "mp4"'), "camera 2: codec.family must be one of"),
        (
            ("[camera.codec]", "[camera.uplink]\nkbps = 5.0\n[camera.codec]"),
            "camera 2: uplink is of the host",
        ),
        (('data_dir = "data"', 'edge_id = "all"'), "edge_id is of one camera"),
        (('data_dir = "data"', "data_dir = 5"), "data_dir must be a path"),
    ],
)
def test_what_is_wrong_with_a_camera_is_one_line_that_names_it(
    tmp_path: Path, change: tuple[str, str], told: str
) -> None:
    assert change[0] in TWO
    with pytest.raises(ConfigError) as error:
        site(tmp_path, TWO.replace(*change))
    assert str(error.value).startswith(f"{tmp_path / 'edge.toml'}: ") and told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_place_of_keys_that_cannot_be_looked_at_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        site(tmp_path, TWO.replace('"keys"', f'"{"k" * 300}"'))
    assert "edge.toml: camera 1: link.secret_key_file cannot be looked at: " in str(error.value)
    assert "File name too long" in str(error.value) and "\n" not in str(error.value)


def test_a_list_of_names_is_no_cameras(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"camera must be \[\[camera\]\] tables"):
        site(tmp_path, 'camera = ["a", "b"]')


def test_the_operator_s_commands_know_a_file_of_several_cameras(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(TWO)
    assert main(["config", "check", "--edge", str(file)]) == 0
    assert [line.partition(": well")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"{file}: camera 1",
        f"{file}: camera 2",
    ]
    assert main(["config", "show", "--edge", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["edge_id"]["value"] for one in told.values()] == ["north", "yard"]
    main(["status", "--edge", str(file), "--json"])
    assert [one["edge_id"] for one in json.loads(capsys.readouterr().out)["agents"]] == ["north", "yard"]
    file.write_text(TWO.replace("weight = 3.0", "weigth = 3.0"))
    assert main(["config", "check", "--edge", str(file)]) == 1
    assert "camera 1: unknown setting weigth" in capsys.readouterr().out
