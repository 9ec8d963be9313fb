"""`verbatim doctor` against the whole platform, and against one that is not well."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.ports import Ports
from dev.stack import Stack
from tests.e2e.test_cli import Cli

pytestmark = pytest.mark.req("R-UI-2", "R-RUN-2")


async def test_a_healthy_platform_passes_every_check(stack: Stack, tmp_path: Path) -> None:
    result = await Cli(stack.url, tmp_path).run("doctor", "--throwaway", "--json")
    verdicts = {finding["check"]: finding["verdict"] for finding in result.objects}
    assert list(verdicts) == [
        "gateway", "readiness", "account", "clock", "parts", "transcription", "storage", "clean-up",
    ]  # fmt: skip
    assert set(verdicts.values()) <= {"ok", "warn", "skipped"}, result.out
    assert verdicts["transcription"] == verdicts["storage"] == "ok"
    assert result.code == 0, result.err


async def test_what_is_broken_comes_first_with_what_mends_it(tmp_path: Path) -> None:
    nobody = Cli(f"http://127.0.0.1:{Ports.free().of('nobody')}", tmp_path)
    result = await nobody.run("doctor", "--throwaway", "--json")
    assert result.code == 1
    assert "gateway is broken" in result.err
    first, *others = result.objects
    assert (first["check"], first["verdict"]) == ("gateway", "fail")
    assert "make run" in first["fix"]
    assert {finding["verdict"] for finding in others} == {"skipped"}


async def test_without_a_login_it_says_how_to_get_one(stack: Stack, tmp_path: Path) -> None:
    result = await Cli(stack.url, tmp_path).run("doctor")
    assert result.code == 1
    assert "verbatim login" in result.out
