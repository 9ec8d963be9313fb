"""The speech API behind retry, budget, breaker and pacing, against a real HTTP server with every fault there is.

Retries, pauses and the breaker's times are those of production divided by a hundred, deadlines are not: what is
asserted is how often the server is asked, and when not before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from prometheus_client import REGISTRY

from chassis.breaker import BreakerSettings, Mode, State
from chassis.retry import RetrySettings
from chassis.tests.clocks import Clock
from services.transcriber.speech import OpenAISpeech, SpeechError
from services.transcriber.tests.scripted_server import Answer, Request, ScriptedServer, answer
from services.transcriber.tests.signals import noise
from services.transcriber.tests.test_openai_speech import QUOTA
from services.transcriber.transcription import Transcription
from services.transcriber.turnstile import Lane
from services.transcriber.vendor import DEPENDENCY, Vendor, VendorSettings

PCM = noise(2.0, rms=0.1)
GOOD = answer({"text": "every word"})
RETRY = RetrySettings(attempts=3, wait_min_s=0.02, wait_max_s=0.1, least_s=0.01)
BREAKER = BreakerSettings(window_s=0.3, open_s=0.6, ramp_s=0.3)
SETTINGS = VendorSettings(concurrency_max=8, retry=RETRY, breaker=BREAKER)
WHOLE_MINUTE = Answer(pause_s=60.0)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer().run() as running:
        running.otherwise = lambda _: GOOD
        yield running


@dataclass
class Api:
    """The server and our side of it."""

    server: ScriptedServer
    vendor: Vendor

    async def ask(self, *script: Answer, lane: Lane = Lane.LIVE, session: str = "session") -> Transcription:
        """Have the server answer one utterance by a script, then well."""
        self.server.script.extend(script)
        return await self.vendor.transcribe(PCM, session_id=session, language="en", prompt="", lane=lane)

    async def fail(self, *script: Answer, lane: Lane = Lane.LIVE) -> SpeechError:
        """Return how the platform puts the failure."""
        with pytest.raises(SpeechError) as caught:
            await self.ask(*script, lane=lane)
        return caught.value

    @property
    def asked(self) -> int:
        return len(self.server.requests)

    @property
    def state(self) -> State:
        return self.vendor.breaker.state


@pytest.fixture
async def api(server: ScriptedServer) -> AsyncIterator[Api]:
    async with api_of(server, SETTINGS) as made:
        yield made


@asynccontextmanager
async def api_of(
    server: ScriptedServer, settings: VendorSettings, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Api]:
    engine = OpenAISpeech(base_url=server.url, api_key="key", model="gpt-4o-transcribe")
    await engine.start()
    try:
        yield Api(server, Vendor(engine, settings, clock=clock, chance=lambda: 0.0))
    finally:
        await engine.close()


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def failures() -> float:
    return counted("circuit_breaker_calls_total", dependency=DEPENDENCY, result="failure")


def refused(status: int, **headers: str) -> Answer:
    return answer({"error": {"message": "scripted"}}, status=status, headers=headers)


PASSING = {
    "429": refused(429),
    "500": refused(500),
    "502": refused(502),
    "503": refused(503),
    "reset": Answer(reset=True),
    "reset in the body": answer({"text": "every word"}, reset_after=5),
    "malformed JSON": Answer(body=b'{"text": "every w'),
    "no JSON": Answer(body=b"<html>Bad Gateway</html>", content_type="text/html"),
    "200 with an error": answer({"error": {"message": "overloaded", "code": "server_error"}}),
    "no text": answer({"segments": []}),
}
FINAL = {
    "400": (refused(400), "rejected"),
    "413": (refused(413), "too_large"),
    "401": (refused(401), "unauthorized"),
    "quota": (answer(QUOTA, status=429), "quota"),
    "200 with quota": (answer(QUOTA), "quota"),
}


# -- retry ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("R-STT-2")
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_what_passes_is_asked_again(api: Api, fault: Answer) -> None:
    heard = await api.ask(fault, fault)
    assert heard.text == "every word"
    assert api.asked == 3
    first, second, third = (request.at_s for request in api.server.requests)
    assert second - first >= 0.02
    assert third - second >= 0.04


@pytest.mark.req("R-STT-2", "R-STT-3")
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_what_does_not_pass_is_asked_three_times(api: Api, fault: Answer) -> None:
    before = failures()
    seen = await api.fail(fault, fault, fault)
    assert api.asked == 3
    assert seen.retryable
    assert api.state is State.CLOSED
    # A server that asks for patience works.
    assert failures() - before == (0 if fault is PASSING["429"] else 3)


@pytest.mark.req("R-STT-2")
@pytest.mark.parametrize(("fault", "reason"), FINAL.values(), ids=FINAL)
async def test_what_another_try_cannot_mend_is_asked_once(api: Api, fault: Answer, reason: str) -> None:
    seen = await api.fail(fault)
    assert (seen.reason, seen.retryable) == (reason, False)
    assert api.asked == 1


@pytest.mark.req("R-STT-2")
@pytest.mark.parametrize(
    "odd",
    [
        answer({"text": "every word"}, content_type="text/plain"),
        answer({"text": "every word", "words": None, "segments": None, "language": None}),
        answer({"text": "every word"}, trickle_s=0.001),
    ],
    ids=["another content type", "nulls", "slowly"],
)
async def test_an_odd_answer_is_an_answer(api: Api, odd: Answer) -> None:
    assert (await api.ask(odd)).text == "every word"
    assert api.asked == 1


@pytest.mark.req("R-STT-2")
async def test_an_empty_text_is_an_answer_and_not_asked_again(api: Api) -> None:
    assert (await api.ask(answer({"text": ""}))).text == ""
    assert api.asked == 1


@pytest.mark.req("R-STT-2")
async def test_the_pause_that_was_asked_for_in_seconds_is_made_by_all(api: Api) -> None:
    began = time.monotonic()
    first = asyncio.create_task(api.ask(refused(429, **{"retry-after": "0.4"}), session="first"))
    while api.vendor.turnstile.running or not api.asked:
        await asyncio.sleep(0.001)
    others = [asyncio.create_task(api.ask(session=f"other-{number}")) for number in range(5)]
    await asyncio.gather(first, *others)
    assert api.asked == 7
    assert all(request.at_s - began >= 0.4 for request in api.server.requests[1:])
    assert counted("speech_rate_limited_total") >= 1
    assert api.state is State.CLOSED


@pytest.mark.req("R-STT-2")
async def test_the_pause_that_was_asked_for_as_a_date_is_made(server: ScriptedServer) -> None:
    now = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
    later = format_datetime(now + timedelta(seconds=1), usegmt=True)
    engine = OpenAISpeech(base_url=server.url, api_key="key", model="gpt-4o-transcribe", now=lambda: now)
    await engine.start()
    api = Api(server, Vendor(engine, SETTINGS, chance=lambda: 0.0))
    await api.ask(refused(503, **{"retry-after": later}))
    await engine.close()
    first, second = (request.at_s for request in server.requests)
    assert 1.0 <= second - first < 3.0


@pytest.mark.req("R-STT-2")
async def test_a_pause_beyond_the_deadline_is_not_waited_for(api: Api) -> None:
    began = time.monotonic()
    seen = await api.fail(refused(429, **{"retry-after": "100"}))
    assert seen.retry_after_s == 100
    assert api.asked == 1
    assert time.monotonic() - began < 3.0


@pytest.mark.req("R-STT-2")
async def test_while_the_api_wants_patience_live_speech_waits_its_time_and_healing_as_long_as_it_takes(
    server: ScriptedServer,
) -> None:
    short = replace(SETTINGS, deadline_s_max=1.5, attempt_s_min=0.1)
    async with api_of(server, short) as api:
        await api.fail(refused(429, **{"retry-after": "4"}))
        heal = asyncio.create_task(api.ask(lane=Lane.HEAL, session="healing"))
        seen = await api.fail()
        assert (seen.reason, seen.retryable) == ("overloaded", False)
        assert api.asked == 1
        assert (await heal).text == "every word"
        assert api.asked == 2


@pytest.mark.req("R-STT-2")
@pytest.mark.parametrize(
    "hang", [Answer(pause_s=60.0), answer({"text": "x"}, pause_body_s=60.0), answer({"text": "x" * 99}, trickle_s=0.1)],
    ids=["before the head", "before the body", "in the body"],
)  # fmt: skip
async def test_a_server_that_hangs_has_its_time_and_no_more(server: ScriptedServer, hang: Answer) -> None:
    short = replace(SETTINGS, deadline_base_s=1.0, deadline_per_audio_s=0.5, attempt_s_min=0.1)  # 2 s for 2 s of audio
    async with api_of(server, short) as api:
        before, began = failures(), time.monotonic()
        seen = await api.fail(hang, hang, hang)
        assert seen.reason == "timeout"
        assert api.asked == 2
        assert time.monotonic() - began < 6.0
        assert failures() - before == 2, "what hangs is a failure for the breaker"
        first, second = (request.at_s for request in server.requests)
        assert second - first >= 1.0, "the first attempt has the most of the time, 1.2 s"


@pytest.mark.req("R-STT-2")
@pytest.mark.parametrize(("audio_s", "deadline_s"), [(0.5, 3.0), (2.0, 6.0), (12.0, 26.0), (14.0, 30.0), (28.0, 30.0)])
def test_the_deadline_grows_with_the_audio(audio_s: float, deadline_s: float) -> None:
    assert VendorSettings().deadline_s(int(audio_s * 32_000)) == deadline_s


@pytest.mark.req("R-STT-2")
async def test_a_cancelled_call_leaves_nothing_running(api: Api) -> None:
    api.server.script.append(WHOLE_MINUTE)
    call = asyncio.create_task(api.vendor.transcribe(PCM, session_id="s", language=None, prompt="", lane=Lane.LIVE))
    while not api.asked:
        await asyncio.sleep(0.005)
    before = counted("circuit_breaker_calls_total", dependency=DEPENDENCY, result="ignored")
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert api.vendor.turnstile.running == 0
    assert counted("circuit_breaker_calls_total", dependency=DEPENDENCY, result="ignored") - before == 1


# -- breaker -------------------------------------------------------------------------------------------------------


async def until_open(api: Api) -> None:
    api.server.otherwise = lambda _: refused(503)
    async with asyncio.timeout(20):
        while api.state is not State.OPEN:
            await asyncio.gather(*(api.fail() for _ in range(3)))


@pytest.mark.req("R-STT-3")
async def test_the_fifth_failure_opens_it_and_then_nobody_is_asked(api: Api) -> None:
    await until_open(api)
    asked = api.asked
    assert 5 <= asked <= 9
    seen = await api.fail()
    assert (seen.reason, seen.retryable) == ("breaker_open", False)
    assert api.asked == asked


@pytest.mark.req("R-STT-3")
@pytest.mark.parametrize("name", ["quota", "200 with quota", "401"])
async def test_what_nobody_is_served_with_opens_it_at_once(api: Api, name: str) -> None:
    fault, reason = FINAL[name]
    before = counted("circuit_breaker_opened_total", dependency=DEPENDENCY, reason=reason)
    await api.fail(fault)
    assert api.vendor.breaker.state is State.OPEN
    assert api.vendor.breaker.reason == reason
    assert (await api.fail()).reason == "breaker_open"
    api.server.otherwise = lambda _: fault
    await asyncio.sleep(0.61)
    assert (await api.fail()).reason == reason, "one probe"
    assert api.asked == 2
    assert api.vendor.breaker.reason == reason
    # Each look adds to it, so that an alert on its growth holds as long as the trouble does.
    assert counted("circuit_breaker_opened_total", dependency=DEPENDENCY, reason=reason) - before == 2
    assert counted("speech_failures_total", reason=reason) >= 2


@pytest.mark.req("R-STT-3")
@pytest.mark.parametrize("name", ["400", "413"])
async def test_what_is_wrong_with_one_request_opens_nothing(api: Api, name: str) -> None:
    for _ in range(30):
        await api.fail(FINAL[name][0])
    assert api.state is State.CLOSED


@pytest.mark.req("R-STT-3")
async def test_requests_for_patience_open_nothing(api: Api) -> None:
    api.server.otherwise = lambda _: refused(429, **{"retry-after": "0.01"})
    for _ in range(10):
        await api.fail()
    assert api.state is State.CLOSED
    assert api.asked <= 10 + 11, "and the budget holds"


@pytest.mark.req("R-STT-3")
async def test_probes_close_it_again_and_healing_may_be_one(api: Api) -> None:
    await until_open(api)
    api.server.otherwise = lambda _: GOOD
    asked = api.asked
    began = time.monotonic()
    await api.vendor.until_available()
    assert time.monotonic() - began > 0.3
    assert api.state == "half_open"
    answers = await asyncio.gather(
        *(api.ask(lane=Lane.HEAL, session=f"s{number}") for number in range(20)), return_exceptions=True
    )
    assert api.asked - asked == 2, "two probes at one time"
    assert sum(isinstance(one, SpeechError) and one.reason == "breaker_open" for one in answers) == 18
    await api.ask()
    assert api.state == "closed"


@pytest.mark.req("R-STT-3")
async def test_after_it_closed_calls_come_back_slowly(server: ScriptedServer) -> None:
    clock = Clock()
    patient = VendorSettings(concurrency_max=8, retry=RETRY, ramp_turn_s=30.0, deadline_base_s=30.0)
    async with api_of(server, patient, clock) as api:
        await until_open(api)
        api.server.otherwise = lambda _: answer({"text": "every word"}, pause_s=0.01)
        clock.pass_(60.0)
        for _ in range(3):
            await api.ask()
        assert api.state is State.CLOSED
        most = []
        for _ in range(4):
            server.running_most = 0
            await asyncio.gather(*(api.ask(session=f"s{number}") for number in range(20)))
            most.append(server.running_most)
            clock.pass_(10.0)
        assert most[0] == 1
        assert most == sorted(most)
        assert 4 <= most[-1] <= 8, "what it may use shrank with the failures, and grows with each success"


@pytest.mark.req("R-STT-3", "R-STT-4")
@pytest.mark.parametrize(("ramp_turn_s", "asked"), [(0.05, 1), (30.0, 2)], ids=["as it is", "if it waited on"])
async def test_live_speech_does_not_queue_behind_the_ramp(
    server: ScriptedServer, ramp_turn_s: float, asked: int
) -> None:
    """What queued would come at once when more may run; it is a draft meanwhile, and is healed in its time."""
    clock = Clock()
    patient = VendorSettings(concurrency_max=8, retry=RETRY, ramp_turn_s=ramp_turn_s, deadline_base_s=30.0)
    async with api_of(server, patient, clock) as api:
        await until_open(api)
        api.server.otherwise = lambda _: GOOD
        clock.pass_(60.0)
        for _ in range(3):
            await api.ask()
        assert api.state is State.CLOSED
        before = api.asked
        api.server.otherwise = lambda _: answer({"text": "every word"}, pause_s=1.0)
        heard = await asyncio.gather(api.ask(session="a"), api.ask(session="b"), return_exceptions=True)
        assert api.asked - before == asked
        reasons = [one.reason for one in heard if isinstance(one, SpeechError)]
        assert reasons == ["overloaded"] * (2 - asked)


@pytest.mark.req("R-STT-5", "R-STT-7")
async def test_after_an_outage_healing_begins_slowly_and_live_speech_goes_on(server: ScriptedServer) -> None:
    clock = Clock()
    async with api_of(server, VendorSettings(concurrency_max=8, retry=RETRY), clock) as api:
        healing = [asyncio.create_task(api.ask(lane=Lane.HEAL, session=f"h{number}")) for number in range(3)]
        await asyncio.wait(healing)
        assert api.asked == 3, "without an outage all go at once"
        await until_open(api)
        api.server.otherwise = lambda _: GOOD
        clock.pass_(60.0)
        for _ in range(3):
            await api.ask()
        clock.pass_(30.0)  # the ramp is over, healing is still held back
        before = api.asked
        healing = [asyncio.create_task(api.ask(lane=Lane.HEAL, session=f"h{number}")) for number in range(3)]
        await asyncio.wait(healing, return_when=asyncio.FIRST_COMPLETED)
        for number in range(5):
            await api.ask(session=f"s{number}")
        assert api.asked - before == 1 + 5
        assert api.vendor.turnstile.has_spare, "partial texts do not wait for healing that is held back"
        clock.pass_(5.0)
        await asyncio.wait([one for one in healing if not one.done()], return_when=asyncio.FIRST_COMPLETED)
        assert api.asked - before == 2 + 5
        clock.pass_(5.0)
        await asyncio.wait(healing)
        assert api.asked - before == 3 + 5


@pytest.mark.req("R-STT-3", "R-HEAL-1")
async def test_a_person_can_keep_everybody_from_calling_and_let_everybody_call(api: Api) -> None:
    api.vendor.breaker.force(Mode.FORCE_OPEN)
    waiting = asyncio.create_task(api.vendor.until_available())
    assert (await api.fail()).reason == "breaker_open"
    assert api.asked == 0
    assert not waiting.done()
    api.vendor.breaker.force(Mode.AUTO)
    async with asyncio.timeout(2):
        await waiting
    assert (await api.ask()).text == "every word"


# -- pacing --------------------------------------------------------------------------------------------------------


@pytest.mark.req("R-STT-7")
async def test_the_server_never_has_more_than_agreed_at_one_time(server: ScriptedServer) -> None:
    server.otherwise = lambda _: answer({"text": "every word"}, pause_s=0.05)
    async with api_of(server, replace(SETTINGS, deadline_base_s=30.0)) as api:
        await asyncio.gather(*(api.ask(session=f"s{number % 9}") for number in range(40)))
    assert server.running_most == 8


@pytest.mark.req("R-STT-7")
async def test_a_server_that_can_do_less_gets_less(server: ScriptedServer) -> None:
    """It serves two at a time and says 503 to the rest; nothing has to be configured for that."""
    settings = replace(SETTINGS, breaker=replace(BREAKER, failures_in_row=10_000, failure_rate=1.0))
    least = settings.concurrency_max

    async with api_of(server, settings) as api:

        def served(_: Request) -> Answer:
            nonlocal least
            least = min(least, api.vendor.turnstile.allowed)
            return refused(503) if server.running >= 2 else answer({"text": "word"}, pause_s=0.1)

        server.otherwise = served
        calls = (api.ask(session=f"s{number}", lane=Lane.HEAL) for number in range(24))
        await asyncio.gather(*calls, return_exceptions=True)
    assert least < 8


@pytest.mark.req("R-STT-7")
async def test_partial_texts_use_only_what_is_to_spare(api: Api) -> None:
    assert (await api.vendor.once(PCM, language=None, prompt="")) == Transcription("every word")
    api.server.otherwise = lambda _: answer({"text": "every word"}, pause_s=0.2)
    calls = [asyncio.create_task(api.ask(session=f"s{number}")) for number in range(7)]
    while api.vendor.turnstile.running < 7:
        await asyncio.sleep(0.001)
    asked = api.asked
    assert await api.vendor.once(PCM, language=None, prompt="") is None
    await asyncio.gather(*calls)
    assert api.asked <= max(asked, 8)
    await until_open(api)
    assert await api.vendor.once(PCM, language=None, prompt="") is None


@pytest.mark.req("R-STT-3")
async def test_a_partial_that_fails_is_none_and_counts(api: Api) -> None:
    before = failures()
    api.server.script.append(refused(500))
    assert await api.vendor.once(PCM, language=None, prompt="") is None
    assert failures() - before == 1
    assert api.asked == 1, "it is not tried again"
