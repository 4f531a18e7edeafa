"""Writes kubernetes.json of this folder: names and types of what deploy/ uses of the Kubernetes API, without its descriptions.

    pip download --no-deps kubernetes-validate==1.37.0 && python tests/deploy/schemas/prune.py kubernetes_validate-1.37.0-py3-none-any.whl

The wheel holds the JSON schemas that are made from Kubernetes' OpenAPI document, with objects closed to unknown fields. kubeconform needs a network for them.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

VERSION = "1.31"  # the oldest that the manifests are written for: a newer API server takes the same fields
SOURCE = f"kubernetes_validate/kubernetes-json-schema/v{VERSION}.0-local-strict/_definitions.json"
ROOTS = (
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.api.core.v1.PodTemplateSpec",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.networking.v1.NetworkPolicy",
)
NOTICE = (
    f"Field names and types of the Kubernetes {VERSION} API, copyright The Kubernetes Authors, Apache License 2.0; taken by prune.py of this folder from "
    "kubernetes-validate 1.37.0 (copyright Will Thames, Apache License 2.0). Descriptions and all that deploy/ does not reach were removed."
)


def bare(schema: Any) -> Any:
    """A schema without its descriptions; a property may well be called description."""
    if isinstance(schema, list):
        return [bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key != "description" and not key.startswith("x-")}
    return {key: {name: bare(part) for name, part in value.items()} if key == "properties" else bare(value) for key, value in kept.items()}


def named_in(schema: Any) -> set[str]:
    """The definitions that a schema refers to."""
    if isinstance(schema, list):
        return set().union(*map(named_in, schema))
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"].rpartition("/")[2]} if isinstance(schema.get("$ref"), str) else set()
    return own.union(*map(named_in, schema.values()))


def prune(definitions: dict[str, Any]) -> dict[str, Any]:
    """The roots and all that they reach."""
    found: dict[str, Any] = {}
    waiting = set(ROOTS)
    while waiting:
        name = waiting.pop()
        found[name] = bare(definitions[name])
        waiting |= named_in(found[name]) - set(found)
    return {
        "$comment": NOTICE,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "kubernetes.json",
        "$defs": dict(sorted(found.items())),
    }


if __name__ == "__main__":
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        schema = prune(json.loads(wheel.read(SOURCE))["$defs"])
    lines = [f"{json.dumps(name)}: {json.dumps(part, separators=(',', ':'))}" for name, part in schema.pop("$defs").items()]
    head = json.dumps(schema, indent=1).removesuffix("\n}")
    Path(__file__).with_name("kubernetes.json").write_text(head + ',\n "$defs": {\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
