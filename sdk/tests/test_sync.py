"""The client for programs without asyncio, against real servers."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from verbatim_client import ApiError, LiveSettings, SyncVerbatimClient, VerbatimClient

from dev import sync_client
from tests.answering import Answering, served
from tests.scripted_platform import SPEECH, ScriptedPlatform

pytestmark = pytest.mark.req("R-UI-2")


class Answers(Answering):
    """Two pages of meetings, one that is gone, and whose token it is."""

    def do_GET(self) -> None:  # noqa: N802 - the name is the library's
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path == "/api/auth/me":
            self.answer(200, {"authorization": self.headers["Authorization"]})
        elif path == "/api/meetings":
            second = query.get("cursor") == ["c2"]
            items = [{"id": "3"}] if second else [{"id": "1"}, {"id": "2"}]
            self.answer(200, {"items": items, "next_cursor": None if second else "c2"})
        else:
            self.answer(404, {"error": "not_found", "message": "There is no such meeting.", "request_id": "req_1"})


@pytest.fixture
def url() -> Iterator[str]:
    with served(Answers) as url:
        yield url


def test_it_is_what_the_client_with_asyncio_comes_to() -> None:
    written = sync_client.TARGET.read_text(encoding="utf-8")
    assert written == sync_client.formatted(sync_client.source()), "python -m dev.sync_client writes it anew"


def test_every_call_is_there_with_the_same_parameters() -> None:
    def calls(of: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(one).parameters)
            for name, one in inspect.getmembers(of, inspect.isfunction)
            if not name.startswith("_")
        }

    missing = calls(VerbatimClient).keys() - calls(SyncVerbatimClient).keys()
    assert missing == sync_client.LEFT_OUT
    assert calls(SyncVerbatimClient).items() <= calls(VerbatimClient).items()


def test_calls_wait_lists_are_iterators_and_refusals_are_raised(url: str) -> None:
    with SyncVerbatimClient(url, access_token="vbk_1") as client:
        assert client.me() == {"authorization": "Bearer vbk_1"}
        assert [one["id"] for one in client.meetings()] == ["1", "2", "3"]
        for one in client.meetings():
            assert one["id"] == "1"
            break
        with pytest.raises(ApiError, match="There is no such meeting"):
            client.meeting("4")
    assert not [one for one in threading.enumerate() if one.name == "verbatim"], "its thread ends with it"


def test_outside_of_a_with_statement_it_says_so(url: str) -> None:
    with pytest.raises(RuntimeError, match="with statement"):
        SyncVerbatimClient(url).me()


async def test_it_may_be_used_where_a_loop_runs_already(url: str) -> None:
    """As in a notebook."""
    with SyncVerbatimClient(url, access_token="vbk_1") as client:
        assert client.me()


async def test_live_audio_flows_while_the_program_does_something_else() -> None:
    async with ScriptedPlatform().listening() as platform:

        def speak() -> list[str]:
            url = platform.url.replace("ws", "http", 1).removesuffix("/transcribe")
            with SyncVerbatimClient(url, access_token="old") as client:
                events = client.stream(SPEECH, LiveSettings(title="Planning"), speed=None)
                return [event["type"] for event in events]

        kinds = await asyncio.to_thread(speak)
        assert bytes(platform.audio) == SPEECH
        assert [kind for kind in kinds if kind not in {"ack", "partial"}] == ["started", "segment", "finished"]
