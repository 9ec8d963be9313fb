"""Following a meeting: through any gateway, each durable event once, and never at the speaker's expense."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import signal
import socket as sockets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from verbatim.captions.v1.captions_pb2 import Caption
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim_client import ApiError, VerbatimClient, Watch

from chassis import bus
from dev.plan import Plan
from dev.ports import Ports
from dev.stack import Stack
from tests.e2e.conftest import PASSWORD
from tests.e2e.speech import Message, recording, speak, started
from tests.e2e.speech_api import SpeechApi
from tests.limits import ONE_ENGINE, OPEN_TO_MANY, RAISED

WITHIN_S = 60.0
DEAF = 4
# Byte offsets of the recording in the midst of an utterance, and which one that is.
IN_UTTERANCE = {192_000: 1, 416_000: 3}
DURABLE = ("segment", "revised", "gap", "insights", "finished")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def wide(stack_folder: Path, nats_binary: str | None) -> AsyncIterator[Stack]:
    """A platform with two gateways, which the tests here may kill."""
    impatient = {"VIEWER_STALL_S": "1", "VIEWER_HEARTBEAT_S": "1", "VIEWERS_PER_ACCOUNT_MAX": "5"}
    api = SpeechApi()
    async with api.run():
        speech = api.settings | ONE_ENGINE
        stack = Stack(
            Plan(
                stack_folder / "viewers", Ports.free(), replicas={"gateway": 2, "janitor": 0},
                extra_env={"gateway": RAISED | impatient, "meetings": OPEN_TO_MANY, "transcriber": speech},
                nats_server=nats_binary,
            )
        )  # fmt: skip
        await stack.start()
        yield stack
        await stack.stop()


Account = tuple[VerbatimClient, VerbatimClient]


@asynccontextmanager
async def account(stack: Stack, name: str) -> AsyncIterator[Account]:
    """One new account, seen through the first and through the second gateway."""
    async with VerbatimClient(stack.url) as first:
        await first.register(f"{name}@verbatim.example", name, PASSWORD)
        await first.login(f"{name}@verbatim.example", PASSWORD)
        second_url = stack.plan.gateway_url("gateway-2")
        async with VerbatimClient(second_url, access_token=first.access_token) as second:
            yield first, second


@pytest_asyncio.fixture(loop_scope="session")
async def both(wide: Stack, request: pytest.FixtureRequest) -> AsyncIterator[Account]:
    name = f"v{abs(hash(request.node.name)) % 10**9}"
    async with account(wide, name) as made:
        yield made


class Seen:
    """What a viewer was told so far, with the times at which it was."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.events: list[Message] = []
        self.at: list[float] = []
        self._news = asyncio.Event()

    async def follow(self) -> None:
        async for event in self.watch:
            self.events.append(event)
            self.at.append(time.perf_counter())
            self._news.set()

    def of(self, *kinds: str) -> list[Message]:
        return [event for event in self.events if event["type"] in kinds]

    async def until(self, holds: Callable[[Seen], object]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not holds(self):
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def viewing(client: VerbatimClient, meeting_id: str, last_event_id: str = "") -> AsyncIterator[Seen]:
    """Watch until the block is left; a watch that failed fails the test."""
    seen = Seen(client.watch(meeting_id, last_event_id=last_event_id))
    task = asyncio.create_task(seen.follow())
    try:
        yield seen
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task])


async def to_the_end(client: VerbatimClient, meeting_id: str, last_event_id: str = "") -> Seen:
    seen = Seen(client.watch(meeting_id, last_event_id=last_event_id))
    async with asyncio.timeout(WITHIN_S):
        await seen.follow()
    return seen


def check_once_and_in_order(events: list[Message]) -> None:
    """Each durable event came once, in the order of its number; each segment once, in the order of its session."""
    durable = [event for event in events if event["type"] in DURABLE]
    numbers = [int(event["event_id"].removesuffix("-end")) for event in durable]
    assert numbers == sorted(numbers)
    assert len({event["event_id"] for event in durable}) == len(durable)
    segments = [event for event in events if event["type"] == "segment"]
    for session_id in {event["session_id"] for event in segments}:
        indexes = [event["index"] for event in segments if event["session_id"] == session_id]
        assert indexes == list(range(len(indexes)))
    assert all("event_id" not in event for event in events if event["type"] not in DURABLE)


async def check_same_as_stored(client: VerbatimClient, meeting_id: str, events: list[Message]) -> None:
    """What was seen is the transcript, field by field."""
    stored = await client.segments(meeting_id)
    assert stored
    newest = {(e["session_id"], e["index"]): e for e in events if e["type"] in ("segment", "revised")}
    seen = sorted(newest.values(), key=lambda e: (e["start"], e["session_id"], e["index"]))
    assert [{name: e[name] for name in stored[0]} for e in seen] == stored


@pytest.mark.req("R-WS-6", "R-WS-7")
async def test_viewers_of_two_gateways_see_every_segment_once_while_it_is_spoken(both: Account) -> None:
    first, second = both
    meeting = (await first.create_meeting("Two viewers, two speakers"))["id"]
    halves = zip((recording(12.0), recording(24.0)[12 * 32_000 :]), ("Ann", "Ben"), strict=True)
    async with viewing(first, meeting) as one, viewing(second, meeting) as other:
        spoken = [
            asyncio.create_task(speak(first, pcm, meeting_id=meeting, speaker=who, speed=2.0)) for pcm, who in halves
        ]
        for seen in (one, other):
            await seen.until(lambda seen: len(seen.of("segment")) >= 2)
        assert not all(task.done() for task in spoken), "the speakers were done before the viewers saw anything"
        told = [event for events in await asyncio.gather(*spoken) for event in events]
        for seen in (one, other):
            await seen.until(lambda seen: seen.of("finished"))
    for seen in (one, other):
        check_once_and_in_order(seen.events)
        await check_same_as_stored(first, meeting, seen.events)
        assert seen.watch.reconnects == 0
        assert {event["speaker"] for event in seen.of("segment")} == {"Ann", "Ben"}
        assert seen.of("insights")[0]["status"] == "ready"
        assert seen.events[-1]["coverage"] == 1.0
        assert (
            len(seen.of("segment")) == seen.events[-1]["segments"] == len([e for e in told if e["type"] == "segment"])
        )


@pytest.mark.req("R-WS-6")
async def test_partial_never_comes_behind_its_segment_and_counts_from_the_start_of_the_meeting(
    wide: Stack, both: Account
) -> None:
    """It once failed on a busy machine: the first session's `finished` came before the second session began."""
    first, second = both
    meeting = (await first.create_meeting("A second session"))["id"]
    await speak(first, recording(4.0), meeting_id=meeting)
    pcm = recording(16.0)
    async with started(wide.ws_url, first, meeting_id=meeting) as (bare, _), AsyncExitStack() as exits:
        # A viewer who comes before that is known is told that the meeting is over.
        async with asyncio.timeout(WITHIN_S):
            while (await second.meeting(meeting))["status"] != "live":
                await asyncio.sleep(0.1)
        seen = await exits.enter_async_context(viewing(second, meeting))
        for begin, end in itertools.pairwise((0, *IN_UTTERANCE, len(pcm))):
            for offset in range(begin, end, 3200):
                await bare.audio(offset, pcm[offset : min(offset + 3200, end)])
            # A partial text is made when there is capacity to spare: for who stops in the midst of speech, in the end.
            if end in IN_UTTERANCE:
                await seen.until(partial(_has_partial_of, IN_UTTERANCE[end]))
        await bare.say(type="finish", offset=len(pcm))
        await seen.until(lambda seen: seen.of("finished"))
    final: set[str] = set()
    starts = {event["id"]: event["start"] for event in seen.of("segment")}
    told_of = set()
    for event in seen.events:
        if event["type"] in ("segment", "revised"):
            final.add(event["id"])
        elif event["type"] == "partial":
            assert event["segment_id"] not in final
            told_of.add(event["index"])
            assert starts[event["segment_id"]] == pytest.approx(event["start"], abs=0.6)
    assert told_of >= set(IN_UTTERANCE.values())


def _has_partial_of(index: int, seen: Seen) -> bool:
    return any(event["index"] == index for event in seen.of("partial"))


@pytest.mark.req("R-WS-6")
async def test_late_viewer_gets_what_was_said_and_then_what_is_said(both: Account) -> None:
    first, second = both
    meeting = (await first.create_meeting("Late"))["id"]
    async with viewing(first, meeting) as early:
        speaking = asyncio.create_task(speak(first, recording(24.0), meeting_id=meeting, speed=4.0))
        await early.until(lambda seen: len(seen.of("segment")) >= 2)
        async with viewing(second, meeting) as late:
            await late.until(lambda seen: len(seen.of("segment")) >= 2)
            assert not speaking.done()
            await speaking
            await late.until(lambda seen: seen.of("finished"))
        await early.until(lambda seen: seen.of("finished"))
    check_once_and_in_order(late.events)
    assert late.of(*DURABLE) == early.of(*DURABLE)


@pytest.mark.req("R-WS-6")
async def test_viewer_that_comes_back_elsewhere_goes_on_where_it_stood(both: Account) -> None:
    first, second = both
    meeting = (await first.create_meeting("Back and forth"))["id"]
    speaking = asyncio.create_task(speak(first, recording(24.0), meeting_id=meeting, speed=4.0))
    events: list[Message] = []
    position = ""
    for turn in range(1, 100):
        async with viewing(both[turn % 2], meeting, position) as seen:
            await seen.until(lambda seen: seen.of(*DURABLE))
        events += seen.events
        position = seen.watch.last_event_id
        if seen.of("finished"):
            break
    await speaking
    check_once_and_in_order(events)
    await check_same_as_stored(second, meeting, events)
    assert turn > 3


@pytest.mark.req("R-WS-6", "R-WS-4")
async def test_viewers_lose_nothing_when_their_gateway_is_killed(wide: Stack, both: Account) -> None:
    first, second = both
    meeting = (await first.create_meeting("Killed"))["id"]
    async with viewing(second, meeting) as seen:
        speaking = asyncio.create_task(speak(first, recording(24.0), meeting_id=meeting, speed=2.0))
        await seen.until(lambda seen: seen.of("segment"))
        wide.kill("gateway-2")
        await wide.restart("gateway-2")
        await speaking
        await seen.until(lambda seen: seen.of("finished"))
    assert seen.watch.reconnects >= 1
    check_once_and_in_order(seen.events)
    await check_same_as_stored(first, meeting, seen.events)


@pytest.mark.req("R-WS-6", "R-RUN-4")
async def test_gateway_that_restarts_tells_its_viewers_to_come_back(wide: Stack, both: Account) -> None:
    first, second = both
    meeting = (await first.create_meeting("Restarted"))["id"]
    told: list[str] = []
    began = asyncio.Event()

    async def read() -> None:
        async with _stream(second, meeting) as answer:
            began.set()
            told.extend([line async for line in answer.aiter_lines()])

    reading = asyncio.create_task(read())
    await began.wait()
    await wide.restart("gateway-2")
    await asyncio.wait_for(reading, WITHIN_S)
    pieces = [json.loads(line.removeprefix("data: ")) for line in told if line.startswith("data: ")]
    assert [(piece["type"], piece["error"], piece["retryable"]) for piece in pieces] == [
        ("error", "service_unavailable", True)
    ]


@pytest.mark.req("R-WS-6")
async def test_completed_meeting_replays_and_ends_and_a_browser_does_not_come_again(both: Account) -> None:
    first, second = both
    spoken = await speak(first, recording(12.0), title="Over")
    meeting = spoken[-1]["meeting_id"]
    seen = await to_the_end(second, meeting)
    check_once_and_in_order(seen.events)
    await check_same_as_stored(first, meeting, seen.events)
    assert seen.events[-1]["type"] == "finished"
    assert not seen.of("partial", "error")
    again = await to_the_end(first, meeting)
    assert again.of(*DURABLE) == seen.of(*DURABLE)
    one_before = seen.of(*DURABLE)[-2]["event_id"]
    assert [event["type"] for event in (await to_the_end(first, meeting, one_before)).events] == ["finished"]
    last = seen.events[-1]["event_id"]
    answer = await first.answer("GET", f"/api/meetings/{meeting}/live", headers={"Last-Event-ID": last})
    assert answer.status_code == 204


@pytest.mark.req("R-WS-6", "R-AUTH-2", "R-ERR-1")
async def test_strangers_get_404_and_wrong_positions_422(wide: Stack, both: Account) -> None:
    first, _ = both
    meeting = (await first.create_meeting("Mine"))["id"]
    path = f"/api/meetings/{meeting}/live"
    async with account(wide, "viewingstranger") as (stranger, _):
        for who, headers, status in (
            (stranger, {}, 404),
            (first, {"Last-Event-ID": "yesterday"}, 422),
            (first, {"Last-Event-ID": "999"}, 422),
        ):
            with pytest.raises(ApiError) as caught:
                await who.answer("GET", path, headers=headers)
            assert caught.value.status == status
        with pytest.raises(ApiError, match="404 not_found"):
            await to_the_end(stranger, meeting)
    async with VerbatimClient(wide.url) as nobody:
        with pytest.raises(ApiError, match="401"):
            await nobody.answer("GET", path)


@pytest.mark.req("R-WS-6", "R-RES-4")
async def test_account_has_a_limit_of_viewers(both: Account) -> None:
    first, _ = both
    meeting = (await first.create_meeting("Popular"))["id"]
    async with AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(_stream(first, meeting))
        with pytest.raises(ApiError) as caught:
            await first.answer("GET", f"/api/meetings/{meeting}/live")
        assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
        assert caught.value.retry_after_s
    async with asyncio.timeout(WITHIN_S):
        while True:
            with contextlib.suppress(ApiError):
                async with _stream(first, meeting):
                    break


@pytest.mark.req("R-WS-8")
async def test_silence_is_broken_by_heartbeats(both: Account) -> None:
    first, _ = both
    meeting = (await first.create_meeting("Silent"))["id"]
    async with asyncio.timeout(WITHIN_S), _stream(first, meeting) as answer:
        lines = answer.aiter_lines()
        heard = [line async for line in _until(lines, lambda line: line.startswith(":"), 2)]
    assert heard[0].startswith("retry: ")


@pytest.mark.req("R-HEAL-2", "R-WS-6")
async def test_without_the_broker_viewers_and_rest_go_on_and_nothing_is_missed(wide: Stack, both: Account) -> None:
    first, second = both
    meeting = (await first.create_meeting("No broker"))["id"]
    async with viewing(second, meeting) as seen:
        speaking = asyncio.create_task(speak(first, recording(16.0), meeting_id=meeting, speed=2.0))
        await seen.until(lambda seen: seen.of("segment"))
        wide.kill("nats", signal.SIGSTOP)
        try:
            assert (await first.meeting(meeting))["id"] == meeting
            async with viewing(first, meeting) as late:
                await late.until(lambda seen: seen.of("segment"))
        finally:
            wide.kill("nats", signal.SIGCONT)
        await speaking
        await seen.until(lambda seen: seen.of("finished"))
    check_once_and_in_order(seen.events)
    await check_same_as_stored(first, meeting, seen.events)


@pytest.mark.req("R-WS-8", "R-WS-6")
async def test_viewers_that_read_nothing_are_cut_off_and_the_speaker_does_not_notice(
    wide: Stack, both: Account
) -> None:
    first, _ = both
    alone = await _acknowledgements_s(wide, first)
    before = await _stalled_viewers(wide)
    with contextlib.ExitStack() as deaf:
        watched = await _acknowledgements_s(wide, first, deaf)
        async with asyncio.timeout(WITHIN_S):
            while await _stalled_viewers(wide) < before + DEAF:
                await asyncio.sleep(0.1)
    (alone_p50, alone_p95), (p50, p95) = _quantiles(alone), _quantiles(watched)
    print(f"ack p50/p95 alone {alone_p50:.3f}/{alone_p95:.3f} s, with {DEAF} deaf viewers {p50:.3f}/{p95:.3f} s")
    assert p50 < alone_p50 + 0.1
    assert p95 < alone_p95 + 0.5


def _quantiles(seconds: list[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]


async def _stalled_viewers(stack: Stack) -> float:
    async with httpx2.AsyncClient() as http:
        text = (await http.get(f"{stack.internal_url('gateway')}/metrics")).text
    found = re.search(r'^viewers_cut_total{reason="stalled"} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def _acknowledgements_s(
    stack: Stack, client: VerbatimClient, deaf: contextlib.ExitStack | None = None
) -> list[float]:
    """Speak for some seconds in real time; return how long each frame waited for its acknowledgement.

    With `deaf`, viewers that read nothing are on it meanwhile, and much is said to them.
    """
    meeting_id = (await client.create_meeting("Deaf viewers"))["id"]
    pcm = recording(6.0)
    sent_at: dict[int, float] = {}
    waited: list[float] = []
    async with started(stack.ws_url, client, meeting_id=meeting_id) as (bare, greeting):
        flooding = None
        if deaf is not None:
            for _ in range(DEAF):
                deaf.enter_context(_deaf_viewer(client, meeting_id))
            flooding = asyncio.create_task(_flood(stack, meeting_id, greeting["session_id"]))

        async def hear() -> None:
            while sent_at or len(waited) < len(pcm) // 3200:
                offset = (await bare.hear("ack"))["offset"]
                now, reached = time.perf_counter(), [end for end in sent_at if end <= offset]
                waited.extend(now - sent_at.pop(end) for end in reached)

        hearing = asyncio.create_task(hear())
        began = time.perf_counter()
        for offset in range(0, len(pcm), 3200):
            await asyncio.sleep(max(0.0, began + (offset + 3200) / 32_000 - time.perf_counter()))
            sent_at[offset + 3200] = time.perf_counter()
            await bare.audio(offset, pcm[offset : offset + 3200])
        async with asyncio.timeout(WITHIN_S):
            await hearing
            await bare.say(type="finish", offset=len(pcm))
            await bare.hear("finished")
        if flooding is not None:
            await flooding
    return waited


async def _flood(stack: Stack, meeting_id: str, session_id: str) -> None:
    """Say what no transcriber would: long partial texts, hundreds a second, as long as the meeting is spoken."""
    text = "and so on " * 400
    async with bus.connect(stack.plan.nats_url, name="flood", replicas=1) as broker:
        for index in range(1500):
            status = relay.Status(state=relay.STATE_DEGRADED)
            partial = relay.Partial(segment_id="flood", index=10_000 + index, text=text)
            caption = Caption(session_id=session_id, status=status, partial=partial)
            await broker.client.publish(f"captions.{meeting_id}", caption.SerializeToString())
            await asyncio.sleep(0.003)


@contextlib.contextmanager
def _deaf_viewer(client: VerbatimClient, meeting_id: str) -> Iterator[None]:
    """Ask for the stream over a small window, and never read."""
    with sockets.socket() as deaf:
        deaf.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        host, _, port = client.base_url.removeprefix("http://").partition(":")
        deaf.connect((host, int(port)))
        request = f"GET /api/meetings/{meeting_id}/live HTTP/1.1\r\nHost: {host}\r\n"
        deaf.sendall(f"{request}Authorization: Bearer {client.access_token}\r\n\r\n".encode())
        yield


async def _until(lines: AsyncIterator[str], holds: Callable[[str], bool], times: int) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        times -= holds(line)
        if not times:
            return


@asynccontextmanager
async def _stream(client: VerbatimClient, meeting_id: str) -> AsyncIterator[httpx2.Response]:
    headers = {"Authorization": f"Bearer {client.access_token}"}
    async with (
        httpx2.AsyncClient(timeout=20) as http,
        http.stream("GET", f"{client.base_url}/api/meetings/{meeting_id}/live", headers=headers) as answer,
    ):
        if not answer.is_success:
            await answer.aread()
            raise ApiError(answer.status_code, answer.json(), "", None)
        yield answer
