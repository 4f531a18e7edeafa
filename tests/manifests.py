"""The manifests of deploy/ as documents, the schemas that they are held to, and how to walk through them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SCHEMAS = ROOT / "tests" / "deploy" / "schemas"
VALUES = DEPLOY / "helm" / "ray-cluster.values.yaml"
KUBERNETES = {
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "Service": "io.k8s.api.core.v1.Service",
}

Keys = tuple[str | int, ...]


def documents() -> dict[str, dict[str, Any]]:
    """Every document of deploy/kuberay, by its kind and name."""
    files = sorted((DEPLOY / "kuberay").glob("*.yaml"))
    found = [document for file in files for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    return {f"{document['kind']}/{document['metadata']['name']}": document for document in found}


def values() -> dict[str, Any]:
    """The values for the chart ray-cluster."""
    return yaml.safe_load(VALUES.read_text(encoding="utf-8"))


@cache
def _registry() -> Registry:
    schemas = [json.loads((SCHEMAS / "kubernetes.json").read_text(encoding="utf-8"))]
    schemas += [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(SCHEMAS.glob("*.yaml"))]
    return Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in schemas)


@cache
def validator(reference: str) -> Draft202012Validator:
    """Holds documents to a schema of the folder schemas, such as `kuberay.yaml#/$defs/RayJob`."""
    return Draft202012Validator({"$ref": reference}, registry=_registry())


def schema_of(document: dict[str, Any]) -> str:
    """The schema for a document's kind; a kind that is not known has none, and is an error."""
    if document["apiVersion"].startswith("ray.io/"):
        return f"kuberay.yaml#/$defs/{document['kind']}"
    return f"kubernetes.json#/$defs/{KUBERNETES[document['kind']]}"


def mistakes(document: dict[str, Any], reference: str) -> list[str]:
    """What the schema finds wrong, with the place."""
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator(reference).iter_errors(document)]


def keys_of(node: Any, path: Keys = ()) -> Iterator[Keys]:
    """The path of every key of every mapping in a document."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        if isinstance(node, dict):
            yield (*path, key)
        yield from keys_of(child, (*path, key))


def at(node: Any, path: Keys) -> Any:
    """What lies at a path."""
    for key in path:
        node = node[key]
    return node


def found(node: Any, key: str) -> list[Any]:
    """The values of a key, wherever it stands."""
    return [at(node, path) for path in keys_of(node) if path[-1] == key]


def clusters() -> dict[str, dict[str, Any]]:
    """The Ray cluster that a document describes, by the document's kind and name."""
    described = {name: found(document, "rayClusterSpec") + found(document, "rayClusterConfig") for name, document in documents().items()}
    return {name: specs[0] for name, specs in described.items() if specs}


def commands() -> dict[str, list[str]]:
    """The words of every job's entrypoint, by its document."""
    return {name: shlex.split(words) for name, document in documents().items() for words in found(document, "entrypoint")}


def pods() -> dict[str, dict[str, Any]]:
    """Every pod's specification, by its document and its place there."""
    return {
        f"{name}:{'.'.join(map(str, path))}": at(document, path)
        for name, document in documents().items()
        for path in keys_of(document)
        if path[-1] == "spec" and "containers" in at(document, path)
    }
