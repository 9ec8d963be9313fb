"""Everywhere that something could be kept: rows, messages, objects, keys; words are found in any spelling."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator

import psycopg
import redis.asyncio as redis
from nats.js.api import AckPolicy, ConsumerConfig
from psycopg import sql

from chassis import bus
from chassis.pool import direct_conninfo
from dev.stack import Stack

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{12,}={0,2}")


def spellings(text: str) -> list[bytes]:
    """Return how a text may be written: as it is, in hex."""
    plain = text.encode()
    return [plain, plain.hex().encode()]


def holds(data: bytes, wanted: list[bytes]) -> bool:
    """Tell whether any spelling stands in some bytes, or in what is Base64 or hex in them."""
    low = data.lower()
    if any(one.lower() in low for one in wanted):
        return True
    for found in _BASE64.findall(data):
        for decode in (base64.b64decode, base64.urlsafe_b64decode):
            try:
                inner = decode(found + b"=" * (-len(found) % 4)).lower()
            except (binascii.Error, ValueError):
                continue
            if any(one.lower() in inner for one in wanted):
                return True
    return False


async def places(stack: Stack, text: str) -> dict[str, int]:
    """Return where a text is kept and how often: `meetings.segments`, `EVENTS events.insights.ready`, `redis`."""
    wanted = spellings(text)
    found: dict[str, int] = {}
    for service in ("meetings", "insights"):
        async with await psycopg.AsyncConnection.connect(
            direct_conninfo(stack.database_url(service)), autocommit=True
        ) as connection:
            tables = await connection.execute(
                "SELECT relname FROM pg_class "
                "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'm')"
            )
            for (table,) in await tables.fetchall():
                rows = await connection.execute(
                    sql.SQL("SELECT convert_to(t::text, 'UTF8') FROM {} t").format(sql.Identifier(table))
                )
                async for (row,) in rows:
                    if holds(row, wanted):
                        found[f"{service}.{table}"] = found.get(f"{service}.{table}", 0) + 1
    async with bus.connect(stack.plan.nats_url, name="search", replicas=1) as broker:
        for info in await broker.js.streams_info():
            async for subject, data in messages(broker, info.config.name or ""):
                if holds(data, wanted):
                    place = f"{info.config.name} {re.sub(r'[0-9a-f-]{36}', '*', subject)}"
                    found[place] = found.get(place, 0) + 1
    async with redis.Redis.from_url(stack.plan.redis_url) as client:
        async for key in client.scan_iter():
            if holds(key + (await client.dump(key) or b""), wanted):
                found["redis"] = found.get("redis", 0) + 1
    for log in stack.plan.log_folder.iterdir():
        if holds_plainly(log.read_bytes(), wanted):
            found[f"log of {log.stem}"] = 1
    return found


def holds_plainly(data: bytes, wanted: list[bytes]) -> bool:
    return any(one.lower() in data.lower() for one in wanted)


async def messages(broker: bus.Bus, stream: str) -> AsyncIterator[tuple[str, bytes]]:
    """Yield the subject of every message of a stream, and all of it."""
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=30, mem_storage=True)
    work_queue = (await broker.js.stream_info(stream)).config.retention == "workqueue"
    if work_queue:  # nobody may look at those beside their worker
        state = (await broker.js.stream_info(stream)).state
        for sequence in range(state.first_seq, state.last_seq + 1):
            try:
                raw = await broker.js.get_msg(stream, sequence)
            except bus.FAULTS:
                continue
            yield raw.subject or "", (raw.data or b"") + repr(raw.headers).encode()
        return
    subscription = await broker.js.pull_subscribe("", stream=stream, config=config)
    left = (await subscription.consumer_info()).num_pending or 0
    while left:
        batch = await subscription.fetch(min(left, 200), timeout=10)
        for message in batch:
            yield message.subject, message.data + repr(message.headers).encode()
        left = batch[-1].metadata.num_pending or 0
    await subscription.unsubscribe()
