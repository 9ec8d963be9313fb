"""`/api/usage`, and what happens when an account has used up what it may."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chassis.cache import Cache
from chassis.errors import AppError, Kind
from chassis.limits import Limiter
from chassis.rpc import Identity, peer
from chassis.seats import Seats
from services.gateway.admission import Admission, Meter, SessionLimits
from services.gateway.budget import AudioBudget
from services.gateway.limits import RateLimits, Rules
from services.gateway.tests.conftest import SERVICE_KEY, Gateway, problem, running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.req("R-RL-1")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited() -> AsyncIterator[Gateway]:
    """A gateway at which an account may use ten minutes in a month."""
    async with running(audio_minutes_per_month=10) as gateway:
        yield gateway


async def test_an_account_reads_what_it_has_used_and_may(limited: Gateway) -> None:
    who = limited.as_account()
    limited.usage.audio_s[limited.signer.account_of(who)] = 90.5
    assert (await limited.client.get("/api/usage", headers=who)).json() == {
        "period_start": "2026-11-27T12:00:00Z",
        "period_end": "2096-10-02T07:06:40Z",
        "audio_seconds": 90.5,
        "audio_seconds_limit": 600.0,
        "model_tokens": 0,
        "model_tokens_limit": None,
    }


@pytest.mark.req("R-API-3")
async def test_what_models_have_cost_is_told_and_not_waited_for(limited: Gateway) -> None:
    who = limited.as_account()
    limited.model_usage.tokens[limited.signer.account_of(who)] = 1234
    limited.model_usage.most = 5000
    told = (await limited.client.get("/api/usage", headers=who)).json()
    assert (told["model_tokens"], told["model_tokens_limit"]) == (1234, 5000)
    limited.model_usage.fault = AppError(Kind.UNAVAILABLE, "The database does not answer.")
    told = (await limited.client.get("/api/usage", headers=who)).json()
    assert (told["audio_seconds"], told["model_tokens"], told["model_tokens_limit"]) == (0.0, None, None)
    limited.model_usage.fault, limited.model_usage.most = None, 0


async def test_no_recording_is_taken_when_all_is_used_up_and_it_is_told_until_when(limited: Gateway) -> None:
    who = limited.as_account()
    limited.usage.audio_s[limited.signer.account_of(who)] = 600.0
    for answer in (
        await limited.client.put(
            "/api/uploads/talk.wav", content=b"RIFF\x24\x00\x00\x00WAVE" + bytes(400), headers=who
        ),
        await limited.client.post(
            "/api/uploads/tus",
            headers={
                **who,
                "Tus-Resumable": "1.0.0",
                "Upload-Length": "1000",
                "Upload-Metadata": "filename dGFsay53YXY=",
            },
        ),
    ):
        assert answer.status_code == 429, answer.text
        assert problem(answer)["error"] == "rate_limit_exceeded"
        assert "2096-10-02" in problem(answer)["message"]
        assert int(answer.headers["retry-after"]) > 86_400


def admission(budget: AudioBudget) -> Admission:
    cache = Cache("", service="gateway", replica="test")
    limiter = Limiter(cache)
    rates = RateLimits(limiter, Rules(), aggressive_factor=1.0, is_aggressive=lambda: False)
    return Admission(rates, limiter, Seats(cache, "sessions"), SessionLimits(10, 10, None), budget)


async def test_no_session_begins_when_all_is_used_up_but_one_under_way_goes_on(limited: Gateway) -> None:
    account = limited.signer.account_of(limited.as_account())
    limited.usage.audio_s[account] = 601.0
    target = f"127.0.0.1:{limited.backends[0].port}"
    async with peer(target, Identity("gateway", SERVICE_KEY)) as meetings:
        door = admission(AudioBudget(meetings, minutes_per_month=10, timeout_s=5.0))
        with pytest.raises(AppError) as caught:
            async with door.session(account, "s1", Meter(), address="192.0.2.1", resumed=False):
                pass
        assert caught.value.kind is Kind.RATE_LIMIT_EXCEEDED
        assert caught.value.retry_after_s is not None
        assert math.isfinite(caught.value.retry_after_s)
        async with door.session(account, "s1", Meter(), address="192.0.2.1", resumed=True):
            pass
        # Without a limit nobody is asked; where nobody answers, sessions begin.
        for budget in (
            AudioBudget(meetings, minutes_per_month=0, timeout_s=5.0),
            AudioBudget(meetings, minutes_per_month=10, timeout_s=5.0),
        ):
            limited.usage.fault = AppError(Kind.UNAVAILABLE, "The database does not answer.")
            async with admission(budget).session(account, "s2", Meter(), address="192.0.2.1", resumed=False):
                pass
            limited.usage.fault = None
