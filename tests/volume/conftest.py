"""Servers that a volume run may break."""

from chassis.tests.servers import nats_server, own_postgres

__all__ = ["nats_server", "own_postgres"]
