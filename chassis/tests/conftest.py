"""Fixtures of the chassis' tests."""

from chassis.tests.servers import database_url, nats_server, postgres_server

__all__ = ["database_url", "nats_server", "postgres_server"]
