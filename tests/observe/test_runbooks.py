"""What a runbook tells to type can be typed: every command is taken apart against what it speaks to.

Those for the platform's own command line are parsed by it, those for its API checked as the gateway would, those for
Postgres run on one, those for Kubernetes taken apart (by kubectl and Helm themselves where they are) and compared with
what the chart makes. `test_typed.py` types them.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer.main
import yaml
from verbatim_client.cli.app import application
from verbatim_client.cli.procedures import OF_ALERT, PROCEDURES
from verbatim_client.cli.settings import CliSettings

from dev.ports import Ports
from services.gateway.api.controls import NewControl
from tests.alerts.promql import unknown
from tests.alerts.test_rules import ALERTS
from tests.chart.rendering import helm
from tests.observe import kubectl

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs" / "runbooks").glob("*.md"),
        *(ROOT / "docs" / "operations").glob("*.md"),
        *(ROOT / "docs" / name for name in ("backup.md", "databases.md", "install.md")),
    ]
)
PROGRAMS = ("verbatim", "curl", "kubectl", "helm", "nats")
OBEYED = re.compile(
    r"rate_limits|breaker\.(openai|llm|language_model)|pool\.(meetings|insights)|log_level(\.\S+)?|drain\.\S+|caches(\.\S+)?|feature\.partials|<name>"
)

pytestmark = pytest.mark.req("R-RUN-7", "R-HEAL-1")


def commands() -> list[tuple[str, str]]:
    """Return (page, command) of every line that begins with a program's name, in a block or within a sentence."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
        lines += re.findall(r"^    (\S.*)$", text, re.M)
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


@functools.cache
def made() -> dict[tuple[str, str], dict[str, Any]]:
    """What a release called `verbatim` makes, by kind and name; the committed rendering is of one called `v`."""
    found = {}
    for path in (ROOT / "deploy/helm/golden").glob("*.yaml"):
        for one in filter(None, yaml.safe_load_all(path.read_text())):
            name = re.sub(r"^v-verbatim", "verbatim", one["metadata"]["name"])
            found[one["kind"].lower(), name] = one
    for (kind, name), one in list(found.items()):
        if kind == "statefulset":
            found["pod", f"{name}-0"] = one
            for claim in one["spec"]["volumeClaimTemplates"]:
                found["persistentvolumeclaim", f"{claim['metadata']['name']}-{name}-0"] = claim
    for kind, name in (("CronJob", "backup"), ("Deployment", "probe")):  # only where they are enabled
        template = (ROOT / f"deploy/helm/verbatim/templates/{name}.yaml").read_text()
        assert f"kind: {kind}\nmetadata:\n  name: {{{{ $full }}}}-{name}\n" in template
        found[kind.lower(), f"verbatim-{name}"] = {"metadata": {"labels": {"app.kubernetes.io/component": name}}}
    assert any("v-verbatim-secrets" in str(one) for one in found.values())  # a job makes it
    found["secret", "verbatim-secrets"] = {"metadata": {}}
    return found


@pytest.mark.parametrize("line", of("verbatim"))
def test_the_command_line_understands_it(line: str) -> None:
    arguments = shlex.split(re.sub(r"\$\w+", "http://localhost:9090", filled(line)))[1:]
    command: Any = typer.main.get_command(application())
    # Not `isinstance`: Typer's groups are of a Click of its own.
    while arguments and hasattr(command, "commands"):
        assert arguments[0] in command.commands, line
        command = command.commands[arguments.pop(0)]
    if not arguments:
        return  # it is only mentioned
    parsed = command.make_context(str(command.name), arguments, obj=CliSettings(None, None, Path()))
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


def typed(line: str) -> list[str]:
    """The words of a line before its first pipe, placeholders filled."""
    return shlex.split(re.sub(r"<pod>", "verbatim-nats-0", line.replace("<service>", "meetings")))[1:]


def without_pipe(words: list[str]) -> list[str]:
    return words[: words.index("|")] if "|" in words else words


@pytest.mark.parametrize("line", of("kubectl"))
def test_the_chart_makes_what_it_names(line: str) -> None:
    call = kubectl.parse(without_pipe(typed(line)))
    for kind, name in call.objects:
        if name and "<" not in name and call.verb != "create":
            assert (kind, name) in made(), f"the chart makes no {kind} {name}"
    if call.source:
        kind, _, name = call.source.partition("/")
        assert (kind, name) in made(), call.source
    if call.selector:
        key, _, value = call.selector.partition("=")
        labels = [one["metadata"].get("labels", {}) for one in made().values()]
        instance = key == "app.kubernetes.io/instance"
        assert any(one.get(key) == ("v" if instance else value) for one in labels), f"nothing has {call.selector}"
    for container in re.findall(r"(?:--container|-c)[ =](\S+)", line):
        pods = [one["spec"]["template"]["spec"] for (kind, _), one in made().items() if kind.endswith("set")]
        assert any(container == one["name"] for pod in pods for one in pod["containers"]), container


@pytest.mark.long
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_itself_takes_every_line(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    nowhere = ["--kubeconfig", str(tmp_path / "empty"), "--server", f"http://127.0.0.1:{Ports.free().of('nobody')}"]
    for line in sorted({line for _, line in commands() if line.startswith("kubectl ")}):
        said = ran(["kubectl", *without_pipe(typed(line)), *nowhere] if " -- " not in line else aside(line, nowhere))
        assert re.search(r"refused|unable to connect", said, re.IGNORECASE), f"{line}: {said}"


def aside(line: str, options: list[str]) -> list[str]:
    """Put options before the command that is to run in a pod."""
    words = typed(line)
    return ["kubectl", *words[: words.index("--")], *options, *words[words.index("--") :]]


@pytest.mark.parametrize("line", of("helm"))
def test_helm_itself_takes_its_flags(line: str, tmp_path: Path) -> None:
    program = helm()
    if program is None:
        pytest.skip("there is no Helm, and no Go to build it")
    (tmp_path / "empty").touch()
    words = line.split(" ")[1:]
    assert words[0] in {"install", "upgrade", "rollback", "test", "uninstall"}, line
    assert words[1:2] in ([], ["verbatim"]), f"the release is called verbatim: {line}"
    if len(words) > 1:
        nowhere = ["--kubeconfig", str(tmp_path / "empty"), "--kube-apiserver", "http://127.0.0.1:1"]
        # What the reader has made or carried in.
        made = {"verbatim-0.1.0.tgz": "deploy/helm/verbatim", "inside.yaml": str(tmp_path / "empty")}
        said = ran([program, *(made.get(word, word) for word in shlex.split(line)[1:]), *nowhere])
        assert re.search(r"unreachable|refused|reach", said, re.IGNORECASE), f"before it asked anybody: {said}"


def ran(command: list[str]) -> str:
    """Run what cannot succeed here, and return what it says."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0, command
    return done.stderr


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
