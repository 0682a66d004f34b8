"""The part of the Compose Specification that deploy/compose uses, as JSON Schema that allows nothing else.

A key that is misspelt, of another type, or in another place is an error here, as it is for `docker compose config`.
What a schema cannot say, `complaints` looks at besides: that what is named is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jsonschema

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9][a-z0-9_-]*$"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_SIZE: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?[bkmg]b?$"}
_DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+(us|ms|s|m|h))+$"}
_PORT: Schema = {"type": "string", "pattern": r"^([0-9.]+:)?[0-9]{1,5}:[0-9]{1,5}(/(tcp|udp))?$"}
_MOUNT: Schema = {"type": "string", "pattern": r"^(\.{1,2}/[^:]+|[a-z0-9_-]+):/[^:]+(:(ro|rw))?$"}
_SCALAR: Schema = {"type": ["string", "number"]}


def _object(required: Iterable[str] = (), **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1, "uniqueItems": True}


def _map(value: Schema) -> Schema:
    return {"type": "object", "propertyNames": _NAME, "additionalProperties": value, "minProperties": 1}


def _or_nothing(schema: Schema) -> Schema:
    return {"anyOf": [{"type": "null"}, schema]}


_CONDITION: Schema = {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
_HEALTHCHECK = _object(
    ["test"],
    # A command and its arguments, behind how it is to be run; these may come twice.
    test={
        "type": "array",
        "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}],
        "items": _TEXT,
        "minItems": 2,
    },
    interval=_DURATION,
    timeout=_DURATION,
    retries=_COUNT,
    start_period=_DURATION,
)
_SERVICE = _object(
    ["image"],
    image=_TEXT,
    build=_object(["context"], context=_TEXT, dockerfile=_TEXT, target=_TEXT, args=_map(_SCALAR)),
    restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
    user={"type": "string", "pattern": r"^[a-z0-9_-]+(:[a-z0-9_-]+)?$"},
    read_only=_FLAG,
    cap_drop=_list(_TEXT),
    security_opt=_list(_TEXT),
    pids_limit=_COUNT,
    mem_limit=_SIZE,
    shm_size=_SIZE,
    tmpfs=_list({"type": "string", "pattern": "^/"}),
    command={"type": "array", "items": _TEXT, "minItems": 1},
    env_file=_list({"type": "string", "pattern": r"^\./"}),
    environment={
        "type": "object",
        "propertyNames": {"pattern": r"^[A-Z_]+$"},
        "additionalProperties": _SCALAR,
    },
    volumes=_list(_MOUNT),
    depends_on=_map(_object(["condition"], condition=_CONDITION)),
    networks=_map(_or_nothing(_object(aliases=_list(_NAME)))),
    ports=_list(_PORT),
    healthcheck=_HEALTHCHECK,
    deploy=_object(replicas=_COUNT),
)
_FILE: Schema = {
    **_object(
        ["services"],
        name=_NAME,
        services=_map(_SERVICE),
        networks=_map(_or_nothing(_object(internal=_FLAG))),
        volumes=_map({"type": "null"}),
    ),
    "patternProperties": {"^x-": {}},
}


def complaints(file: dict[str, Any]) -> list[str]:
    """What is wrong with a compose file, a line each."""
    found = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.Draft202012Validator(_FILE).iter_errors(file)
    ]
    return found or [*_dangling(file)]


def _dangling(file: dict[str, Any]) -> Iterable[str]:
    """Names of services, networks and volumes that are nowhere; a service that is waited for and tells no health."""
    services = file["services"]
    for name, service in services.items():
        for other, wanted in service.get("depends_on", {}).items():
            if other not in services:
                yield f"services.{name}.depends_on: there is no service {other}"
            elif wanted["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                yield f"services.{name}.depends_on: {other} has no healthcheck"
        for network in set(service.get("networks", {})) - set(file.get("networks", {})):
            yield f"services.{name}.networks: there is no network {network}"
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if not source.startswith(".") and source not in file.get("volumes", {}):
                yield f"services.{name}.volumes: there is no volume {source}"
