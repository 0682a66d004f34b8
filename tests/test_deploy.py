"""What lies in deploy/ parses, runs commands that exist, and finds the files it names."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from secondlook.cloud.config import CloudConfig
from secondlook.cloud.storage.addresses import has_secret
from secondlook.edge.config import EdgeConfig
from secondlook.main import build_parser
from secondlook.shared.config import load
from secondlook.shared.health import parse_address
from tests import compose_schema, kubernetes_schema

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
    if resource["kind"] in ("Deployment", "StatefulSet", "Job")
}
OUR_PODS = {name: pod for name, pod in PODS.items() if pod["containers"][0]["image"] == "secondlook"}


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_unit_runs_a_command_with_a_shipped_configuration(unit):
    line = re.search(r"^ExecStart=/opt/secondlook/bin/secondlook (.+)$", unit.read_text(), re.MULTILINE)
    args = build_parser().parse_args(line[1].split())
    assert (DEPLOY / args.config.name).exists()


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_units_keep_data_to_their_user_and_are_sandboxed(unit):
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))
    assert (settings["UMask"], settings["StateDirectoryMode"]) == ("0077", "0700")
    assert settings["User"] == "secondlook"
    assert settings["CapabilityBoundingSet"] == ""
    assert re.fullmatch(r"\dG", settings["MemoryMax"])
    assert 1 <= int(settings["CPUWeight"]) <= 10_000
    assert settings["ProtectSystem"] == "strict"
    assert unit.read_text().count("SystemCallFilter=") == 2


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_systemd_finds_little_exposed(unit):
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-300:]
    exposure = re.search(r"Overall exposure level for .+: (\d+\.\d)", judged.stdout)
    assert float(exposure[1]) <= 3.0


def test_an_agent_gets_its_secrets_as_credentials_and_not_as_arguments():
    for name, stem in (("edge", "edge"), ("edge@", "%i")):
        text = (DEPLOY / f"secondlook-{name}.service").read_text()
        given = dict(re.findall(r"^LoadCredential=([\w.-]+):(\S+)$", text, re.MULTILINE))
        assert given["edge.toml"] == f"/etc/secondlook/{stem}.toml"
        line = re.search(r"^ExecStart=(.+)$", text, re.MULTILINE)[1]
        named = set(re.findall(r"%d/(\S+)", line))
        assert named <= set(given)
        assert {"edge.toml", "gateway.key", "key_secret"} <= named
        assert re.search(r"^LoadCredential=source-credentials", text, re.MULTILINE)


@pytest.mark.parametrize("role", ["edge", "edge@", "gateway", "worker@", "refiner@", "station", "retention"])
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
    assert config.queue.startswith("tls://nats:4222")
    assert config.jetstream.nkey_file is not None and config.jetstream.ca_file is not None
    # Each service has a role of its own, so that no password stands in the file that all of them read.
    assert not has_secret(config.catalogue) and "@" not in config.catalogue
    assert config.ledger_url == config.catalogue
    assert config.catalogue.startswith("postgresql+psycopg://")
    assert config.blobs is not None or "/var/lib/secondlook" in str(config.data_dir)


KEYS_OF = {
    "gateway": {"gateway.key_secret", "registry.json", "gateway.nkey", "ca.crt"},
    "worker": {"gateway.key", "worker.key_secret"},
    "refiner": {"gateway.key", "refiner.key_secret"},
    "station": set(),
    "retention": set(),
    "catalogue": set(),  # the set-up, with the owner's role
    "users": set(),  # the first user, with the station's
}
DATABASE_ROLE_OF = {"catalogue": "owner", "users": "station"}
JOBS = {"setup": "catalogue", "first-user": "users"}  # pods that end, with the command that they run


def wanted_keys(role):
    """The key files that a role opens, by the configuration that all of them share."""
    config = load(KUBERNETES / "cloud.example.toml", CloudConfig)
    gateway, broker, queue = config.gateway, config.broker, config.jetstream
    return {
        "gateway": {gateway.secret_key_file, gateway.registry_file, queue.nkey_file, queue.ca_file},
        "worker": {broker.server_public_key_file, broker.secret_key_file},
        "refiner": {broker.server_public_key_file, broker.secret_key_file},
    }.get(role, set())


def test_compose_runs_every_role_with_settings_it_mounts():
    roles = set()
    for service in OURS.values():
        args = build_parser().parse_args(service["command"])
        roles.add(args.command)
        mounts = dict(mount.split(":")[:2][::-1] for mount in service["volumes"])
        assert mounts[str(args.config)] == "./cloud.toml"
        assert set(service["depends_on"]) <= set(COMPOSE["services"])
        assert service["build"]["dockerfile"] == "deploy/Dockerfile"
        keys = {
            where: Path(one) for where, one in mounts.items() if where.startswith("/etc/secondlook/keys/")
        }
        assert set(map(Path, keys)) == wanted_keys(args.command)
        assert {file.name for file in keys.values()} == KEYS_OF[args.command]
        role = DATABASE_ROLE_OF.get(args.command, args.command)
        assert service["env_file"] == [f"./secrets/{role}.env"]
    assert roles == {"gateway", "worker", "refiner", "station", "retention", "catalogue"}
    config = load(DEPLOY / "compose" / "cloud.example.toml", CloudConfig)
    aliases = [OURS[name]["networks"]["workers"]["aliases"] for name in ("gateway-1", "gateway-2")]
    assert aliases == [[config.broker.address.split("/")[-1].split(":")[0]]] * 2


def test_compose_takes_from_containers_what_they_do_not_need():
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"] and "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges"], name
        assert service["mem_limit"] and service["pids_limit"], name
    networks = {name: set(one["networks"]) for name, one in COMPOSE["services"].items()}
    assert [name for name, those in networks.items() if "queue" in those] == [
        "gateway-1",
        "gateway-2",
        "nats",
    ]
    assert [name for name, those in networks.items() if "outside" in those] == [
        "gateway-1",
        "gateway-2",
        "station",
    ]
    assert all(one["internal"] for name, one in COMPOSE["networks"].items() if name != "outside")


def test_compose_asks_each_role_for_its_health():
    config = load(DEPLOY / "compose" / "cloud.example.toml", CloudConfig)
    for name, service in OURS.items():
        if name == "setup":
            continue
        port = config.station.port if name == "station" else parse_address(config.health.address)[1]
        (call,) = service["healthcheck"]["test"][-1:]
        assert f"http://127.0.0.1:{port}/healthz" in call
        compile(call, name, "exec")


def test_compose_names_only_what_there_is():
    volumes = set(COMPOSE["volumes"])
    for service in COMPOSE["services"].values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            prepared = source == "./cloud.toml" or source.startswith("./secrets/")  # by the operator
            assert source in volumes or prepared or (DEPLOY / "compose" / source).is_file(), source
        assert set(service["networks"]) <= set(COMPOSE["networks"])


@pytest.mark.parametrize("name", sorted(OUR_PODS))
def test_pod_runs_its_role_with_settings_it_mounts(name):
    pod = OUR_PODS[name]
    (container,) = pod["containers"]
    args = build_parser().parse_args(container["args"])
    assert args.command == JOBS.get(name, name)
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    (settings,) = (one for one in pod["volumes"] if one["name"] == mounts["/etc/secondlook"])
    assert settings["projected"]["defaultMode"] & 0o007 == 0
    items = [
        item
        for source in settings["projected"]["sources"]
        for item in source.get("secret", {}).get("items", [{"key": "cloud.toml", "path": "cloud.toml"}])
    ]
    wanted = {args.config, *wanted_keys(args.command)}
    wanted |= {Path(one["value"]) for one in container["env"] if one["name"].startswith("AWS_")}
    wanted |= {args.password_file} if args.command == "users" else set()
    assert {str(path.relative_to("/etc/secondlook")) for path in wanted} == {item["path"] for item in items}
    assert {item["key"] for item in items if item["path"].startswith("keys/")} == KEYS_OF[args.command]
    assert {one["name"] for one in pod["volumes"]} == set(mounts.values())
    role = DATABASE_ROLE_OF.get(args.command, args.command)
    (user,) = (one for one in container["env"] if one["name"] == "PGUSER")
    (password,) = (one for one in container["env"] if one["name"] == "PGPASSWORD")
    assert user["value"] == f"secondlook_{role}"
    assert password["valueFrom"]["secretKeyRef"] == {"name": f"database-{role}", "key": "password"}


@pytest.mark.parametrize("name", sorted(set(OUR_PODS) - set(JOBS)))
def test_probes_ask_the_role_itself(name):
    (container,) = OUR_PODS[name]["containers"]
    config = load(KUBERNETES / "cloud.example.toml", CloudConfig)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    port = "http" if name == "station" else "health"
    assert ports[port] == (
        config.station.port if name == "station" else parse_address(config.health.address)[1]
    )
    asked = {
        probe: container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert asked == {
        "startupProbe": {"path": "/healthz", "port": port},
        "readinessProbe": {"path": "/readyz", "port": port},
        "livenessProbe": {"path": "/healthz", "port": port},
    }
    # Starting may take as long as the role itself allows.
    start = container["startupProbe"]
    assert start["failureThreshold"] * start["periodSeconds"] >= 300


@pytest.mark.parametrize("name", sorted(PODS))
def test_no_pod_is_root_or_has_more_than_it_needs(name):
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


def test_network_policies_let_through_what_is_needed_and_no_more():
    policies = {one["metadata"]["name"]: one["spec"] for one in RESOURCES if one["kind"] == "NetworkPolicy"}
    assert policies.pop("nobody-unless-named") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert set(policies) == set(PODS)

    def peers(rules, side):
        return {
            (peer["podSelector"]["matchLabels"]["app"], rule["ports"][0]["port"])
            for rule in rules
            for peer in rule.get(side, ())
        }

    incoming, outgoing = set(), set()
    for name, policy in policies.items():
        assert policy["podSelector"] == {"matchLabels": {"app": name}}
        numbers = {
            port["name"]: port["containerPort"] for port in PODS[name]["containers"][0].get("ports", ())
        }
        incoming |= {(peer, name, numbers.get(port, port)) for peer, port in peers(policy["ingress"], "from")}
        outgoing |= {(name, peer, port) for peer, port in peers(policy["egress"], "to")}
    # Both ends agree.
    assert incoming == outgoing
    assert {one for one in incoming if one[1] == "nats"} == {("gateway", "nats", 4222)}
    from_anywhere = {
        name for name, policy in policies.items() for rule in policy["ingress"] if "from" not in rule
    }
    assert from_anywhere == {"gateway", "station"}


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
        for container in pod["containers"]:
            for one in container.get("env", ()):
                if "valueFrom" in one:
                    assert one["valueFrom"]["secretKeyRef"]["name"] in generated
    config = load(KUBERNETES / "cloud.example.toml", CloudConfig)
    ports = {port["name"]: port["containerPort"] for port in PODS["gateway"]["containers"][0]["ports"]}
    assert config.gateway.edge_address.endswith(f":{ports['edges']}")
    assert config.broker.address == f"tcp://gateway:{ports['workers']}"
    assert PODS["station"]["containers"][0]["ports"][0]["containerPort"] == config.station.port


def test_the_queues_server_keeps_what_it_acknowledges_and_takes_whole_frames():
    text = (KUBERNETES / "nats.conf").read_text()
    assert re.search(r"^\s*sync_interval: always$", text, re.MULTILINE)
    assert re.search(r"^max_payload: 8MB$", text, re.MULTILINE)
    # tests/test_site_secrets.py runs a server with it.


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
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x")
    shutil.copy(tmp_path / "base" / "cloud.example.toml", tmp_path / "base" / "cloud.toml")
    subprocess.run(["kubectl", "kustomize", tmp_path / "base"], check=True, capture_output=True)


def test_what_comes_in_goes_before_what_is_worked_off():
    """On one busy machine a camera host and the gateway must not starve behind workers, nor people behind refiners."""
    weights = {
        unit.stem.removeprefix("secondlook-"): int(
            re.search(r"^CPUWeight=(\d+)$", unit.read_text(), re.MULTILINE)[1]
        )
        for unit in DEPLOY.glob("*.service")
    }
    assert weights["gateway"] == weights["edge"] == weights["edge@"] > weights["station"] > weights["worker@"]
    assert weights["worker@"] > weights["refiner@"] >= weights["retention"]


@pytest.mark.parametrize("role", ["gateway", "worker@", "refiner@", "retention"])
def test_units_of_roles_that_read_settings_again_can_be_reloaded(role):
    assert "ExecReload=/bin/kill -HUP $MAINPID" in (DEPLOY / f"secondlook-{role}.service").read_text()


def test_the_first_user_is_made_once_and_with_a_password_that_was_made_for_it():
    args = build_parser().parse_args(OUR_PODS["first-user"]["containers"][0]["args"])
    assert (args.name, args.role, args.unless_any) == ("admin", "admin", True)
    (secret,) = (one for one in KUSTOMIZATION["secretGenerator"] if one["name"] == "first-user")
    assert secret["files"] == ["password=secrets/first-user"]
    assert "rand -hex 12 >first-user" in (DEPLOY / "prepare.sh").read_text()


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_manifests_keep_to_the_schema_of_their_kind(resource):
    assert kubernetes_schema.complaints(resource) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "replica"), 2),
        (("spec", "template", "spec", "containers", 0, "livenesProbe"), {}),
        (("spec", "template", "spec", "containers", 0, "ports", 0, "containerPort"), "7601"),
        (("spec", "template", "spec", "containers", 0, "resources", "limits", "memory"), "1 GB"),
        (("metadata", "name"), "Gate_way"),
    ],
)
def test_the_schema_finds_what_is_wrong(path, value):
    (gateway,) = (
        one for one in RESOURCES if one["kind"] == "Deployment" and one["metadata"]["name"] == "gateway"
    )
    wrong = copy.deepcopy(gateway)
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert len(kubernetes_schema.complaints(wrong)) == 1


def test_the_kustomization_keeps_to_its_schema():
    assert kubernetes_schema.complaints(KUSTOMIZATION) == []
    assert len(kubernetes_schema.complaints({**KUSTOMIZATION, "secretsGenerator": []})) == 1


def test_the_compose_file_keeps_to_its_schema():
    assert compose_schema.complaints(COMPOSE) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("services", "worker", "mem_limits"), "4g"),
        (("services", "worker", "mem_limit"), "4 GB"),
        (("services", "worker", "read_only"), "yes"),
        (("services", "worker", "healthcheck", "intervall"), "15s"),
        (("services", "worker", "healthcheck", "interval"), "15 s"),
        (("services", "worker", "deploy", "replicas"), "two"),
        (("services", "worker", "restart"), "unless-stoped"),
        (("services", "worker", "command"), []),
        (("services", "worker", "volumes", 0), "cloud.toml"),
        (("services", "station", "ports", 0), "7600"),
        (("services", "worker", "depends_on", "nats", "condition"), "service_ready"),
        (("services", "worker", "depends_on", "nats", "condition"), "service_healthy"),
        (("services", "worker", "depends_on", "natz"), {"condition": "service_started"}),
        (("services", "worker", "networks", "elsewhere"), None),
        (("services", "worker", "volumes", 0), "lost:/var/lib/secondlook"),
        (("network",), {}),
    ],
    ids=lambda one: one[-1] if isinstance(one, tuple) else None,
)
def test_the_schema_of_compose_finds_what_is_wrong(path, value):
    wrong = json.loads(json.dumps(COMPOSE))  # without what anchors have in common
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert len(compose_schema.complaints(wrong)) == 1


def answers(*command: str) -> bool:
    """Whether a command is there and ends well."""
    return shutil.which(command[0]) is not None and not subprocess.call(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.skipif(not answers("docker", "compose", "version"), reason="docker compose is not installed")
def test_docker_compose_takes_the_file(tmp_path):
    folder = tmp_path / "deploy" / "compose"
    shutil.copytree(DEPLOY / "compose", folder, ignore=shutil.ignore_patterns("secrets", "cloud.toml"))
    for service in COMPOSE["services"].values():
        for file in service.get("env_file", ()):
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).touch()
    subprocess.run(["docker", "compose", "config", "--quiet"], cwd=folder, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(not answers("docker", "info"), reason="no container engine answers")
def test_the_image_is_built_and_runs():
    tag = "secondlook-test"
    subprocess.run(
        ["docker", "build", "--file", DEPLOY / "Dockerfile", "--tag", tag, DEPLOY.parent], check=True
    )
    command = [
        "docker",
        "run",
        "--rm",
        "--read-only",
        "--cap-drop",
        "ALL",
        "--user",
        "10001:10001",
        tag,
        "doctor",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "packages" in done.stdout, done.stderr
