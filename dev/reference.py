"""Write the pages of the documentation that follow from the code: settings and requirements.

python -m dev.reference
"""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from pathlib import Path

from chassis.settings import ServiceSettings, variables
from dev import chart, survived

ROOT = Path(__file__).parent.parent
SERVICES = ("gateway", "transcriber", "meetings", "insights", "janitor")

REQUIREMENTS = {
    "R-SVC-1": "gateway is the only public edge and owns no database",
    "R-SVC-2": "transcriber holds session buffers, cuts, recognises, commits",
    "R-SVC-3": "meetings owns its database",
    "R-SVC-4": "insights owns its own database",
    "R-SVC-5": "janitor",
    "R-SVC-6": "gRPC with deadlines or JetStream between services; ids cross every hop",
    "R-SVC-7": "probes, metrics, JSON logs, drain, checked configuration",
    "R-WS-1": "live PCM and Opus in, partial and final segments out",
    "R-WS-2": "every bad chunk has its error",
    "R-WS-3": "resume",
    "R-WS-4": "nothing acknowledged lost, nothing twice",
    "R-WS-5": "idle sessions are finalised",
    "R-WS-6": "live viewers",
    "R-WS-7": "several tracks in a meeting",
    "R-WS-8": "heartbeats; slow viewers slow nobody",
    "R-STT-1": "any OpenAI-compatible speech server",
    "R-STT-2": "retry with budget and deadline",
    "R-STT-3": "circuit breaker",
    "R-STT-4": "captions never stop",
    "R-STT-5": "transcripts heal",
    "R-STT-6": "silence is no text; words at borders are whole",
    "R-STT-7": "bounded and fair concurrency",
    "R-UP-1": "uploads streamed and limited",
    "R-UP-2": "uploads checked",
    "R-UP-3": "recordings become meetings",
    "R-UP-4": "OpenAI-compatible endpoint",
    "R-API-1": "meetings",
    "R-API-2": "tasks",
    "R-API-3": "insights",
    "R-API-4": "analytics",
    "R-API-5": "optimistic locking",
    "R-API-6": "idempotency keys",
    "R-API-7": "webhooks",
    "R-AUTH-1": "accounts and tokens",
    "R-AUTH-2": "ownership",
    "R-AUTH-3": "login limits and equal answers",
    "R-RL-1": "rate limits",
    "R-RL-2": "Redis failover",
    "R-ERR-1": "one error shape",
    "R-VAL-1": "validation at the edge",
    "R-SEC-1": "headers, origins, body limits, identity of services",
    "R-DB-1": "pools",
    "R-DB-2": "timeouts and slow queries",
    "R-DB-3": "transactions",
    "R-DB-4": "outbox and inbox",
    "R-DB-5": "migrations",
    "R-JOB-1": "jobs",
    "R-JOB-2": "dead letters",
    "R-RES-1": "cleanup",
    "R-RES-2": "memory watch",
    "R-RES-3": "disk full",
    "R-RES-4": "load shedding",
    "R-HEAL-1": "one command per runbook",
    "R-HEAL-2": "partitions",
    "R-OBS-1": "metrics",
    "R-OBS-2": "alerts",
    "R-OBS-3": "dashboards",
    "R-OBS-4": "traces",
    "R-OBS-5": "logs",
    "R-OBS-6": "Sentry",
    "R-OBS-7": "error budgets",
    "R-RUN-1": "one command runs the main job on a fresh machine",
    "R-RUN-2": "helm install",
    "R-RUN-3": "images and compose",
    "R-RUN-4": "autoscaling and drain",
    "R-RUN-5": "backup and restore",
    "R-RUN-6": "chaos harness",
    "R-RUN-7": "documents",
    "R-TEST-1": "tests, coverage, mutation",
    "R-UI-1": "web page",
    "R-UI-2": "SDK and CLI",
}


def settings_page() -> str:
    """Return the table of every environment variable of every service."""
    common = {name for name, *_ in variables(ServiceSettings)}
    lines = ["# Settings", "", "Made by `python -m dev.reference` from each service's `settings.py`.", ""]
    lines += _settings_table("Every service", ServiceSettings, frozenset())
    for service in SERVICES:
        module = importlib.import_module(f"services.{service}.settings")
        lines += _settings_table(service, module.Settings, frozenset(common))
    lines += _settings_table("recovery", importlib.import_module("recovery.settings").Settings, frozenset(common))
    return "\n".join(lines).rstrip() + "\n"


def _settings_table(title: str, cls: type[ServiceSettings], skipped: frozenset[str]) -> list[str]:
    rows = [row for row in variables(cls) if row[0] not in skipped]
    without = [name for name, _, meaning in rows if not meaning]
    if without:
        raise SystemExit(f"settings without a description: {', '.join(without)}")
    table = [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in rows]
    return [f"## {title}", "", "| variable | default | meaning |", "|---|---|---|", *table, ""]


def requirements_page() -> str:
    """Return the table that tells which test proves which requirement."""
    proofs = _proofs()
    unknown = proofs.keys() - REQUIREMENTS.keys()
    if unknown:
        raise SystemExit(f"tests name unknown requirements: {', '.join(sorted(unknown))}")
    proved = sum(bool(proofs[requirement]) for requirement in REQUIREMENTS)
    lines = [
        "# Requirements and their proofs",
        "",
        "Made by `python -m dev.reference` from the `@pytest.mark.req` marks. A requirement is listed as proved when a",
        "test names it; how much of it that test shows is for the reader to judge.",
        "",
        f"{proved} of {len(REQUIREMENTS)} requirements are named by at least one test.",
        "",
        "| id | requirement | tests |",
        "|---|---|---|",
    ]
    for requirement, meaning in REQUIREMENTS.items():
        tests = "<br>".join(f"`{test}`" for test in sorted(proofs[requirement])) or "none yet"
        lines.append(f"| {requirement} | {meaning} | {tests} |")
    return "\n".join(lines) + "\n"


def _proofs() -> dict[str, set[str]]:
    proofs: dict[str, set[str]] = defaultdict(set)
    for folder in ("chassis", "services", "recovery", "dev", "sdk", "tests"):
        for path in sorted((ROOT / folder).rglob("test_*.py")):
            where = path.relative_to(ROOT)
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    for requirement in _marks(node.decorator_list):
                        proofs[requirement].add(f"{where}::{node.name}")
            for statement in tree.body:
                if isinstance(statement, ast.Assign) and any(
                    isinstance(target, ast.Name) and target.id == "pytestmark" for target in statement.targets
                ):
                    values = statement.value.elts if isinstance(statement.value, ast.List) else [statement.value]
                    for requirement in _marks(values):
                        proofs[requirement].add(f"{where}")
    return proofs


def _marks(decorators: list[ast.expr]) -> list[str]:
    """Return the ids in `pytest.mark.req("…")` calls."""
    return [
        str(argument.value)
        for decorator in decorators
        if isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr == "req"
        for argument in decorator.args
        if isinstance(argument, ast.Constant)
    ]


def main() -> None:
    """Write what is derived: the two pages, the README's table, and what goes with the chart's values."""
    (ROOT / "docs/settings.md").write_text(settings_page())
    (ROOT / "docs/requirements.md").write_text(requirements_page())
    faults, readme = (ROOT / "docs/faults.md").read_text(), ROOT / "README.md"
    readme.write_text(survived.told(readme.read_text(), faults))
    values = (chart.CHART / "values.yaml").read_text()
    (chart.CHART / "README.md").write_text(chart.readme(values))
    (chart.CHART / "values.schema.json").write_text(chart.schema(values))


if __name__ == "__main__":
    main()
