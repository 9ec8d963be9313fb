"""`verbatim doctor --every`: the same checks again and again, told to Prometheus: a client that is always there."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from verbatim_client.cli.edge import CliError, Exit
from verbatim_client.cli.findings import FIXES, Finding

HEAD_WITHIN_S = 5.0
CALLERS_MAX = 16

Round = Callable[[], Awaitable[Sequence[Finding]]]


class Figures:
    """What the rounds came to, as Prometheus reads it. Before the first round has ended there is no success to tell."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._ended_at = 0.0
        self._failed = False
        self._runs: Counter[str] = Counter({"ok": 0, "failed": 0})
        self._failures: Counter[str] = Counter(dict.fromkeys(FIXES, 0))
        self._seconds: dict[str, float] = {}

    def note(self, findings: Sequence[Finding]) -> None:
        """Count a round."""
        broken = [finding.check for finding in findings if finding.verdict == "fail"]
        self._failed = bool(broken) or not findings
        self._ended_at = self._clock()
        self._runs["failed" if self._failed else "ok"] += 1
        self._failures.update(broken)
        self._seconds |= {finding.check: finding.took_s for finding in findings if finding.verdict != "skipped"}

    def text(self) -> str:
        """Return them in Prometheus's text format."""
        runs = [(f'{{result="{result}"}}', count) for result, count in self._runs.items()]
        failures = [(f'{{check="{check}"}}', count) for check, count in self._failures.items()]
        seconds = [(f'{{check="{check}"}}', took_s) for check, took_s in self._seconds.items()]
        success = [("", float(not self._failed))] if self._ended_at else []
        ended = [("", self._ended_at)] if self._ended_at else []
        return "".join(
            f"# HELP {name} {about}\n# TYPE {name} {kind}\n" + "".join(f"{name}{of} {value}\n" for of, value in samples)
            for name, kind, about, samples in (
                ("synthetic_probe_success", "gauge", "1 if the last round found nothing broken, else 0.", success),
                ("synthetic_probe_last_run_timestamp_seconds", "gauge", "When the last round ended.", ended),
                ("synthetic_probe_runs_total", "counter", "Rounds by what they came to.", runs),
                ("synthetic_probe_failures_total", "counter", "Checks that failed.", failures),
                ("synthetic_probe_seconds", "gauge", "How long each check of the last round took.", seconds),
            )
        )


async def keep(make_round: Round, every_s: float, listen: tuple[str, int]) -> None:
    """Make a round every `every_s` until SIGTERM or SIGINT, and tell of them at `/metrics`. Raises CliError."""
    figures, over = Figures(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    seats = asyncio.Semaphore(CALLERS_MAX)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with seats:
            await _answer(figures, reader, writer)

    try:
        server = await asyncio.start_server(answer, *listen)
    except OSError as fault:
        raise CliError(f"cannot listen at {listen[0]}:{listen[1]}: {fault.strerror}", Exit.USAGE) from fault
    ended = asyncio.create_task(over.wait())
    try:
        while not over.is_set():
            began = loop.time()
            making = asyncio.ensure_future(make_round())
            await asyncio.wait([making, ended], return_when=asyncio.FIRST_COMPLETED)
            if not making.done():
                making.cancel()
                await asyncio.wait([making])
                break
            figures.note(making.result())
            await asyncio.wait([ended], timeout=max(0.0, began + every_s - loop.time()))
    finally:
        ended.cancel()
        server.close()


async def _answer(figures: Figures, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, whatever its path and method: figures, or that we are there."""
    try:
        async with asyncio.timeout(HEAD_WITHIN_S):
            head = await reader.readuntil(b"\r\n\r\n")
            body = figures.text().encode() if b" /metrics" in head.partition(b"\r\n")[0] else b"ok\n"
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # a caller that says nothing, or has gone
    finally:
        writer.close()
