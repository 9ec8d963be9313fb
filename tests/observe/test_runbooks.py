"""What a runbook tells to type can be typed: every command is taken apart against what it speaks to.

Those for the platform's own command line are parsed by it, those for its API checked as the gateway would, those for
Postgres run on one, those for Kubernetes compared with what the chart makes.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
import typer.main
import yaml
from verbatim_client.cli.app import application
from verbatim_client.cli.procedures import OF_ALERT, PROCEDURES
from verbatim_client.cli.settings import CliSettings

from services.gateway.api.controls import NewControl
from tests.alerts.promql import unknown
from tests.alerts.test_rules import ALERTS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs" / "runbooks").glob("*.md"), *(ROOT / "docs" / "operations").glob("*.md")])
PROGRAMS = ("verbatim", "curl", "kubectl", "helm", "nats")
OBEYED = re.compile(
    r"rate_limits|breaker\.(openai|llm|language_model)|pool\.(meetings|insights)|log_level(\.\S+)?|drain\.\S+|<name>"
)

pytestmark = pytest.mark.req("R-RUN-7", "R-HEAL-1")


def commands() -> list[tuple[str, str]]:
    """Return (page, command) of every line that begins with a program's name, in a block or within a sentence."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
        lines += [quoted for quoted in re.findall(r"`([^`\n]+)`", text) if " " in quoted]
        found += [(page.stem, line) for line in lines if line.split(" ")[0] in PROGRAMS]
    return sorted(set(found))


def of(program: str) -> list[Any]:
    return [
        pytest.param(line, id=f"{page}: {line[:60]}") for page, line in commands() if line.startswith(f"{program} ")
    ]


def filled(line: str) -> str:
    """Put something in the place of `<id>` and the like."""
    return re.sub(r"<[a-z]+>", "0", line)


def chart() -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((ROOT / "deploy/helm/golden/default.yaml").read_text()) if one]


@pytest.mark.parametrize("line", of("verbatim"))
def test_the_command_line_understands_it(line: str) -> None:
    arguments = shlex.split(re.sub(r"\$\w+", "http://localhost:9090", filled(line)))[1:]
    command: Any = typer.main.get_command(application())
    context = click.Context(command, info_name="verbatim", obj=CliSettings(None, None, Path()))
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments.pop(0))
        assert found is not None, line
        command = found
    parsed = command.make_context(str(command.name), arguments, parent=context)
    if command.name == "recover":
        name = parsed.params["name"]
        assert OF_ALERT.get(name, name) in PROCEDURES, line


@pytest.mark.parametrize("line", of("curl"))
def test_the_gateway_understands_it(line: str) -> None:
    words = shlex.split(line)
    if "--json" in words:
        body = NewControl.model_validate(json.loads(words[words.index("--json") + 1].replace("<name>", "rate_limits")))
        assert OBEYED.fullmatch(json.loads(words[words.index("--json") + 1])["name"]), "nobody obeys this control"
        assert body.why
    assert words[-1] in {"$VERBATIM_URL/api/admin/controls", "localhost:9100/readyz"}, line


@pytest.mark.parametrize("line", of("kubectl"))
def test_the_chart_makes_what_it_names(line: str) -> None:
    objects = chart()
    names = {(one["kind"].lower(), one["metadata"]["name"].replace("release-", "")) for one in objects}
    known = {name for _, name in names}
    components = {one["metadata"].get("labels", {}).get("app.kubernetes.io/component") for one in objects} | {"backup"}
    for component in re.findall(r"app\.kubernetes\.io/component=(\w+)", line):
        assert component in components, line
    line = line.replace("<service>", "meetings")
    for kind, name in re.findall(r"\b(deployment|statefulset)[/ ]([a-z-]+)", line):
        assert any(found.endswith(name.removeprefix("verbatim")) for k, found in names if k == kind), (line, names)
    for name in re.findall(r"exec ([a-z-]+)-0", line):
        assert any(found.endswith(name.removeprefix("verbatim")) for found in known), line


@pytest.mark.parametrize("line", of("nats"))
def test_the_broker_has_what_it_names(line: str) -> None:
    assert re.fullmatch(r"nats stream (info|subjects|ls|report)( (JOBS|EVENTS|AUDIO|TRANSCRIPT|DLQ))?", line), line


@pytest.mark.parametrize("line", of("kubectl"))
def test_what_is_looked_for_in_logs_is_logged(line: str) -> None:
    code = "\n".join(path.read_text() for folder in ("chassis", "services") for path in (ROOT / folder).rglob("*.py"))
    for text in re.findall(r"grep '([^']+)'", line):
        assert f'"{text}"' in code, f"nobody logs {text!r}"


def test_postgres_understands_every_statement(database_url: str) -> None:
    found = 0
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        for page in PAGES:
            text = page.read_text()
            statements = [
                s for block in re.findall(r"```sql\n(.*?)```", text, re.S) for s in block.strip().split(";\n")
            ]
            statements += re.findall(r"`(SELECT [^`]+)`", text)
            for statement in statements:
                connection.execute(filled(statement))
                found += 1
    assert found >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_query_can_be_asked(page: Path) -> None:
    for block in re.findall(r"```promql\n(.*?)```", page.read_text(), re.S):
        for query in block.splitlines():
            assert unknown(query) == set(), query


def test_the_handbook_names_every_alert_that_pages() -> None:
    text = (ROOT / "docs/operations/severities.md").read_text()
    for name, rule in ALERTS.items():
        if rule["labels"]["severity"] == "P1":
            assert f"[{name}](../runbooks/{name}.md)" in text, name
