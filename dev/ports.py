"""Which port belongs to what: a fixed plan for `make run`, a free block for each stack of the tests."""

from __future__ import annotations

import os
import random
import socket

import psutil

HOST = "127.0.0.1"
BLOCK = 50
# Below the range from which Linux takes the ports of outgoing connections: one of those could otherwise sit
# on the port of a server that is being restarted.
FREE_BLOCKS = range(20_000, 32_000, BLOCK)
INTERNAL_DISTANCE = 10_000
HIGHEST_PORT = 65_535


class PortBusyError(Exception):
    """Somebody else listens on a port of the plan. The message names who, and what to do."""


class Ports:
    """Names get ports in the order in which they ask; the same plan and order give the same ports."""

    def __init__(self, public: int, internal_base: int, claim: socket.socket | None = None) -> None:
        self.public = public
        self._base = internal_base
        self._claim = claim
        self._taken: dict[str, int] = {"gateway": public}

    @classmethod
    def fixed(cls, public: int) -> Ports:
        """Plan around one public port: all others move along, so PORT alone keeps two stacks apart."""
        far = public + INTERNAL_DISTANCE
        return cls(public, far if far + BLOCK <= HIGHEST_PORT else public - INTERNAL_DISTANCE)

    @classmethod
    def free(cls) -> Ports:
        """Claim a block of free ports that no other stack gets until `release`. Raises PortBusyError."""
        for base in random.sample(FREE_BLOCKS, len(FREE_BLOCKS)):
            claim = socket.socket()
            try:
                claim.bind((HOST, base))  # held but never listened on: it marks the block as taken
            except OSError:
                claim.close()
                continue
            if all(_is_free(port) for port in range(base + 1, base + BLOCK)):
                return cls(base + 1, base + 2, claim)
            claim.close()
        raise PortBusyError(f"no {BLOCK} free ports in a row from {FREE_BLOCKS.start} to {FREE_BLOCKS.stop}")

    def of(self, name: str) -> int:
        """Give the port of a name; a new name gets the next one."""
        if name not in self._taken:
            self._taken[name] = self._base + len(self._taken) - 1
            assert len(self._taken) < BLOCK - 1, "a stack has fewer ports than a block"
        return self._taken[name]

    def busy(self) -> dict[str, int]:
        """Give those of the ports given out that cannot be listened on."""
        return {name: port for name, port in self._taken.items() if not _is_free(port)}

    def check(self) -> None:
        """Raise PortBusyError, naming the owner, unless every port that was given out can be listened on."""
        for name, port in self.busy().items():
            raise PortBusyError(
                f"port {port} ({name}) is in use by {_owner(port)}; stop it, or use other ports: "
                f"PORT={self.public + 100} make run"
            )

    def release(self) -> None:
        """Let other stacks have the block."""
        if self._claim is not None:
            self._claim.close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # What is still closing is no obstacle to a server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _owner(port: int) -> str:
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.pid not in (None, os.getpid()):
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.NoSuchProcess:
                break
    return "another process"
