"""`verbatim slo`: what is left of each objective's error budget, as Prometheus has recorded it."""

from __future__ import annotations

from typing import Annotated, Any

import httpx2
import typer

from verbatim_client.cli.edge import CliError, Exit, run
from verbatim_client.cli.options import JsonLines
from verbatim_client.cli.printing import print_json, print_rows

COLUMNS = ("slo", "objective", "good_30d", "budget_left", "burn_1h", "state")
# Column of the answer, recorded series.
SERIES = {
    "objective": "slo:objective:ratio",
    "errors_30d": "slo:errors:ratio_rate30d",
    "errors_1h": "slo:errors:ratio_rate1h",
    "left": "slo:budget:remaining_ratio",
}
ASKED_WITHIN_S = 10.0
# As fast as the alerts that page.
FAST = 14.4

Url = Annotated[
    str, typer.Option("--prometheus", metavar="URL", envvar="VERBATIM_PROMETHEUS_URL", help="Address of Prometheus.")
]


def slo(prometheus: Url = "http://localhost:9090", json_lines: JsonLines = False) -> None:
    """Show objectives and their error budgets of 30 days. Exit code 1 if one is used up."""
    run(_slo(prometheus, json_lines=json_lines))


async def _slo(prometheus: str, *, json_lines: bool) -> None:
    async with httpx2.AsyncClient(base_url=prometheus, timeout=ASKED_WITHIN_S) as http:
        found = {column: await _ask(http, series) for column, series in SERIES.items()}
    if not found["objective"]:
        raise CliError("Prometheus has not recorded any objective: are deploy/alerts its rules?", Exit.NOT_FOUND)
    rows = [_row(name, {column: values.get(name) for column, values in found.items()}) for name in found["objective"]]
    if json_lines:
        for row in rows:
            print_json(row)
    else:
        print_rows(COLUMNS, [{name: _shown(name, value) for name, value in row.items()} for row in rows])
    if any(row["state"] == "used up" for row in rows):
        raise typer.Exit(Exit.FAILED)


async def _ask(http: httpx2.AsyncClient, query: str) -> dict[str, float]:
    answer = await http.get("/api/v1/query", params={"query": query})
    if answer.status_code != 200:
        raise CliError(f"Prometheus answers {answer.status_code}", Exit.UNAVAILABLE)
    rows: list[dict[str, Any]] = answer.json()["data"]["result"]
    return {row["metric"].get("slo", ""): float(row["value"][1]) for row in rows}


def _row(name: str, values: dict[str, float | None]) -> dict[str, Any]:
    objective, errors, recent, left = (values[column] for column in ("objective", "errors_30d", "errors_1h", "left"))
    assert objective is not None
    burn = None if recent is None else recent / (1 - objective)
    state = "no events" if left is None else "used up" if left <= 0 else "ok"
    if state == "ok" and burn is not None and burn > FAST:
        state = "burning"
    return {
        "slo": name,
        "objective": objective,
        "good_30d": None if errors is None else 1 - errors,
        "budget_left": left,
        "burn_1h": burn,
        "state": state,
    }


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "burn_1h":
        return f"{value:.2f}x"
    return f"{value:.4%}" if isinstance(value, float) else str(value)
