"""Viewers at a real port; behind the gateway a store that tells what the test wants, when it wants."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from verbatim.captions.v1.captions_pb2 import Caption, EntriesStored
from verbatim.meetings.v1 import meetings_pb2 as pb
from verbatim.transcriber.v1 import transcriber_pb2 as relay

from chassis.errors import AppError, Kind
from services.gateway.tests.conftest import Gateway, problem, running
from services.gateway.tests.fakes import SESSION
from services.gateway.viewers import ViewerLimits

WITHIN_S = 15.0
QUICK = ViewerLimits(poll_s=30.0, hurry_s=0.05, insights_wait_s=0.2)
WAKE = Caption(stored=EntriesStored())


class Meeting:
    """A meeting of one account, as the store has it."""

    def __init__(self, gateway: Gateway, meeting_id: str, who: dict[str, str]) -> None:
        self.id = meeting_id
        self.who = who
        self.path = f"/api/meetings/{meeting_id}/live"
        self._gateway = gateway
        self._rows = gateway.meetings.entries.setdefault(meeting_id, [])

    def say(self, *texts: str, told: bool = True, step: int = 1) -> None:
        for text in texts:
            index = len(self._rows)
            number = (self._rows[-1].number if self._rows else 0) + step
            segment = pb.TranscriptSegment(
                id=f"s{index}", session_id=SESSION, index=index, revision=1, text=text, engine="test", quality="final"
            )
            self._rows.append(pb.MeetingEntry(number=number, segment=segment))
        if told:
            self._gateway.captions.say(self.id, WAKE)

    def heal(self, index: int, text: str) -> None:
        [row] = [row for row in self._rows if row.segment.index == index]
        self._rows.remove(row)
        healed = pb.MeetingEntry()
        healed.CopyFrom(row)
        healed.number = max(one.number for one in (*self._rows, row)) + 1
        healed.segment.text, healed.segment.revision = text, row.segment.revision + 1
        self._rows.append(healed)
        self._gateway.captions.say(self.id, WAKE)

    def say_partial(self, index: int, text: str = "and so") -> None:
        partial = relay.Partial(segment_id=f"s{index}", index=index, start_s=1.0, end_s=2.0, text=text)
        status = relay.Status(state=relay.STATE_DEGRADED)
        self._gateway.captions.say(self.id, Caption(session_id=SESSION, speaker="Ann", status=status, partial=partial))

    def say_state(self, state: relay.State.ValueType) -> None:
        self._gateway.captions.say(self.id, Caption(session_id=SESSION, status=relay.Status(state=state)))

    def complete(self) -> None:
        self._gateway.meetings.meetings[self.id].status = "completed"
        self._gateway.meetings.insights_made = True
        self._gateway.captions.say(self.id, WAKE)


async def new_meeting(gateway: Gateway, *texts: str) -> Meeting:
    who = gateway.as_account()
    meeting = Meeting(gateway, await gateway.new_meeting(who), who)
    meeting.say(*texts)
    return meeting


class Stream:
    """One viewer's stream, read as far as the test wants."""

    def __init__(self, answer: httpx2.Response) -> None:
        self._lines = answer.aiter_lines()
        self.raw: list[str] = []

    async def next(self, kind: str | None = None) -> tuple[str, dict[str, Any]]:
        """Return (id, data) of the next event, or of the next of a kind. Raises StopAsyncIteration at the end."""
        event_id = ""
        async with asyncio.timeout(WITHIN_S):
            while True:
                line = await anext(self._lines)
                self.raw.append(line)
                if line.startswith("id: "):
                    event_id = line.removeprefix("id: ")
                elif line.startswith("data: "):
                    data = json.loads(line.removeprefix("data: "))
                    if kind in (None, data["type"]):
                        return event_id, data
                    event_id = ""

    async def texts(self, count: int) -> list[str]:
        return [(await self.next("segment"))[1]["text"] for _ in range(count)]

    async def rest(self) -> list[dict[str, Any]]:
        """Return what comes until the end."""
        found = []
        while True:
            try:
                found.append((await self.next())[1])
            except StopAsyncIteration:
                return found


@asynccontextmanager
async def viewing(gateway: Gateway, meeting: Meeting, last_event_id: str = "") -> AsyncIterator[Stream]:
    headers = meeting.who | ({"Last-Event-ID": last_event_id} if last_event_id else {})
    async with gateway.client.stream("GET", meeting.path, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        yield Stream(answer)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.req("R-WS-6")
async def test_what_is_stored_comes_first_then_what_is_said() -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway, "one", "two")
        async with viewing(gateway, meeting) as stream:
            assert await stream.texts(2) == ["one", "two"]
            meeting.say("three")
            event_id, data = await stream.next()
            assert (event_id, data["type"], data["text"], data["session_id"]) == ("3", "segment", "three", SESSION)
        async with viewing(gateway, meeting, "2") as stream:
            assert await stream.texts(1) == ["three"]


@pytest.mark.req("R-WS-6")
@pytest.mark.parametrize("connected", [True, False])
async def test_captions_that_are_lost_are_found_again_in_the_store(connected: bool) -> None:
    """The broker may be away, or lose what it was told: the store is looked into all the same."""
    limits = ViewerLimits(poll_s=0.1 if connected else 3600.0, hurry_s=0.1)
    async with running(limits) as gateway:
        gateway.captions.connected = connected
        meeting = await new_meeting(gateway)
        async with viewing(gateway, meeting) as stream:
            await until(lambda: gateway.captions.followed.get(meeting.id))
            meeting.say("nobody heard of this", told=False)
            assert await stream.texts(1) == ["nobody heard of this"]


@pytest.mark.req("R-WS-6")
async def test_long_transcripts_come_page_by_page_while_more_is_said() -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway)
        meeting.say(*map(str, range(450)), step=3)
        async with viewing(gateway, meeting) as stream:
            first = await stream.texts(10)
            meeting.say(*map(str, range(450, 500)))
            assert first + await stream.texts(490) == [str(n) for n in range(500)]


@pytest.mark.req("R-WS-6")
async def test_partials_and_states_have_no_id_and_partials_end_with_their_segment() -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway, "zero")
        async with viewing(gateway, meeting) as stream:
            await stream.texts(1)
            await until(lambda: gateway.captions.followed[meeting.id])
            meeting.say_state(relay.STATE_DEGRADED)
            assert (await stream.next("status"))[1]["state"] == "degraded"
            meeting.say_partial(1, "on")  # the state that comes with it is known by now
            event_id, data = await stream.next()
            assert (event_id, data["type"], data["text"], data["speaker"]) == ("", "partial", "on", "Ann")
            assert (data["start"], data["end"]) == (101.0, 102.0)  # the session began 100 s into the meeting
            meeting.say("one")
            await stream.texts(1)
            meeting.say_partial(1, "late")
            meeting.say("two")
            assert (await stream.next())[1]["text"] == "two"
            meeting.say_partial(3, "fresh")
            assert (await stream.next())[1]["text"] == "fresh"
            async with viewing(gateway, meeting) as later:
                assert (await later.next("status"))[1]["state"] == "degraded"


@pytest.mark.req("R-WS-6")
async def test_finished_is_last_and_not_told_twice() -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway, "one")
        async with viewing(gateway, meeting) as stream:
            await stream.texts(1)
            meeting.complete()
            event_id, data = await stream.next()
            assert (event_id, data["type"], data["meeting_id"]) == ("1-end", "finished", meeting.id)
            assert await stream.rest() == []
        again = await gateway.client.get(meeting.path, headers=meeting.who | {"Last-Event-ID": "1-end"})
        assert (again.status_code, again.content) == (204, b"")
        # Somebody speaks again in the same meeting: there is something behind that end.
        meeting.say("two")
        async with viewing(gateway, meeting, "1-end") as stream:
            assert [data["type"] for data in await stream.rest()] == ["segment", "finished"]


@pytest.mark.req("R-WS-6")
async def test_minutes_come_before_the_end_and_are_not_waited_for_for_ever() -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway, "one")
        gateway.meetings.meetings[meeting.id].status = "completed"
        async with viewing(gateway, meeting) as stream:
            await stream.texts(1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.next(), 0.3)
        async with viewing(gateway, meeting, "1") as stream:
            gateway.meetings.unchanged_s = 0.3
            assert (await stream.next())[1]["type"] == "finished"


@pytest.mark.req("R-WS-6")
async def test_minutes_that_cannot_be_read_do_not_stop_the_captions() -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway, "one")
        gateway.meetings.entries[meeting.id].append(pb.MeetingEntry(number=2, insights=pb.InsightsMade()))
        await gateway.backends[1].stop(0)
        meeting.complete()
        async with viewing(gateway, meeting) as stream:
            told = await stream.rest()
        assert [data["type"] for data in told] == ["segment", "insights", "finished"]
        assert told[1]["status"] == "pending"


@pytest.mark.req("R-WS-6", "R-ERR-1")
async def test_store_that_does_not_answer_is_asked_again_and_a_deleted_meeting_ends_the_stream() -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway, "one")
        async with viewing(gateway, meeting) as stream:
            await stream.texts(1)
            gateway.meetings.entries_fault = AppError(Kind.UNAVAILABLE, "The database does not answer.")
            refused = await gateway.client.get(meeting.path, headers=meeting.who)
            assert (refused.status_code, problem(refused)["error"]) == (503, "service_unavailable")
            meeting.say("two")
            gateway.meetings.entries_fault = None
            assert await stream.texts(1) == ["two"]
            del gateway.meetings.meetings[meeting.id]
            gateway.captions.say(meeting.id, WAKE)
            _, data = await stream.next()
            assert (data["type"], data["error"], data["retryable"]) == ("error", "not_found", False)
            assert data["request_id"].startswith("req_")
            assert await stream.rest() == []


@pytest.mark.req("R-WS-8")
async def test_viewer_that_falls_behind_is_cut_off_with_an_error_and_resumes() -> None:
    """A viewer that reads, but slower than is spoken, is told so; partials were skipped before."""
    limits = ViewerLimits(poll_s=30.0, hurry_s=0.05, backlog_max=20, stall_s=30.0)
    async with running(limits) as gateway:
        meeting = await new_meeting(gateway, "begin")
        async with viewing(gateway, meeting) as stream:
            await stream.texts(1)
            for _ in range(100):
                for _ in range(10):
                    meeting.say("x" * 20_000)
                meeting.say_partial(10_000)
                await asyncio.sleep(0.01)  # lets the feed run; the viewer reads nothing meanwhile
            seen, last = 1, "1"
            while True:
                event_id, data = await stream.next()
                if data["type"] == "error":
                    break
                if event_id:
                    seen, last = seen + 1, event_id
            assert (data["error"], data["retryable"]) == ("service_unavailable", True)
            assert await stream.rest() == []
        assert seen < 1001
        async with viewing(gateway, meeting, last) as stream:
            assert len(await stream.texts(1001 - seen)) == 1001 - seen


@pytest.mark.req("R-WS-8")
async def test_viewer_that_reads_nothing_is_cut_off_and_costs_no_feed() -> None:
    limits = ViewerLimits(poll_s=30.0, hurry_s=0.05, stall_s=0.3)
    async with running(limits) as gateway:
        meeting = await new_meeting(gateway)
        meeting.say(*["x" * 20_000] * 200)
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", gateway.port))
            head = f"GET {meeting.path} HTTP/1.1\r\nHost: x\r\nAuthorization: {meeting.who['Authorization']}\r\n\r\n"
            deaf.sendall(head.encode())
            await until(lambda: gateway.captions.followed.get(meeting.id))
            async with viewing(gateway, meeting, "200") as stream:
                meeting.say("still quick")
                assert await stream.texts(1) == ["still quick"]
            await until(lambda: not gateway.captions.followed[meeting.id])


@pytest.mark.req("R-WS-8")
async def test_silence_is_broken_by_comments() -> None:
    async with running(ViewerLimits(heartbeat_s=0.05)) as gateway:
        meeting = await new_meeting(gateway)
        async with viewing(gateway, meeting) as stream:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.next(), 0.5)
        assert stream.raw.count(": ping") >= 3


@pytest.mark.req("R-WS-6", "R-RES-4")
async def test_viewers_are_limited_by_account_and_in_all_and_those_that_left_do_not_count() -> None:
    async with running(ViewerLimits(viewers_max=3, viewers_per_account_max=2)) as gateway:
        mine, other = await new_meeting(gateway), await new_meeting(gateway)
        async with viewing(gateway, mine), viewing(gateway, mine):
            refused = await gateway.client.get(mine.path, headers=mine.who)
            assert (refused.status_code, problem(refused)["error"]) == (429, "rate_limit_exceeded")
            async with viewing(gateway, other):
                refused = await gateway.client.get(other.path, headers=other.who)
                assert (refused.status_code, problem(refused)["error"]) == (503, "service_unavailable")
                assert refused.headers["retry-after"] == "5"
        await until(lambda: not gateway.captions.followed[mine.id])
        async with viewing(gateway, mine), viewing(gateway, mine):
            pass


@pytest.mark.req("R-RUN-4", "R-WS-6")
async def test_drain_ends_streams_with_a_reason_and_takes_no_more() -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway, "one")
        async with viewing(gateway, meeting) as stream:
            await stream.texts(1)
            await asyncio.wait_for(gateway.viewers.drain(10.0), WITHIN_S)
            told = await stream.rest()
        assert [(data["type"], data["retry_after"]) for data in told] == [("error", 0.0)]
        assert (await gateway.client.get(meeting.path, headers=meeting.who)).status_code == 503


@pytest.mark.req("R-WS-6", "R-AUTH-2")
async def test_stream_lives_only_so_long_before_it_is_asked_again_who_watches() -> None:
    async with running(ViewerLimits(life_s=0.2)) as gateway:
        meeting = await new_meeting(gateway, "one")
        async with viewing(gateway, meeting) as stream:
            told = await stream.rest()
    assert [data["type"] for data in told] == ["segment", "error"]
    assert told[1]["retryable"]


@pytest.mark.req("R-WS-6", "R-AUTH-2", "R-VAL-1")
@pytest.mark.parametrize("position", ["yesterday", "-1", "01", "1-end-end", "9" * 30, "7"])
async def test_position_that_is_none_is_refused(position: str) -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway, "one")
        answer = await gateway.client.get(meeting.path, headers=meeting.who | {"Last-Event-ID": position})
        assert (answer.status_code, problem(answer)["error"]) == (422, "validation_failed")
        stranger = await gateway.client.get(meeting.path, headers=gateway.as_account())
        assert (stranger.status_code, problem(stranger)["error"]) == (404, "not_found")


@pytest.mark.req("R-STT-5", "R-WS-6")
async def test_revision_is_told_once_also_to_who_comes_back() -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway, "rubbish", "two")
        async with viewing(gateway, meeting) as stream:
            await stream.texts(2)
            meeting.heal(0, "sense")
            at, data = await stream.next()
            assert (data["type"], data["index"], data["revision"], data["text"]) == ("revised", 0, 2, "sense")
        meeting.complete()
        async with viewing(gateway, meeting, at) as stream:
            assert [event["type"] for event in await stream.rest()] == ["finished"]
        async with viewing(gateway, meeting, "1") as stream:
            assert [event["type"] for event in await stream.rest()] == ["segment", "revised", "finished"]


@pytest.mark.req("R-STT-5", "R-WS-6")
async def test_end_waits_for_drafts_that_are_being_healed_but_not_for_ever() -> None:
    async with running(replace(QUICK, heal_wait_s=1.0)) as gateway:
        meeting = await new_meeting(gateway, "rubbish", "more rubbish")
        gateway.meetings.healing, gateway.meetings.unchanged_s = 2, 0.5
        async with viewing(gateway, meeting) as stream:
            await stream.texts(2)
            meeting.complete()
            meeting.heal(0, "sense")
            assert (await stream.next())[1]["type"] == "revised"
            gateway.meetings.unchanged_s = 1.5  # the other one takes too long
            assert (await stream.next())[1]["type"] == "finished"


@pytest.mark.req("R-STT-5", "R-WS-6")
async def test_who_was_told_the_end_and_asks_again_is_told_what_has_healed_since() -> None:
    async with running(QUICK) as gateway:
        meeting = await new_meeting(gateway, "rubbish")
        meeting.complete()
        async with viewing(gateway, meeting) as stream:
            end, _ = await stream.next("finished")
        meeting.heal(0, "sense")
        async with viewing(gateway, meeting, end) as stream:
            assert [event["type"] for event in await stream.rest()] == ["revised", "finished"]
