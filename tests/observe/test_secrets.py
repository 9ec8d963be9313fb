"""What people say, and what they keep secret, is in nothing that a process tells: however and wherever it fails."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from chassis.tests.servers import NatsServer
from tests.observe.receivers import Collector, Receiver, SentryServer

pytestmark = [pytest.mark.req("R-OBS-6", "R-SEC-1", "R-OBS-5"), pytest.mark.timeout(240)]


async def test_two_hundred_canaries_are_in_no_log_event_trace_metric_or_dead_letter(
    database_url: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    collector, sentry = Collector(), SentryServer()
    async with Receiver(collector.take).running() as spans, Receiver(sentry.take).running() as events:
        env = os.environ | {
            "SERVICE_AUTH_KEY": "k" * 40, "INTERNAL_PORT": "0", "NATS_URL": nats_server.url,
            "DATABASE_URL": database_url, "CANARIES": str(tmp_path / "canaries"), "METRICS": str(tmp_path / "metrics"),
            "LETTERS": str(tmp_path / "letters"), "LOG_LEVEL": "DEBUG", "VERBATIM_ENV": "production",
            "OTEL_EXPORTER_OTLP_ENDPOINT": spans.url, "OTEL_TRACES_SAMPLER_ARG": "1",
            "SENTRY_DSN": f"{events.url.replace('://', '://public@')}/7",
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.observe.loud", env=env,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        log = (await process.communicate())[0].decode()
    assert process.returncode == 1, log[-3000:]
    canaries = (tmp_path / "canaries").read_text().split()
    assert len(canaries) >= 200
    told = {
        "log": log,
        "metrics": (tmp_path / "metrics").read_text(),
        "dead letters": (tmp_path / "letters").read_text(),
        "traces": b"".join(collector.raw).decode("latin-1"),
        "sentry": b"".join(sentry.raw).decode("latin-1"),
    }
    for where, text in told.items():
        assert text, where
        assert [one for one in canaries if one in text] == [], where

    # They would have been found: everything that failed was told, with its place.
    lines = [json.loads(line) for line in log.splitlines()]
    failures = [line for line in lines if "exception" in line]
    assert len(failures) >= 40
    assert all("loud.py" in line["exception"] for line in failures if line["logger"] == "loud")
    assert all(line["trace_id"] and line["request_id"] for line in lines if line["event"] == "request failed")
    reported = sentry.of("event")
    assert len(reported) >= 40
    named = {event.get("logentry", {}).get("message") for event in reported}
    assert {
        "request failed",
        "call failed",
        "stream failed",
        "attempt failed",
        "logged",
        "stopped by a failure",
    } <= named
    types = {value["type"] for event in reported for value in event.get("exception", {}).get("values", [])}
    assert {"JSONDecodeError", "ValidationError", "FileNotFoundError", "ExceptionGroup", "RuntimeError"} <= types
    for event in reported:
        assert (event["environment"], event["tags"]["service"]) == ("production", "loud")
        assert event["release"]
        frames = [f for v in event.get("exception", {}).get("values", []) for f in v["stacktrace"]["frames"]]
        assert not any("vars" in frame or "context_line" in frame for frame in frames)
    assert {span.attributes.get("error.type") for span in collector.spans} >= {"JSONDecodeError", "RuntimeError"}
