"""What is derived from the chart's values.yaml: its table for people (README.md) and its schema for Helm.

`python -m dev.reference` writes both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "deploy" / "helm" / "verbatim"

_COMMENT = re.compile(r"^\s*# -- (?P<text>.*)$")
_KEY = re.compile(r"^(?P<indent>\s*)(?P<key>[A-Za-z][\w-]*):(?P<rest>.*)$")
# Where the keys are not ours to know.
_FREE = {"env", "annotations", "podAnnotations", "nodeSelector", "affinity", "labels"}
_LISTS_OF_OBJECTS = {"tolerations", "parentRefs", "metricsFrom", "gatewayFrom", "extraObjects"}
_SERVICES = ("gateway", "transcriber", "meetings", "insights", "janitor")
_QUANTITY = {"cpu", "memory", "ephemeral-storage"}


def readme(values: str) -> str:
    """Return the chart's README.md: its head and a row per commented value."""
    rows = [f"| `{path}` | {_shown(value)} | {text} |" for path, value, text in _documented(values)]
    head = (CHART / "README.head.md").read_text()
    return "\n".join([head.rstrip(), "", "| value | default | meaning |", "|---|---|---|", *rows, ""])


def schema(values: str) -> str:
    """Return values.schema.json: every key that there is, with its type, and no other."""
    parsed = yaml.safe_load(values)
    tree = _schema(parsed)
    service = _schema(parsed["defaults"])
    tree["properties"]["services"]["properties"] = dict.fromkeys(_SERVICES, service)
    tree["properties"]["services"]["additionalProperties"] = False
    tree["properties"]["gateway"]["properties"]["service"]["properties"]["type"] = {
        "enum": ["ClusterIP", "NodePort", "LoadBalancer"]
    }
    tree["properties"]["image"]["properties"]["pullPolicy"] = {"enum": ["IfNotPresent", "Always", "Never"]}
    # Helm puts it there for every chart.
    tree["properties"]["global"] = {"type": "object"}
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of the chart", **tree}
    return json.dumps(whole, indent=1) + "\n"


def _schema(value: Any, key: str = "") -> dict[str, Any]:
    if key in _FREE:
        return {"type": "object"}
    match value:
        case dict():
            properties = {name: _schema(inner, name) for name, inner in value.items()}
            if key in {"requests", "limits"}:
                properties = {name: {"type": ["string", "number"]} for name in sorted(_QUANTITY)}
            return {"type": "object", "properties": properties, "additionalProperties": False}
        case list():
            return {"type": "array", "items": {"type": "object" if key in _LISTS_OF_OBJECTS else "string"}}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": 0}
        case _ if key == "digest":
            return {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
        case _ if key == "maxUnavailable":
            return {"type": ["integer", "string"]}
    return {"type": "string"}


def _documented(values: str) -> Iterator[tuple[str, Any, str]]:
    """Yield (path, default, meaning) of each value with a `# --` comment."""
    parsed = yaml.safe_load(values)
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in values.splitlines():
        if started := _COMMENT.match(line):
            comment = [started["text"]]
        elif comment and line.strip().startswith("#"):
            comment.append(line.strip().lstrip("# "))
        elif found := _KEY.match(line):
            indent = len(found["indent"])
            path = [*((at, key) for at, key in path if at < indent), (indent, found["key"])]
            if comment:
                keys = [key for _, key in path]
                value = parsed
                for key in keys:
                    value = value[key]
                yield ".".join(keys), value, " ".join(comment)
            comment = []
        else:
            comment = []


def _shown(value: Any) -> str:
    return f"`{json.dumps(value)}`" if value not in ("", [], {}) else ""
