"""The part of the Kubernetes API that the manifests in deploy/ use, as JSON Schema that allows nothing else.

A field that is misspelt, of another type, or in another place is an error here, as it is at an API server that
validates strictly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jsonschema

Schema = dict[str, Any]

_NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
_TEXT: Schema = {"type": "string", "minLength": 1}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGTP]i?)?$"}


def _object(required: Sequence[str] = (), **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def _map(value: Schema) -> Schema:
    return {"type": "object", "additionalProperties": value, "minProperties": 1}


_METADATA = _object(["name"], name=_NAME, labels=_map(_TEXT), annotations=_map(_TEXT))
_LABELS = _object(["labels"], labels=_map(_TEXT))
_SELECTOR = _object(["matchLabels"], matchLabels=_map(_TEXT))
_ANY = _object()  # {}: all pods
_ITEMS = _list(_object(["key", "path"], key=_TEXT, path=_TEXT, mode=_COUNT))
_NUMBER_OR_NAME: Schema = {"anyOf": [_PORT, _NAME]}
_GET = _object(["path", "port"], path={"type": "string", "pattern": "^/"}, port=_NUMBER_OR_NAME)
_TIMES = {
    name: {"type": "integer", "minimum": 1}
    for name in ("failureThreshold", "periodSeconds", "timeoutSeconds", "successThreshold")
}
_PROBE = _object(
    httpGet=_GET,
    exec=_object(["command"], command=_list(_TEXT)),
    tcpSocket=_object(["port"], port=_NUMBER_OR_NAME),
    initialDelaySeconds=_COUNT,
    **_TIMES,
)
_ENV = _object(
    ["name"],
    name=_TEXT,
    value=_TEXT,
    valueFrom=_object(secretKeyRef=_object(["name", "key"], name=_NAME, key=_TEXT)),
)
_RESOURCES = _object(requests=_map(_QUANTITY), limits=_map(_QUANTITY))
_CONTAINER_CONTEXT = _object(
    allowPrivilegeEscalation=_FLAG,
    readOnlyRootFilesystem=_FLAG,
    capabilities=_object(drop=_list(_TEXT), add=_list(_TEXT)),
    runAsUser=_COUNT,
    runAsNonRoot=_FLAG,
)
_CONTAINER = _object(
    ["name", "image"],
    name=_NAME,
    image=_TEXT,
    command=_list(_TEXT),
    args=_list(_TEXT),
    env=_list(_ENV),
    ports=_list(
        _object(["containerPort"], name=_NAME, containerPort=_PORT, protocol={"enum": ["TCP", "UDP"]})
    ),
    startupProbe=_PROBE,
    readinessProbe=_PROBE,
    livenessProbe=_PROBE,
    resources=_RESOURCES,
    securityContext=_CONTAINER_CONTEXT,
    volumeMounts=_list(
        _object(["name", "mountPath"], name=_NAME, mountPath=_TEXT, readOnly=_FLAG, subPath=_TEXT)
    ),
)
_CONFIG_MAP = _object(["name"], name=_NAME, items=_ITEMS, defaultMode=_COUNT)
_VOLUME = _object(
    ["name"],
    name=_NAME,
    emptyDir=_object(sizeLimit=_QUANTITY, medium=_TEXT),
    configMap=_CONFIG_MAP,
    secret=_object(["secretName"], secretName=_NAME, items=_ITEMS, defaultMode=_COUNT),
    projected=_object(
        ["sources"],
        defaultMode=_COUNT,
        sources=_list(
            _object(
                configMap=_object(["name"], name=_NAME, items=_ITEMS),
                secret=_object(["name"], name=_NAME, items=_ITEMS),
            )
        ),
    ),
)
_POD_CONTEXT = _object(
    runAsNonRoot=_FLAG,
    runAsUser=_COUNT,
    runAsGroup=_COUNT,
    fsGroup=_COUNT,
    fsGroupChangePolicy=_TEXT,
    seccompProfile=_object(["type"], type={"enum": ["RuntimeDefault", "Localhost", "Unconfined"]}),
)
_POD = _object(
    ["containers"],
    automountServiceAccountToken=_FLAG,
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    terminationGracePeriodSeconds=_COUNT,
    securityContext=_POD_CONTEXT,
    initContainers=_list(_CONTAINER),
    containers=_list(_CONTAINER),
    volumes=_list(_VOLUME),
)
_TEMPLATE = _object(["metadata", "spec"], metadata=_LABELS, spec=_POD)
_CLAIM = _object(
    ["metadata", "spec"],
    metadata=_METADATA,
    spec=_object(
        ["accessModes", "resources"],
        accessModes=_list({"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]}),
        resources=_RESOURCES,
        storageClassName=_TEXT,
    ),
)
_PEER = _object(podSelector={"anyOf": [_SELECTOR, _ANY]}, namespaceSelector={"anyOf": [_SELECTOR, _ANY]})
_PORTS = _list(_object(port=_NUMBER_OR_NAME, protocol={"enum": ["TCP", "UDP"]}))
_RULES_IN: Schema = {"type": "array", "items": _object(**{"from": _list(_PEER), "ports": _PORTS})}
_RULES_OUT: Schema = {"type": "array", "items": _object(to=_list(_PEER), ports=_PORTS)}

_SPECS: dict[tuple[str, str], Schema] = {
    ("apps/v1", "Deployment"): _object(
        ["selector", "template"],
        replicas=_COUNT,
        selector=_SELECTOR,
        template=_TEMPLATE,
        strategy=_object(type={"enum": ["RollingUpdate", "Recreate"]}),
    ),
    ("apps/v1", "StatefulSet"): _object(
        ["selector", "serviceName", "template"],
        replicas=_COUNT,
        serviceName=_NAME,
        selector=_SELECTOR,
        template=_TEMPLATE,
        volumeClaimTemplates=_list(_CLAIM),
    ),
    ("batch/v1", "Job"): _object(
        ["template"], backoffLimit=_COUNT, ttlSecondsAfterFinished=_COUNT, template=_TEMPLATE
    ),
    ("v1", "Service"): _object(
        ["ports"],
        type={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        clusterIP={"enum": ["None"]},
        selector=_map(_TEXT),
        ports=_list(_object(["port"], name=_NAME, port=_PORT, targetPort=_NUMBER_OR_NAME, protocol=_TEXT)),
    ),
    ("networking.k8s.io/v1", "NetworkPolicy"): _object(
        ["podSelector"],
        podSelector={"anyOf": [_SELECTOR, _ANY]},
        policyTypes=_list({"enum": ["Ingress", "Egress"]}),
        ingress=_RULES_IN,
        egress=_RULES_OUT,
    ),
}


_FILES = _list({"type": "string", "pattern": r"^([a-z0-9.-]+=)?[a-z0-9_./-]+$"})
_KUSTOMIZATION = _object(
    ["apiVersion", "kind", "resources"],
    apiVersion={"const": "kustomize.config.k8s.io/v1beta1"},
    kind={"const": "Kustomization"},
    namespace=_NAME,
    labels=_list(_object(["pairs"], pairs=_map(_TEXT), includeSelectors=_FLAG)),
    resources=_list(_TEXT),
    configMapGenerator=_list(_object(["name", "files"], name=_NAME, files=_FILES)),
    secretGenerator=_list(_object(["name", "files"], name=_NAME, files=_FILES)),
)


def complaints(resource: dict[str, Any]) -> list[str]:
    """What is wrong with one manifest, a line each."""
    kind = (resource.get("apiVersion", ""), resource.get("kind", ""))
    fields: dict[str, Schema] = {"apiVersion": _TEXT, "kind": _TEXT, "metadata": _METADATA}
    if resource.get("kind") == "Kustomization":
        schema = _KUSTOMIZATION
    elif kind == ("v1", "Namespace"):
        schema = _object(["metadata"], **fields)
    elif kind in _SPECS:
        schema = _object(["metadata", "spec"], **fields, spec=_SPECS[kind])
    else:
        return [f"{'/'.join(kind)} is a kind that is not known here"]
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(resource)
    ]
