"""Plain pages: the one that lists every call, the one that says what went wrong. No scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from http import HTTPStatus
from math import ceil
from typing import Any

from chassis.errors import AppError

STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; }
code, pre { font: 0.88rem/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.7rem; border: 1px solid color-mix(in srgb, currentcolor 25%, transparent); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.8rem 0.25rem 0; }
summary { cursor: pointer; padding: 0.35rem 0; }
.method { display: inline-block; min-width: 4.2rem; font-weight: 600; }
"""


def reference(schema: Mapping[str, Any]) -> str:
    """Return a page that lists the calls of an OpenAPI document."""
    sections: dict[str, list[str]] = {}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            section = sections.setdefault(operation.get("tags", ["service"])[0], [])
            section.append("".join(_operation(method, path, operation)))
    body = "".join(f"<h2>{escape(name.capitalize())}</h2>{''.join(calls)}" for name, calls in sections.items())
    types = "".join(
        f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(model.get("description", ""))}</p>{_fields(model)}'
        for name, model in schema["components"]["schemas"].items()
    )
    title = schema["info"]["title"]
    return _page(
        title, f"<h1>{escape(title)}</h1><p>{escape(schema['info']['description'])}</p>{body}<h2>Types</h2>{types}"
    )


def failure(error: AppError, request_id: str) -> str:
    """Return a page that tells a person what a program is told: the safe words, and the request's id."""
    status = HTTPStatus(error.codes.http)
    told = f"<h1>{escape(error.message)}</h1><p>{status.value} {escape(status.phrase)}.</p>"
    if error.retry_after_s is not None:
        told += f"<p>It may work again in {ceil(error.retry_after_s)} seconds.</p>"
    told += f"<p>Whoever helps you will ask for <code>{escape(request_id)}</code>.</p>"
    return _page(f"{status.value} {status.phrase}", told + '<p><a href="/">Back to the start</a></p>')


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="stylesheet" href="/style.css"></head>'
        f"<body><main>{body}</main></body></html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<details><summary><code class="method">{method.upper()}</code> <code>{escape(path)}</code> '
    yield f"{escape(operation.get('summary', ''))}</summary><p>{escape(operation.get('description', ''))}</p>"
    if operation.get("security"):
        yield "<p>Needs <code>Authorization: Bearer</code>.</p>"
    if parameters := operation.get("parameters"):
        yield "<table><tr><th>parameter</th><th>in</th><th>type</th><th>meaning</th></tr>"
        for one in parameters:
            required = ", required" if one.get("required") else ""
            yield f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}{required}</td>"
            yield f"<td>{_type(one['schema'])}</td><td>{escape(one.get('description', ''))}</td></tr>"
        yield "</table>"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: {escape(media)}, {_type(content['schema'])}</p>"
    yield "<table><tr><th>answer</th><th>meaning</th><th>type</th></tr>"
    for status, answer in operation["responses"].items():
        types = {_type(content["schema"]) for content in answer.get("content", {}).values() if "schema" in content}
        yield f"<tr><td>{escape(status)}</td><td>{escape(answer['description'])}</td>"
        yield f"<td>{', '.join(sorted(types))}</td></tr>"
    yield "</table></details>"


def _fields(model: Mapping[str, Any]) -> str:
    if "enum" in model:
        return f"<p>{', '.join(f'<code>{escape(str(one))}</code>' for one in model['enum'])}</p>"
    required = model.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{_type(field)}{', required' if name in required else ''}</td>"
        f"<td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in model.get("properties", {}).items()
    )
    return f"<table>{rows}</table>"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return escape(str(schema.get("format") or schema.get("type", "anything")))
