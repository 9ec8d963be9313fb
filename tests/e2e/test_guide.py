"""The SDK guide, run from its first block to its last, as its reader would."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import wave
from pathlib import Path
from typing import Any

import pytest

from dev.settings import ROOT
from dev.stack import Stack
from tests.e2e.conftest import PASSWORD, NewClient
from tests.e2e.speech import ASSETS

pytestmark = [pytest.mark.req("R-UI-2", "R-RUN-7"), pytest.mark.long, pytest.mark.timeout(900)]

SPOKEN_S = 7.0


def blocks() -> list[str]:
    """Return the guide's pieces of Python."""
    text = (ROOT / "docs/sdk.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


async def test_every_snippet_of_the_guide_does_what_it_says(
    stack: Stack,
    new_client: NewClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = await new_client()
    await client.register("ada@example.com", "ada", PASSWORD)
    monkeypatch.chdir(tmp_path)
    with wave.open(str(ASSETS / "meeting.wav")) as whole, wave.open("meeting.wav", "wb") as part:
        part.setparams(whole.getparams())
        part.writeframes(whole.readframes(int(SPOKEN_S * whole.getframerate())))
    seen: dict[str, Any] = {}
    for number, block in enumerate(blocks()):
        code = compile(
            block.replace("http://localhost:8000", stack.url), f"block {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        # What waits for an answer waits in a thread: the reader has no loop either.
        if code.co_flags & inspect.CO_COROUTINE:
            await eval(code, seen)  # noqa: S307 - the guide is ours
        else:
            await asyncio.to_thread(exec, code, seen)
    printed = capsys.readouterr().out
    assert "coverage 1.0" in printed
    assert "completed 1\n00:00:" in printed, "the job, and the first line of the subtitles"
    assert f"{stack.url}/#/shared/{seen['meeting_id']}/share_" in printed
    assert "0.0 s are missing" in printed
    assert re.search(r"^Ada \w+", printed, re.M), "the guest reads along"
    assert "not_found 404 False None req_" in printed
    assert len(blocks()) >= 7
