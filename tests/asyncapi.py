"""docs/asyncapi.yaml as a judge of what is really said."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Literal

import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from dev.settings import ROOT

Side = Literal["fromClient", "fromServer", "toViewer"]


@cache
def _validator(side: Side) -> Draft202012Validator:
    document = yaml.safe_load((ROOT / "docs/asyncapi.yaml").read_text(encoding="utf-8"))
    return Draft202012Validator({"$ref": f"#/components/schemas/{side}", "components": document["components"]})


def faults(side: Side, message: Any) -> list[str]:
    """Return what is wrong with a message."""
    return [f"{side} {json.dumps(message)[:300]}: {one.message[:200]}" for one in _validator(side).iter_errors(message)]
