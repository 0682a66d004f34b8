"""All settings of both sides: every number has a range, every path a base, and no value makes more than one line."""

from __future__ import annotations

import json
import math
import random
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secondlook.cloud.catalogue import open_catalogue
from secondlook.cloud.config import CloudConfig
from secondlook.cloud.gateway.server import Gateway
from secondlook.cloud.station.app import create_app
from secondlook.cloud.storage.blobs import open_blobs
from secondlook.cloud.workers.broker_client import BrokerClient
from secondlook.edge.config import EdgeConfig
from secondlook.edge.link.identity import AgentIdentity
from secondlook.edge.link.uplink import Uplink
from secondlook.edge.source.camera import Camera
from secondlook.edge.spool import Spool
from secondlook.shared.config import EDGE_VARIABLES, VARIABLES, Setting, load, schema, variable
from secondlook.shared.errors import ConfigError, SecondlookError
from secondlook.shared.settings import Endpoint, bounds, is_path, item_type, number_type, plain

SIDES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "edge": (EdgeConfig, {"edge_id": "gate", "source": {"address": "demo:"}}),
    "cloud": (CloudConfig, {}),
}
LEAVES = [
    pytest.param(side, name, setting, id=f"{side}:{name}")
    for side, (cls, _) in SIDES.items()
    for name, setting in schema(cls)
    if not setting.is_table
]
NUMBERS = [one for one in LEAVES if number_type(one.values[2].kind)]
ABSURD = [math.nan, math.inf, -math.inf, -1, -1e300, 1e300, 10**30, 2**63, 10**400]


def given_to(side: str, name: str, value: object) -> dict[str, Any]:
    """The least configuration of a side, with one setting more."""
    return put(json.loads(json.dumps(SIDES[side][1])), name, value)


def put(tree: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    """The tree, with one setting changed."""
    *sections, key = name.split(".")
    branch = tree
    for section in sections:
        branch = branch.setdefault(section, {})
    branch[key] = value
    return tree


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    return "true" if value is True else "false" if value is False else repr(value)


def loaded(folder: Path, side: str, tree: dict[str, Any]) -> Any:
    """What a file with these settings makes."""
    path = folder / f"{side}.toml"
    text = "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in tree.items())
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return load(path, SIDES[side][0])


@pytest.mark.parametrize(("side", "name", "setting"), NUMBERS)
def test_every_number_has_both_bounds_and_keeps_to_them(
    tmp_path: Path, side: str, name: str, setting: Setting
) -> None:
    meta = bounds(setting.kind)
    assert meta is not None and meta.ge is not None and meta.le is not None and "unit" in meta.extra
    for value in ABSURD:
        if value == -1 and meta.ge <= -1:
            continue
        with pytest.raises(ConfigError) as caught:
            loaded(tmp_path, side, given_to(side, name, value))
        line = str(caught.value)
        assert line.count("\n") == 0 and len(line) < 300
        assert f"{side}.toml: {name} " in line
    for value in (meta.ge, meta.le):
        try:
            loaded(tmp_path, side, given_to(side, name, number_type(setting.kind)(value)))
        except ConfigError as error:  # a rule between two settings
            assert "it must be" not in str(error)


@pytest.mark.parametrize(("side", "name", "setting"), LEAVES)
def test_every_setting_has_a_variable_and_a_wrong_one_is_named(
    side: str, name: str, setting: Setting
) -> None:
    variables = EDGE_VARIABLES if side == "edge" else VARIABLES
    cls, least = SIDES[side]
    flags = {"edge_id": "gate", "source.address": "demo:"} if least else {}
    flags.pop(name, None)
    with pytest.raises(ConfigError, match=f"^{variable(name, variables)}: {name.replace('.', '[.]')}\\b"):
        load(None, cls, flags, {variable(name, variables): "\0"}, variables=variables)


@pytest.mark.parametrize(("side", "name", "setting"), LEAVES)
def test_a_path_in_a_file_is_the_same_wherever_a_role_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str, name: str, setting: Setting
) -> None:
    if not is_path(setting.kind):
        return
    given = {
        "ledger": "sqlite:///kept/x.db",
        "catalogue": "sqlite:///kept/x.db",
    }.get(name, "ipc://kept/x" if plain(setting.kind) is Endpoint else "kept/x")
    tree = given_to(side, name, given)
    for pair in (("secret_key_file", "server_public_key_file"), ("tls_key_file", "tls_certificate_file")):
        for one, other in (pair, pair[::-1]):
            if name.endswith(one):
                tree = put(tree, name.replace(one, other), "kept/y")
    if name == "gateway.secret_key_file":
        tree = given_to(side, name, given)
        tree["gateway"]["registry_file"] = "kept/r"
    if name == "gateway.registry_file":
        tree["gateway"]["secret_key_file"] = "kept/k"
    if name == "link.gateway":
        with pytest.raises(ConfigError, match="does not begin with tcp"):
            loaded(tmp_path, side, tree)
        return
    values = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        value: Any = loaded(tmp_path, side, tree)
        for key in name.split("."):
            value = getattr(value, key)
        values.append(str(value))
    assert values[0] == values[1]
    assert str(tmp_path / "kept") in values[0]


@pytest.mark.parametrize(
    ("setting", "given", "expected"),
    [
        ("worker.detector", "builtin", "builtin"),
        ("worker.detector", "yolo11n.pt", "yolo11n.pt"),
        ("worker.detector", "yolo.onnx", "{folder}/yolo.onnx"),
        ("worker.detector", "~/yolo.onnx", "{home}/yolo.onnx"),
        ("worker.codec", "lite", "lite"),
        ("worker.codec", "./lite", "{folder}/lite"),
        ("worker.codec", "beside", "{folder}/beside"),
        ("worker.codec", "elsewhere", "elsewhere"),
        ("worker.codec", "/models/mine", "/models/mine"),
        ("refiner.postfilter", "../filter", "{folder}/../filter"),
        ("blobs", "blobs", "{folder}/blobs"),
        ("blobs", "~/blobs", "{home}/blobs"),
        ("blobs", "s3://bucket/prefix", "s3://bucket/prefix"),
        ("blobs", "file://blobs", "file://{folder}/blobs"),
        ("blobs", "file:///blobs", "file:///blobs"),
        ("blobs", "memory://x", "memory://x"),
        ("catalogue", "sqlite:///x.db", "sqlite:///{folder}/x.db"),
        ("catalogue", "sqlite+pysqlite:///x.db?timeout=3", "sqlite+pysqlite:///{folder}/x.db?timeout=3"),
        ("catalogue", "sqlite:///~/x.db", "sqlite:///{home}/x.db"),
        ("catalogue", "sqlite:////srv/x.db", "sqlite:////srv/x.db"),
        ("catalogue", "sqlite:///file:x.db?uri=true", "sqlite:///file:{folder}/x.db?uri=true"),
        ("catalogue", "sqlite://", "sqlite://"),
        ("catalogue", "sqlite:///:memory:", "sqlite:///:memory:"),
        ("catalogue", "postgresql+psycopg://db/x", "postgresql+psycopg://db/x"),
        ("broker.address", "ipc://run/broker", "ipc://{folder}/run/broker"),
        ("broker.address", "ipc://@abstract", "ipc://@abstract"),
        ("gateway.edge_address", "tcp://[::1]:7601", "tcp://[::1]:7601"),
    ],
)
def test_texts_that_may_be_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, given: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    (tmp_path / "beside").mkdir()
    value: Any = loaded(tmp_path, "cloud", given_to("cloud", setting, given))
    for key in setting.split("."):
        value = getattr(value, key)
    assert value == expected.format(folder=tmp_path, home="/home/somebody")


@pytest.mark.parametrize(
    ("given", "is_path"),
    [
        ("demo:", False),
        ("0", False),
        ("rtsp://camera/1", False),
        ("video.mp4", True),
        ("folder", True),
        ("./0", True),
    ],
)
def test_a_source_that_is_a_path_is_relative_to_the_file(tmp_path: Path, given: str, is_path: bool) -> None:
    tree = given_to("edge", "source.address", given)
    address = loaded(tmp_path, "edge", tree).source.address
    assert address == (str(tmp_path / given) if is_path else given)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("tcp://127.0.0.1:99999", "has port 99999, it must be at most 65535"),
        ("tcp://[::1]:99999", "has port 99999"),
        ("tcp://::1:7601", "an IPv6 address in brackets"),
        ("tcp://[::g]:7601", "must be tcp://HOST:PORT"),
        ("tcp://[1:2]:7601", "which is no address"),
        ("tcp://300.1.1.1:7601", "which is no address"),
        ("tcp://127.0.0.1", "must be tcp://HOST:PORT"),
        ("tcp://127.0.0.1:http", "must be tcp://HOST:PORT"),
        ("udp://127.0.0.1:1", "must be tcp://HOST:PORT"),
        ("127.0.0.1:7601", "must be tcp://HOST:PORT"),
        ("tcp://", "must be tcp://HOST:PORT"),
        ("", "must be tcp://HOST:PORT"),
    ],
)
@pytest.mark.parametrize("name", ["gateway.edge_address", "broker.address", "link.gateway"])
def test_addresses_that_cannot_be_are_refused(
    tmp_path: Path, name: str, address: str, complaint: str
) -> None:
    side = "edge" if name.startswith("link") else "cloud"
    with pytest.raises(ConfigError, match=complaint) as caught:
        loaded(tmp_path, side, given_to(side, name, address))
    assert f"{side}.toml: {name} " in str(caught.value)


def test_settings_made_in_code_are_checked_the_same() -> None:
    worker = CloudConfig().worker
    with pytest.raises(ConfigError, match=r"^threads is -1, it must be an integer from 0 to 256 threads$"):
        replace(worker, threads=-1)
    with pytest.raises(ConfigError, match=r"^threads is 1\.5, it must be an integer"):
        replace(worker, threads=1.5)
    with pytest.raises(ConfigError, match=r"^lease_seconds is nan"):
        replace(worker, lease_seconds=math.nan)


def _values(setting: Setting) -> st.SearchStrategy[Any]:
    """Right ones, wrong ones, and ones of another type."""
    meta, kind = bounds(setting.kind), number_type(setting.kind)
    texts = st.text(max_size=8) | st.sampled_from(
        [
            *("", "~", "~x", "/", "a\0", "../..", "x" * 300, "demo:", "sqlite:///x"),
            *("tcp://127.0.0.1:0", "tcp://127.0.0.1:9", "tcp://[::1]:0", "tcp://[::1]:9", "ipc://x"),
        ]
    )
    wild = st.sampled_from([*ABSURD, True, [], {}, "1"]) | st.integers() | st.floats() | texts
    if kind is int:
        return st.integers(int(meta.ge), int(meta.le)) | st.sampled_from([int(meta.ge), int(meta.le)]) | wild
    if kind is float:
        return st.floats(meta.ge, meta.le) | st.sampled_from([float(meta.ge), float(meta.le)]) | wild
    if item_type(setting.kind) is not None:
        return st.lists(texts, max_size=3) | wild
    return texts | wild


@st.composite
def trees(draw: st.DrawFn, side: str) -> dict[str, Any]:
    """A few settings of a side, of all types and extremes."""
    cls, least = SIDES[side]
    leaves = {name: setting for name, setting in schema(cls) if not setting.is_table}
    tree: dict[str, Any] = json.loads(json.dumps(least))
    for name in draw(st.lists(st.sampled_from(sorted(leaves)), min_size=1, max_size=4, unique=True)):
        put(tree, name, draw(_values(leaves[name])))
    return tree


def _one_line(error: SecondlookError) -> None:
    assert str(error) and "\n" not in str(error)


def start_and_stop_an_agent(config: EdgeConfig, folder: Path) -> None:
    """Make everything that an agent makes of its settings."""
    boot_id = secrets.token_hex(16)
    spool = Spool(folder, config.spool, boot_id, time.time_ns())
    try:
        uplink = Uplink(
            config.link, AgentIdentity(config.edge_id, boot_id, config.camera), spool, random.Random(0)
        )
        uplink.start()
        Camera(config.source, random.Random(0)).close()
        uplink.stop()
        assert uplink.failure is None
    finally:
        spool.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(tree=trees("edge"))
def test_an_agent_starts_with_every_settings_file_that_is_accepted(
    tmp_path: Path, tree: dict[str, Any]
) -> None:
    try:
        config = loaded(tmp_path, "edge", tree)
    except ConfigError as error:
        _one_line(error)
        return
    try:
        start_and_stop_an_agent(config, tmp_path / "spool")
    except SecondlookError as error:
        _one_line(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(tree=trees("cloud"))
def test_the_cloud_starts_with_every_settings_file_that_is_accepted(
    tmp_path: Path, tree: dict[str, Any]
) -> None:
    try:
        config = loaded(tmp_path, "cloud", tree)
    except ConfigError as error:
        _one_line(error)
        return
    # Its stores are opened here, and servers that are not there are not waited for.
    config = replace(config, data_dir=tmp_path / "data", catalogue=None, blobs=None, queue=None, ledger=None)
    try:
        with Gateway(config) as gateway:
            gateway._turn(True, True, 0.0)
        with BrokerClient(config.broker, "worker"):
            pass
        open_blobs(config.blobs_url)
        open_catalogue(config.catalogue_url).close()
        create_app(
            catalogue_url=config.catalogue_url,
            blobs_url=config.blobs_url,
            title=config.station.title,
            allowed_hosts=config.station.allowed_hosts,
            exposed=False,
            trusted_proxies=config.station.trusted_proxies,
            session=config.station.session,
            login=config.station.login,
        )
    except SecondlookError as error:
        _one_line(error)
