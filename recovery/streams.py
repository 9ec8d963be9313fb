"""Streams out of the broker and back in, with its own snapshots: sequences, times and message ids stay what they were.

Consumers are left out on purpose. They are made again and read everything once more; what they do is idempotent, and so
what the databases (whose copy is a little older than the streams') do not know yet comes to them once more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nats.errors
import orjson

from chassis import bus
from recovery.manifest import BackupUnusable, Part, StreamCopy

_CALL_S = 30.0
_CHUNK_S = 60.0
_CHUNK_BYTES = 128 * 1024
_NOT_FOUND = 404

# What the broker is told of a restored stream is what it said itself; only these may differ in the new place.
_ELSEWHERE = ("placement", "sources", "mirror", "republish", "sealed")


async def names(broker: bus.Bus) -> list[str]:
    """Return the streams that are kept on disk, in the order in which they are to be saved. Raises BackupUnusable.

    The audio comes after the transcripts: what a transcript says was heard must be there, or come after it.
    """
    found: list[dict[str, Any]] = []
    while True:
        page = await _call(broker, "STREAM.LIST", {"offset": len(found)})
        infos = page.get("streams") or []
        found += [one["config"] for one in infos]
        if not infos or len(found) >= int(page.get("total", 0)):
            break
    kept = [config["name"] for config in found if config.get("storage") == "file"]
    return sorted(kept, key=lambda name: (name.startswith("OBJ_"), name == "AUDIO", name == "TRANSCRIPT", name))


async def info(broker: bus.Bus, name: str) -> dict[str, Any] | None:
    """Return what the broker says of a stream; None if there is none. Raises BackupUnusable."""
    return await _call(broker, f"STREAM.INFO.{name}", {}, missing_ok=True) or None


async def save(broker: bus.Bus, name: str, folder: Path) -> StreamCopy:
    """Write one stream into a file below `folder`. Raises BackupUnusable, OSError, bus.FAULTS."""
    path = f"streams/{name}.snapshot"
    (folder / "streams").mkdir(mode=0o700, exist_ok=True)
    inbox = broker.client.new_inbox()
    subscription = await broker.client.subscribe(inbox)
    digest, size = hashlib.sha256(), 0
    try:
        wanted = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": _CHUNK_BYTES, "jsck": True}
        told = await _call(broker, f"STREAM.SNAPSHOT.{name}", wanted)
        with (folder / path).open("wb") as file:
            while True:
                message = await subscription.next_msg(timeout=_CHUNK_S)
                if not message.data:
                    break
                file.write(message.data)
                digest.update(message.data)
                size += len(message.data)
                if message.reply:  # the broker sends on only as we take
                    await message.respond(b"")
        status = (message.headers or {}).get("Status", "204")
        if status not in {"204", "200"}:
            raise BackupUnusable(f"the broker broke off the snapshot of {name}: {status}")
    except TimeoutError as fault:
        raise BackupUnusable(f"the broker stopped in the midst of the snapshot of {name}") from fault
    finally:
        await bus.quietly(subscription.unsubscribe())
    return StreamCopy(told["config"], told["state"], Part(path, size, digest.hexdigest()))


async def load(broker: bus.Bus, name: str, folder: Path, copy: StreamCopy, *, replicas: int) -> None:
    """Make a stream what it was; one of the same name goes. Raises BackupUnusable, OSError, bus.FAULTS."""
    if await info(broker, name) is not None:
        await _call(broker, f"STREAM.DELETE.{name}", {})
    config = {key: value for key, value in copy.config.items() if key not in _ELSEWHERE} | {"num_replicas": replicas}
    told = await _call(broker, f"STREAM.RESTORE.{name}", {"config": config, "state": copy.state})
    with (folder / copy.part.path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            _complain(name, (await broker.client.request(told["deliver_subject"], chunk, timeout=_CHUNK_S)).data)
    done = await broker.client.request(told["deliver_subject"], b"", timeout=_CHUNK_S)
    _complain(name, done.data)
    restored = await info(broker, name)
    # What is older than the stream keeps is let go at once.
    if restored is None or restored["state"]["last_seq"] != copy.state["last_seq"]:
        raise BackupUnusable(f"the stream {name} did not come back as it was")


async def _call(broker: bus.Bus, what: str, wanted: dict[str, Any], *, missing_ok: bool = False) -> dict[str, Any]:
    try:
        answer = await broker.client.request(f"$JS.API.{what}", orjson.dumps(wanted), timeout=_CALL_S)
    except nats.errors.NoRespondersError:
        raise BackupUnusable("the broker has no JetStream") from None
    told: dict[str, Any] = orjson.loads(answer.data)
    if error := told.get("error"):
        if missing_ok and error.get("code") == _NOT_FOUND:
            return {}
        raise BackupUnusable(f"the broker refuses {what}: {error.get('description')}")
    return told


def _complain(name: str, answer: bytes) -> None:
    error = orjson.loads(answer).get("error") if answer else None
    if error:
        raise BackupUnusable(f"the broker refuses to restore {name}: {error.get('description')}")
