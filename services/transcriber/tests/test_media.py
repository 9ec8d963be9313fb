"""Files of every kind meet the decoder: recordings are heard to the end, all else is refused and leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from chassis.errors import AppError, Kind
from services.transcriber import metrics
from services.transcriber.containers import Container, UnreadableError, check
from services.transcriber.cutting import BYTES_PER_SECOND, CuttingSettings
from services.transcriber.media import MediaDecoder, MediaLimits, Recording, write_all
from tests.corpus import recordings as make
from tests.corpus.specimens import ANY, CONTAINER, CORPUS, Specimen

ROOT = Path(__file__).parents[3]
PEAK_BYTES_MAX = 400 * 1024**2
SECONDS_EACH_MAX = 30.0
Verdict = tuple[Specimen, str, float, float]
Peaks = tuple[float, float]
_TWICE = {"chained.ogg", "appended.mp3"}


def container_of(specimen: Specimen) -> Container:
    return cast(Container, CONTAINER.get(specimen.suffix.lower(), "mp3"))


async def decoded(folder: Path, data: bytes, container: Container, limits: MediaLimits | None = None) -> Recording:
    """Decode a file; the recording's sound can be read until the test ends."""
    decoder = MediaDecoder(folder, limits or MediaLimits(), CuttingSettings())
    with decoder.scratch() as source:
        write_all(source, data)
        sound = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - the recording reads from it
        return await decoder.decode(source, container, sound)


async def verdict_on(folder: Path, specimen: Specimen) -> Verdict:
    """Return the verdict, the seconds that were heard and those that it took."""
    began = time.monotonic()
    try:
        recording = await decoded(folder, specimen.make(), container_of(specimen))
    except UnreadableError as fault:
        return specimen, fault.reason, 0.0, time.monotonic() - began
    return specimen, "", recording.pcm_bytes / BYTES_PER_SECOND, time.monotonic() - began


def peaks() -> Peaks:
    """Return how many decoders have told their peak so far, and how many of them stayed within the bound."""
    [family] = metrics.DECODE_PEAK.collect()
    upto = {float(s.labels["le"]): s.value for s in family.samples if s.name.endswith("_bucket")}
    return upto[float("inf")], upto[PEAK_BYTES_MAX]


@pytest.fixture(scope="module")
def before() -> Peaks:
    return peaks()


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory, before: Peaks) -> list[Verdict]:
    """Let the decoder judge all of the corpus whose parts fit; the others are refused by the same function first."""
    folder = tmp_path_factory.mktemp("scratch")

    async def judge() -> list[Verdict]:
        slots = asyncio.Semaphore(2)

        async def judged(specimen: Specimen) -> Verdict:
            try:
                check(container_of(specimen), specimen.make())
            except UnreadableError as fault:
                return specimen, fault.reason, 0.0, 0.0
            async with slots:
                return await verdict_on(folder, specimen)

        return list(await asyncio.gather(*map(judged, CORPUS)))

    found = asyncio.run(judge())
    assert list(folder.iterdir()) == []
    return found


@pytest.mark.req("R-UP-2", "R-UP-1")
@pytest.mark.timeout(300)
def test_the_corpus_is_judged_as_its_table_says(verdicts: list[Verdict]) -> None:
    assert len(verdicts) >= 100
    wrong = {
        str(specimen): f"{got or 'taken'}, not {specimen.verdict or 'taken'}"
        for specimen, got, _, _ in verdicts
        if specimen.verdict != ANY and got not in specimen.verdict.split("|")
    }
    assert wrong == {}
    slow = {str(specimen): took for specimen, _, _, took in verdicts if took > SECONDS_EACH_MAX}
    assert slow == {}


@pytest.mark.req("R-UP-2")
@pytest.mark.timeout(300)
def test_recordings_are_heard_to_their_end(verdicts: list[Verdict]) -> None:
    heard = {s.name: heard_s for s, _, heard_s, _ in verdicts if s.kind == "good"}
    expected = {name: 4.0 if name in _TWICE else 2.0 for name in heard}
    assert heard == pytest.approx(expected, abs=0.15)


@pytest.mark.req("R-UP-2")
@pytest.mark.timeout(300)
def test_no_decoder_took_more_memory_than_it_may(verdicts: list[Verdict], before: Peaks) -> None:
    """Each decoder tells its own peak: what `getrusage` says of children holds those of every other test as well."""
    (ended_before, within_before), (ended, within) = before, peaks()
    decoded = sum(took > 0.0 for _, _, _, took in verdicts)
    killed = sum(reason == "too_costly" for _, reason, _, _ in verdicts)
    assert ended - ended_before >= decoded - killed > 50
    assert within - within_before == ended - ended_before


@pytest.mark.req("R-UP-2")
async def test_utterances_are_where_somebody_speaks(tmp_path: Path) -> None:
    recording = await decoded(tmp_path, (ROOT / "dev/assets/meeting.wav").read_bytes(), "wav")
    assert 15 <= len(recording.utterances) <= 40
    ends = [utterance.end_byte for utterance in recording.utterances]
    assert ends == sorted(ends)
    assert ends[-1] <= recording.pcm_bytes
    first = recording.utterances[0]
    assert len(recording.pcm(first.start_byte, first.end_byte)) == first.end_byte - first.start_byte


@pytest.mark.req("R-UP-2")
async def test_silence_that_a_recorder_left_out_is_there_again(tmp_path: Path) -> None:
    data = make.webm_with_a_pause(make.tone(4.0), at_s=2.0, pause_s=30.0)
    recording = await decoded(tmp_path, data, "webm")
    assert recording.pcm_bytes / BYTES_PER_SECOND == pytest.approx(34.0, abs=0.2)
    assert not any(recording.pcm(10 * BYTES_PER_SECOND, 20 * BYTES_PER_SECOND))
    assert any(recording.pcm(33 * BYTES_PER_SECOND, recording.pcm_bytes))


@pytest.mark.req("R-UP-2")
@pytest.mark.parametrize(
    ("limits", "reason"), [(MediaLimits(audio_s=1), "too_long"), (MediaLimits(cpu_s=1), "too_costly")]
)
async def test_limits_hold(tmp_path: Path, limits: MediaLimits, reason: str) -> None:
    with pytest.raises(UnreadableError) as failure:
        await decoded(tmp_path, make.opus_silence(3, lying=True), "ogg", limits)
    assert failure.value.reason == reason


@pytest.mark.req("R-UP-2")
async def test_a_decoder_that_takes_too_long_is_killed_and_may_be_tried_again(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(AppError) as failure:
        await decoded(tmp_path, make.opus_silence(5, lying=True), "ogg", MediaLimits(wall_s=0.8))
    assert failure.value.kind is Kind.TIMEOUT
    assert children() == before
    assert left_in(tmp_path) == []


@pytest.mark.req("R-UP-2")
async def test_nothing_goes_on_when_the_caller_leaves(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.8):
            await decoded(tmp_path, make.opus_silence(5, lying=True), "ogg")
    assert children() == before


def left_in(folder: Path) -> list[Path]:
    """Return what lies in a folder."""
    return list(folder.iterdir())


def children() -> list[str]:
    """Return the process ids of this process's children."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


_PROBE = """
import json, os, socket, sys
from services.transcriber import sandbox
sandbox.die_with(os.getppid())
namespace = sandbox.leave_network() if sys.argv[1] == "with" else False
filtered = sandbox.give_up_calls() if sys.argv[1] == "with" else False
def tried(act):
    try:
        act()
    except OSError as fault:
        return fault.errno
    return 0
print(json.dumps({
    "layers": [namespace, filtered],
    "read": tried(lambda: os.open("/etc/passwd", os.O_RDONLY)),
    "write": tried(lambda: os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)),
    "socket": tried(lambda: socket.socket()),
    "fork": tried(lambda: os.fork() or os._exit(0)),
    "exec": tried(lambda: os.execv("/bin/true", ["true"])) if sys.argv[1] == "with" else 0,
    "kill": tried(lambda: os.kill(os.getppid(), 0)),
}))
"""


@contextmanager
def _environment() -> Iterator[dict[str, str]]:
    yield {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": os.environ["PATH"]}


@pytest.mark.req("R-UP-2", "R-SEC-1")
@pytest.mark.parametrize("mode", ["with", "without"])
def test_the_sandbox_keeps_files_network_and_processes_away(mode: str, tmp_path: Path) -> None:
    with _environment() as environment:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, mode, str(tmp_path / "file")],
            env=environment, capture_output=True, check=True, timeout=30,
        )  # fmt: skip
    told = json.loads(done.stdout.decode().strip().splitlines()[-1])
    tried = {name: told[name] for name in ("read", "write", "socket", "fork", "exec", "kill")}
    if mode == "without":
        assert set(tried.values()) == {0}, "the probe itself could do nothing: it proves nothing"
    else:
        assert told["layers"][1], "this kernel has no filter of system calls"
        assert set(tried.values()) == {13}, tried
