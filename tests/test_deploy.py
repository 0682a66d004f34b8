"""What lies in deploy/ parses, runs commands that exist, and finds the files it names."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from secondlook.cloud.config import CloudConfig
from secondlook.edge.config import EdgeConfig
from secondlook.main import build_parser
from secondlook.shared.config import load
from tests.cloud.servers import nats_binary, nats_version

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
KUBERNETES = DEPLOY / "kubernetes"
KUSTOMIZATION = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
RESOURCES: list[dict[str, Any]] = [
    resource
    for name in KUSTOMIZATION["resources"]
    for resource in yaml.safe_load_all((KUBERNETES / name).read_text())
]
OURS = {name: one for name, one in COMPOSE["services"].items() if one["image"] == "secondlook"}
PODS = {
    resource["metadata"]["name"]: resource["spec"]["template"]["spec"]
    for resource in RESOURCES
    if resource["kind"] in ("Deployment", "StatefulSet")
}
OUR_PODS = {name: pod for name, pod in PODS.items() if pod["containers"][0]["image"] == "secondlook"}


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_unit_runs_a_command_with_a_shipped_configuration(unit):
    line = re.search(r"^ExecStart=/opt/secondlook/bin/secondlook (.+)$", unit.read_text(), re.MULTILINE)
    args = build_parser().parse_args(line[1].split())
    assert (DEPLOY / args.config.name).exists()


@pytest.mark.parametrize("role", ["edge", "gateway", "worker@", "refiner@", "retention"])
def test_units_of_roles_that_tell_progress_have_a_watchdog(role):
    settings = dict(
        re.findall(r"^(\w+)=(.+)$", (DEPLOY / f"secondlook-{role}.service").read_text(), re.MULTILINE)
    )
    assert settings["Type"] == "notify"
    assert int(settings["WatchdogSec"]) >= 60
    assert settings["Restart"] == "on-failure"  # which a watchdog's kill is


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("edge.toml", EdgeConfig),
        ("cloud.toml", CloudConfig),
        ("compose/cloud.example.toml", CloudConfig),
        ("kubernetes/cloud.example.toml", CloudConfig),
    ],
)
def test_example_configuration_loads(name, cls):
    load(DEPLOY / name, cls)


@pytest.mark.parametrize("name", ["compose", "kubernetes"])
def test_several_gateways_share_what_they_must_share(name):
    config = load(DEPLOY / name / "cloud.example.toml", CloudConfig)
    assert config.queue.startswith("nats://nats:4222")
    assert config.ledger_url == config.catalogue
    assert config.catalogue.startswith("postgresql+psycopg://")
    assert config.blobs is not None or "/var/lib/secondlook" in str(config.data_dir)


def test_compose_runs_every_role_with_settings_it_mounts():
    roles = set()
    for service in OURS.values():
        args = build_parser().parse_args(service["command"])
        roles.add(args.command)
        mounts = dict(mount.split(":")[:2][::-1] for mount in service["volumes"])
        assert mounts[str(args.config)] == "./cloud.toml"
        assert set(service["depends_on"]) <= set(COMPOSE["services"])
        assert service["build"]["dockerfile"] == "deploy/Dockerfile"
    assert roles == {"gateway", "worker", "refiner", "station", "retention"}
    config = load(DEPLOY / "compose" / "cloud.example.toml", CloudConfig)
    aliases = [OURS[name]["networks"]["default"]["aliases"] for name in ("gateway-1", "gateway-2")]
    assert aliases == [[config.broker.address.split("/")[-1].split(":")[0]]] * 2


def test_compose_names_only_what_there_is():
    volumes, secrets = set(COMPOSE["volumes"]), set(COMPOSE["secrets"])
    for service in COMPOSE["services"].values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            prepared = source in ("./cloud.toml", "./keys")  # by the operator
            assert source in volumes or prepared or (DEPLOY / "compose" / source).is_file(), source
        assert set(service.get("secrets", ())) <= secrets


@pytest.mark.parametrize("name", sorted(OUR_PODS))
def test_pod_runs_its_role_with_settings_it_mounts(name):
    pod = OUR_PODS[name]
    (container,) = pod["containers"]
    args = build_parser().parse_args(container["args"])
    assert args.command == name
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    (settings,) = (one for one in pod["volumes"] if one["name"] == mounts["/etc/secondlook"])
    assert settings["projected"]["defaultMode"] & 0o007 == 0
    files = {
        item["path"]
        for source in settings["projected"]["sources"]
        for item in source["secret"].get("items", [{"path": "cloud.toml"}])
    }
    config = load(KUBERNETES / "cloud.example.toml", CloudConfig)
    wanted = {
        "gateway": [config.gateway.secret_key_file, config.gateway.registry_file],
        "station": [],
        "retention": [],
    }.get(name, [config.broker.server_public_key_file, config.broker.secret_key_file])
    wanted += [args.config, *(Path(one["value"]) for one in container["env"])]
    assert {str(path.relative_to("/etc/secondlook")) for path in wanted} == files
    assert {one["name"] for one in pod["volumes"]} == set(mounts.values())


def test_kubernetes_services_lead_to_ports_and_secrets_exist():
    generated = {
        one["name"] for one in KUSTOMIZATION["secretGenerator"] + KUSTOMIZATION["configMapGenerator"]
    }
    assert all((KUBERNETES / name).is_file() for name in KUSTOMIZATION["resources"])
    for resource in RESOURCES:
        if resource["kind"] == "Service":
            pod = PODS[resource["spec"]["selector"]["app"]]
            ports = {port["name"] for port in pod["containers"][0]["ports"]}
            assert {port.get("targetPort", port["name"]) for port in resource["spec"]["ports"]} <= ports
    for pod in PODS.values():
        for volume in pod.get("volumes", ()):
            sources = [volume, *volume.get("projected", {}).get("sources", ())]
            named = [
                one["secret"].get("name", one["secret"].get("secretName"))
                for one in sources
                if "secret" in one
            ]
            named += [one["configMap"]["name"] for one in sources if "configMap" in one]
            assert set(named) <= generated
    config = load(KUBERNETES / "cloud.example.toml", CloudConfig)
    ports = {port["name"]: port["containerPort"] for port in PODS["gateway"]["containers"][0]["ports"]}
    assert config.gateway.edge_address.endswith(f":{ports['edges']}")
    assert config.broker.address == f"tcp://gateway:{ports['workers']}"
    assert PODS["station"]["containers"][0]["ports"][0]["containerPort"] == config.station.port


def test_the_queues_server_keeps_what_it_acknowledges_and_takes_whole_frames(tmp_path):
    text = (KUBERNETES / "nats.conf").read_text()
    assert re.search(r"^\s*sync_interval: always$", text, re.MULTILINE)
    assert re.search(r"^max_payload: 8MB$", text, re.MULTILINE)
    if nats_version() < (2, 10):
        text = text.replace("sync_interval: always", "")
    file = tmp_path / "nats.conf"
    file.write_text(text.replace("/data", str(tmp_path)))
    subprocess.run([nats_binary(), "-t", "-c", file], check=True, capture_output=True)


def test_the_image_installs_extras_that_exist_and_copies_folders_that_exist():
    text = (DEPLOY / "Dockerfile").read_text()
    extras = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for names in (re.search(r"^ARG EXTRAS=(.+)$", text, re.MULTILINE)[1], "edge"):
        assert set(names.split(",")) <= set(extras)
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (DEPLOY.parent / source).exists(), source
            assert f"!{source}\n" in (DEPLOY / "Dockerfile.dockerignore").read_text()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_the_base(tmp_path):
    shutil.copytree(KUBERNETES, tmp_path / "base")
    for generator in KUSTOMIZATION["secretGenerator"]:
        for named in generator["files"]:
            file = tmp_path / "base" / named.rpartition("=")[2]
            file.parent.mkdir(exist_ok=True)
            file.write_text("x")
    subprocess.run(["kubectl", "kustomize", tmp_path / "base"], check=True, capture_output=True)
