"""The door to the transcribers: one relay stream per replica, shared by all sessions of this gateway."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcriber.v1 import transcriber_pb2_grpc

from chassis import telemetry
from chassis.errors import AppError, Kind
from chassis.rpc import Identity, Peer
from services.gateway import metrics

log = telemetry.logger(__name__)

# Above this many sessions frames are gathered for a moment: a millisecond of latency for most of the cost per frame.
_GATHER_ABOVE = 20
_GATHER_S = 0.0015
# A full batch of the largest frames stays below what one gRPC message may have.
_BATCH_MAX = 48
_RECONNECT_S = (0.1, 0.5)
_RESOLVE_S = 5.0
_CONNECT_S = 3.0


class Listener(Protocol):
    """The gateway's end of a session."""

    def on_event(self, event: relay.ServerEvent) -> None:
        """Take what the transcriber says. Must not wait."""

    def on_lost(self) -> None:
        """The transcriber is gone; nothing more will come."""


class Link:
    """The stream to one transcriber. Carries batches both ways; a channel number is a session."""

    def __init__(self, target: str, identity: Identity, on_connected: Callable[[], None]) -> None:
        self.target = target
        self._on_connected = on_connected
        self.connected = False
        self.retiring = False
        self.peer = Peer(target, identity)
        self._listeners: dict[int, Listener] = {}
        self._next_channel = 1
        self._outgoing: list[relay.ClientEvent] = []
        self._ready = asyncio.Event()

    def join(self, listener: Listener) -> int:
        """Give a session a channel. Raises AppError(UNAVAILABLE) if the transcriber is not connected."""
        if not self.connected:
            raise AppError(Kind.UNAVAILABLE, "The transcription service does not answer.", log=self.target)
        channel = self._next_channel
        self._next_channel += 1
        self._listeners[channel] = listener
        return channel

    def leave(self, channel: int) -> None:
        """Take the session off the stream; the transcriber keeps it for whoever resumes."""
        if self._listeners.pop(channel, None) is not None and self.connected:
            self.send(relay.ClientEvent(channel=channel, detach=relay.Detach()))

    def send(self, event: relay.ClientEvent) -> None:
        """Queue an event. The sessions' windows bound what can be queued."""
        self._outgoing.append(event)
        self._ready.set()

    async def run(self) -> None:
        """Keep the stream up, for ever."""
        try:
            while True:
                try:
                    await self._serve()
                except (grpc.aio.AioRpcError, TimeoutError, grpc.aio.UsageError) as fault:
                    log.info("transcriber not connected", target=self.target, fault=_brief(fault))
                self._lose()
                await asyncio.sleep(random.uniform(*_RECONNECT_S))
        finally:
            self._lose()
            await self.peer.close()

    async def _serve(self) -> None:
        stub: Any = transcriber_pb2_grpc.TranscriberServiceStub(self.peer.channel)
        call = stub.Relay(metadata=self.peer.metadata())
        try:
            async with asyncio.timeout(_CONNECT_S):
                await call.wait_for_connection()
            self.connected, self.retiring = True, False
            metrics.TRANSCRIBERS_CONNECTED.labels(self.target).set(1)
            self._on_connected()
            log.info("transcriber connected", target=self.target)
            await self._talk(call)
        finally:
            call.cancel()

    async def _talk(self, call: Any) -> None:
        # Not a TaskGroup: before Python 3.13 it forgets that it was cancelled when a half fails at the same time.
        halves = [asyncio.create_task(self._write(call)), asyncio.create_task(self._read(call))]
        try:
            await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for half in halves:
                half.cancel()
            await asyncio.wait(halves)
        faults = [fault for half in halves if not half.cancelled() and (fault := half.exception()) is not None]
        for fault in faults:
            # Both may see the end of the stream, the writing one as an invalid state.
            if not isinstance(fault, (grpc.aio.AioRpcError, asyncio.InvalidStateError)):
                raise fault
        log.info("transcriber lost", target=self.target, fault=_brief(faults[0]) if faults else "end")

    async def _write(self, call: Any) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            if len(self._listeners) > _GATHER_ABOVE:
                await asyncio.sleep(_GATHER_S)
            while self._outgoing:
                batch, self._outgoing = self._outgoing[:_BATCH_MAX], self._outgoing[_BATCH_MAX:]
                await call.write(relay.RelayRequest(events=batch))

    async def _read(self, call: Any) -> None:
        async for batch in call:
            for event in batch.events:
                if not event.channel:
                    self.retiring = True  # its sessions stay until it lets them go; nobody new is brought there
                    continue
                listener = self._listeners.get(event.channel)
                if listener is not None:
                    listener.on_event(event)

    def _lose(self) -> None:
        self.connected = False
        metrics.TRANSCRIBERS_CONNECTED.labels(self.target).set(0)
        listeners, self._listeners = self._listeners, {}
        self._outgoing = []
        for listener in listeners.values():
            listener.on_lost()


class Fleet:
    """The transcribers that there are. Which one serves a session is a matter of speed only: any can adopt any."""

    def __init__(self, targets: Sequence[str], identity: Identity) -> None:
        self._targets = targets
        self._identity = identity
        self._links: dict[str, tuple[Link, asyncio.Task[None]]] = {}
        self._connected = asyncio.Event()

    @property
    def live(self) -> list[str]:
        """Return the targets that are connected and take sessions."""
        return [target for target, (link, _) in self._links.items() if link.connected and not link.retiring]

    async def run(self) -> None:
        """Keep a link to every replica, for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                found = await self._resolve()
                for target in found - self._links.keys():
                    link = Link(target, self._identity, self._connected.set)
                    self._links[target] = (link, tasks.create_task(link.run(), name=f"link {target}"))
                for target in self._links.keys() - found:
                    self._links.pop(target)[1].cancel()
                await asyncio.sleep(_RESOLVE_S)

    async def choose(self, session_id: str, within_s: float) -> Link:
        """Return the live link that rendezvous hashing names, waiting for one to come up if there is none.

        Raises AppError(UNAVAILABLE) if none is connected in time.
        """
        try:
            async with asyncio.timeout(within_s):
                while not (live := [link for link, _ in self._links.values() if link.connected and not link.retiring]):
                    self._connected.clear()
                    await self._connected.wait()
        except TimeoutError:
            raise AppError(Kind.UNAVAILABLE, "The transcription service does not answer.", retry_after_s=1.0) from None
        return max(live, key=lambda link: _weight(link.target, session_id))

    async def _resolve(self) -> set[str]:
        """Return host:port of every replica; a `dns:///name:port` stands for all addresses behind the name."""
        found: set[str] = set()
        for target in self._targets:
            if target.startswith("dns:///"):
                found |= await self._look_up(target.removeprefix("dns:///"))
            else:
                found.add(target)
        return found

    async def _look_up(self, name: str) -> set[str]:
        host, _, port = name.rpartition(":")
        try:
            rows = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError as fault:
            log.warning("transcribers not resolved", fault=_brief(fault))
            return set(self._links)  # a deaf resolver is no reason to drop what works
        return {_join(str(row[4][0]), port) for row in rows}


def _weight(target: str, session_id: str) -> bytes:
    return hashlib.blake2b(f"{target}/{session_id}".encode(), digest_size=8).digest()


def _join(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _brief(fault: BaseException) -> str:
    if isinstance(fault, grpc.aio.AioRpcError):
        return fault.code().name
    return type(fault).__name__
