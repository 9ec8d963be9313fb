"""`verbatim recover` and `verbatim slo`, against real HTTP servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner
from verbatim_client.cli.app import application
from verbatim_client.cli.procedures import OF_ALERT, PROCEDURES

RECORDED = {
    "slo:objective:ratio": {"availability": 0.999, "jobs": 0.999, "events": 0.99},
    "slo:errors:ratio_rate30d": {"availability": 0.0004, "jobs": 0.002},
    "slo:errors:ratio_rate1h": {"availability": 0.0, "jobs": 0.02},
    "slo:budget:remaining_ratio": {"availability": 0.6, "jobs": -1.0},
}


class Platform(BaseHTTPRequestHandler):
    puts: list[dict[str, Any]] = []  # noqa: RUF012 - one server, one test

    def do_GET(self) -> None:
        values = RECORDED[parse_qs(urlsplit(self.path).query)["query"][0]]
        rows = [{"metric": {"slo": name}, "value": [0, str(value)]} for name, value in values.items()]
        self._answer({"data": {"result": rows}})

    def do_PUT(self) -> None:
        self.puts.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._answer({"items": []})

    def _answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@pytest.fixture
def url() -> Iterator[str]:
    Platform.puts.clear()
    server = HTTPServer(("127.0.0.1", 0), Platform)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def verbatim(url: str, *arguments: str) -> Any:
    env = {"VERBATIM_TOKEN": "token", "NO_COLOR": "1"}
    return CliRunner().invoke(application(), ["--url", url, *arguments], env=env)


@pytest.mark.req("R-HEAL-1", "R-UI-2")
@pytest.mark.parametrize("name", PROCEDURES)
def test_a_procedure_says_what_it_would_do_and_does_it_when_told(name: str, url: str) -> None:
    target = ["--target", "Meetings"] if PROCEDURES[name].target else []
    said = verbatim(url, "recover", name, *target)
    assert said.exit_code == 0 and "nothing was done" in said.output and Platform.puts == []
    done = verbatim(url, "recover", name, *target, "--do", "--why", "a drill")
    assert done.exit_code == 0, done.output
    assert [(put["value"], put["why"], put["for_s"]) for put in Platform.puts] == [
        (step.value, "a drill", step.for_s) for step in PROCEDURES[name].steps
    ]
    assert all("{" not in put["name"] and put["name"] == put["name"].lower() for put in Platform.puts)


@pytest.mark.req("R-HEAL-1")
def test_a_procedure_is_found_by_its_alert_and_refused_without_its_target(url: str) -> None:
    assert set(OF_ALERT.values()) <= PROCEDURES.keys()
    assert "breaker.openai = open" in verbatim(url, "recover", "CircuitBreakerOpen").output
    assert verbatim(url, "recover", "drain", "--do").exit_code == 2
    assert verbatim(url, "recover", "no-such-thing").exit_code == 2
    assert "pool-exhaustion" in verbatim(url, "recover").output
    assert Platform.puts == []


@pytest.mark.req("R-OBS-7", "R-UI-2")
def test_budgets_are_shown_and_one_that_is_used_up_fails(url: str) -> None:
    shown = verbatim(url, "slo", "--prometheus", url)
    assert shown.exit_code == 1
    assert "used up" in shown.output and "no events" in shown.output and "60.0000%" in shown.output
    rows = [json.loads(line) for line in verbatim(url, "slo", "--prometheus", url, "--json").output.splitlines()]
    assert {row["slo"]: row["state"] for row in rows} == {
        "availability": "ok",
        "jobs": "used up",
        "events": "no events",
    }
    assert next(row for row in rows if row["slo"] == "jobs")["burn_1h"] == pytest.approx(20.0)
