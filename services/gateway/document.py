"""The document that clients are made from: what the framework knows of the routes, and what it cannot know."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

# The framework would call these optional: their absence has answers of its own (428, 412), not its 422.
_NEEDED: dict[str, dict[str, Any]] = {
    "if-match": {"type": "string", "pattern": '^"[0-9]{1,18}"$', "examples": ['"3"']},
    "tus-resumable": {"type": "string", "enum": ["1.0.0"]},
}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application whose routes are all known."""
    schema = app.openapi()
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if needed := _NEEDED.get(parameter["name"]):
                    parameter.update(required=True, schema=needed)
    return schema
