"""Servers for every test that needs one: real processes on free ports."""

from chassis.tests.servers import database_url, nats_server, postgres_server

__all__ = ["database_url", "nats_server", "postgres_server"]
