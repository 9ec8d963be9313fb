"""What a running platform tells of itself, as real receivers get it: traces, and a figure for every panel."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from pathlib import Path

import httpx2
import pytest
from verbatim_client import VerbatimClient

from dev.panels import DASHBOARDS, RANGE
from tests.alerts.watch import available, watched
from tests.e2e.conftest import PASSWORD
from tests.e2e.speech import recording, speak
from tests.observe.conftest import Scene
from tests.observe.receivers import Span, eventually

pytestmark = [pytest.mark.req("R-OBS-4"), pytest.mark.timeout(240)]
EVERYBODY = {"gateway", "transcriber", "meetings", "insights"}
STEPS = {"open session", "events.meeting.completed", "job insights", "store transcript", "events.insights.ready"}


async def test_a_meeting_is_one_trace_from_the_socket_to_the_language_model(scene: Scene) -> None:
    async with VerbatimClient(scene.stack.url) as client:
        await client.register("trace@verbatim.example", "trace", PASSWORD)
        await client.login("trace@verbatim.example", PASSWORD)
        await speak(client, recording(12), title="Traced")
        # Each process sends its spans when it likes. The last: meetings make tasks of the minutes.
        spans = await eventually(lambda: _whole(scene, "POST /chat/completions"))
    root = next(span for span in spans if not span.parent)
    assert (root.service, root.name) == ("gateway", "WS /transcribe")
    model = next(span for span in spans if span.name == "POST /chat/completions")
    assert model.attributes["gen_ai.operation.name"] == "chat"
    asked = [headers for path, headers in scene.vendor.asked if path.endswith("/chat/completions")]
    assert any(model.trace in headers["traceparent"] for headers in asked), "the vendor is told the trace"


async def test_each_utterance_is_one_trace_linked_to_its_session(scene: Scene) -> None:
    found = await eventually(lambda: [s for s in scene.collector.spans if s.name == "utterance"])
    sessions = {span.trace for span in scene.collector.spans if span.name == "open session"}
    for utterance in found:
        spans = await eventually(partial(_stored, scene, utterance))
        assert set(utterance.links) <= sessions and utterance.links
        names = {(span.service, span.name) for span in spans}
        assert ("transcriber", "POST /audio/transcriptions") in names, names
        assert ("transcriber", "append") in names and ("meetings", "store transcript") in names, names
        assert utterance.attributes["verbatim.session_id"]
    spans_of_audio = [s for s in scene.collector.spans if "chunk" in s.name or s.attributes.get("route") == "audio"]
    assert spans_of_audio == [], "no span for a chunk of audio"


async def test_a_request_is_one_trace_and_its_log_lines_name_it(scene: Scene) -> None:
    async with httpx2.AsyncClient(base_url=scene.stack.url) as http:
        offered = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        body = {"email": "trace@verbatim.example", "password": PASSWORD}
        answer = await http.post("/api/auth/login", json=body, headers={"traceparent": offered})
        request = answer.headers["x-request-id"]
    root = await eventually(lambda: _request(scene, request))
    assert root.trace != "0af7651916cd43dd8448eb211c80319c", "who calls does not decide what is traced"
    assert root.name == "POST /api/auth/login" and root.attributes["http.response.status_code"] == 200
    spans = await eventually(lambda: _reaching(scene, root.trace, "meetings"))
    assert _unbroken(spans)
    assert {s.attributes.get("db.system.name") for s in spans} >= {"redis", "postgresql"}
    lines = [json.loads(line) for line in scene.stack.log("gateway").read_text().splitlines() if request in line]
    assert lines and {line["trace_id"] for line in lines} == {root.trace}


@pytest.mark.req("R-OBS-1", "R-OBS-3", "R-OBS-7")
@pytest.mark.skipif(not available(), reason="Prometheus is not installed (Debian package)")
async def test_every_panel_has_figures_and_every_process_few_series(scene: Scene, stack_folder: Path) -> None:
    ports = scene.stack.plan.ports
    async with (
        watched(scene.stack, stack_folder / "observe-watch"),
        VerbatimClient(scene.stack.url) as client,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ports.of('prometheus')}") as prometheus,
    ):
        await client.login("trace@verbatim.example", PASSWORD)
        await speak(client, recording(6), title="Measured")
        missing = {(board.name, panel.title): panel for board in DASHBOARDS for panel in board.panels}
        async with asyncio.timeout(150):
            while missing:
                await client.me()
                for name, panel in list(missing.items()):
                    if await _any(prometheus, [expr for _, expr in panel.queries]):
                        del missing[name]
                print("without figures:", sorted(missing))
        # From a bar of a histogram to its trace.
        for metric in (
            "http_server_request_duration_seconds",
            "segment_latency_seconds",
            "rpc_server_call_duration_seconds",
        ):
            await _exemplar(prometheus, scene, f"{metric}_bucket")
        for process in scene.stack.plan.names():
            text = (await prometheus.get(f"{scene.stack.internal_url(process)}/metrics")).text
            series = [line for line in text.splitlines() if not line.startswith("#")]
            print(process, len(series), "series")
            assert len(series) < 2000, process
            assert not any("_created" in line for line in series)


async def _exemplar(prometheus: httpx2.AsyncClient, scene: Scene, name: str) -> None:
    """Wait until Prometheus has an exemplar of a histogram whose trace has arrived at the collector."""
    async with asyncio.timeout(60):
        while True:
            over: dict[str, str | float] = {"query": name, "start": time.time() - 600, "end": time.time() + 60}
            found = (await prometheus.get("/api/v1/query_exemplars", params=over)).json()["data"]
            named = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
            if named & scene.collector.traces().keys():
                print(name, len(named), "traces named")
                return
            await asyncio.sleep(0.5)


async def _any(prometheus: httpx2.AsyncClient, queries: list[str]) -> bool:
    """Tell whether one of the queries returns something."""
    for query in queries:
        answer = await prometheus.get("/api/v1/query", params={"query": query.replace(RANGE, "1m")})
        assert answer.status_code == 200, (query, answer.text)
        if answer.json()["data"]["result"]:
            return True
    return False


def _with(scene: Scene, name: str) -> list[Span]:
    """Return the spans of the newest trace that has one of a name."""
    return next((s for s in reversed(scene.collector.traces().values()) if name in {span.name for span in s}), [])


def _whole(scene: Scene, name: str) -> list[Span]:
    """Return the spans of that trace if everybody has a part in it, and each its parent."""
    spans = _with(scene, name)
    names, services = {span.name for span in spans}, {span.service for span in spans}
    return spans if names >= STEPS and services >= EVERYBODY and _unbroken(spans) else []


def _stored(scene: Scene, utterance: Span) -> list[Span]:
    spans = scene.collector.traces()[utterance.trace]
    return spans if any(span.service == "meetings" for span in spans) else []


def _request(scene: Scene, request: str) -> Span | None:
    return next((s for s in scene.collector.spans if s.attributes.get("verbatim.request_id") == request), None)


def _reaching(scene: Scene, trace: str, service: str) -> list[Span]:
    spans = scene.collector.traces()[trace]
    return spans if any(span.service == service for span in spans) and _unbroken(spans) else []


def _unbroken(spans: list[Span]) -> bool:
    known = {span.id for span in spans}
    return all(span.parent in known for span in spans if span.parent)
