"""The built image, run for real: `make image-test`. Passed over where no image is named in VERBATIM_IMAGE."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dev.plan import Plan
from dev.ports import Ports
from tests.image.containers import ContainerStack, engine

IMAGE = os.environ.get("VERBATIM_IMAGE", "")
SIZE_MAX_BYTES = 420 * 1024 * 1024  # what we add to the base image

pytestmark = [
    pytest.mark.req("R-RUN-3"),
    pytest.mark.skipif(not IMAGE, reason="VERBATIM_IMAGE names no image: make image-test"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(stack_folder: Path, nats_binary: str | None) -> AsyncIterator[ContainerStack]:
    program = engine()
    assert program, "no container engine answers"
    stack = ContainerStack(Plan(stack_folder / "image", Ports.free(), nats_server=nats_binary))
    stack.image, stack.program = IMAGE, program
    await stack.start()
    print(f"ready within s: { {name: round(s, 1) for name, s in stack.started_within_s.items()} }")
    yield stack
    await stack.stop()


async def test_hardened_containers_transcribe(stack: ContainerStack) -> None:
    told = await stack.run("doctor", "verbatim_client", "--url", stack.url, "doctor", "--throwaway", "--json")
    verdicts = {finding["check"]: finding["verdict"] for finding in map(json.loads, told.splitlines())}
    assert verdicts["transcription"] == verdicts["storage"] == "ok"
    assert set(verdicts.values()) <= {"ok", "warn", "skipped"}


async def test_containers_are_as_hard_as_the_chart_says(stack: ContainerStack) -> None:
    (found,) = json.loads(await stack.docker("inspect", stack.name_of("transcriber")))
    assert found["HostConfig"]["ReadonlyRootfs"] and found["HostConfig"]["CapDrop"] == ["ALL"]
    status = await stack.docker("exec", stack.name_of("transcriber"), "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert int(fields["CapEff"], 16) == 0
    with pytest.raises(RuntimeError, match="Read-only file system"):
        await stack.docker("exec", stack.name_of("transcriber"), "python", "-c", "open('/app/x', 'w')")


async def test_image_has_its_labels_and_no_tools(stack: ContainerStack) -> None:
    (found,) = json.loads(await stack.docker("image", "inspect", IMAGE))
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "Verbatim"
    assert labels["org.opencontainers.image.revision"] != "unknown"
    assert found["Config"]["User"] == "10001:10001"
    listed = "import shutil; print([t for t in ('gcc', 'make', 'pip', 'git') if shutil.which(t)])"
    told = await stack.docker("run", "--rm", "--entrypoint", "python", IMAGE, "-c", listed)
    assert told.strip() in {"[]", "['pip']"}, "pip may be the base image's"


async def test_image_is_small(stack: ContainerStack) -> None:
    history = (await stack.docker("history", "--format", "{{.Size}}\t{{.CreatedBy}}", "--human=false", IMAGE)).split(
        "\n"
    )
    ours = sum(int(line.split("\t")[0]) for line in history if "COPY" in line or "mkdir /scratch" in line)
    print(f"added to the base image: {ours / 1024**2:.0f} MiB")
    assert ours < SIZE_MAX_BYTES
