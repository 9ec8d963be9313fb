"""Redis as the chart starts it: who knows the password may count, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from dev.ports import HOST, Ports
from dev.servers import find_or_install
from tests.chart.rendering import CHART, ROOT, release

pytestmark = [pytest.mark.req("R-RUN-2", "R-SEC-1")]

PATIENT = Retry(ConstantBackoff(0.1), 300)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A real Redis with the arguments that the chart renders."""
    rendered = {owner: template["spec"]["containers"][0] for owner, template in release("default").pods()}
    arguments = [part.replace("$(REDIS_PASSWORD)", "right") for part in rendered["v-verbatim-redis"]["args"]]
    find_or_install(ROOT / ".run" / "bin", lambda _: None, os.environ.get("VERBATIM_NATS_SERVER"))
    ports = Ports.free()
    where = ["--port", str(ports.of("redis")), "--bind", HOST, "--dir", str(tmp_path)]
    with subprocess.Popen(["redis-server", *where, *arguments], stdout=subprocess.DEVNULL) as process:
        yield ports.of("redis")
        process.terminate()
    ports.release()


def test_its_password_opens_what_the_gateway_needs_and_no_more(port: int) -> None:
    with redis.Redis(port=port, password="right", retry=PATIENT, retry_on_error=[redis.ConnectionError]) as known:
        assert known.set("limit:x", "1", ex=1)
        for forbidden in (known.flushall, known.config_get, known.acl_list, lambda: known.get("another")):
            with pytest.raises(redis.ResponseError, match=r"(?i)no permissions"):
                forbidden()
    for password in (None, "wrong"):
        with redis.Redis(port=port, password=password) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


@pytest.mark.helmless
def test_its_rules_let_do_what_the_code_does_and_nothing_besides() -> None:
    rules = (CHART / "files" / "redis-rules.txt").read_text().split()
    sources = "".join(file.read_text() for file in (ROOT / "chassis").glob("*.py"))
    called = set(re.findall(r"redis\.call\('([A-Z]+)'", sources)) | set(re.findall(r'\bask\("([A-Z ]+)"', sources))
    assert {"INCR", "EVALSHA", "SCRIPT LOAD"} <= called
    # The client's own: how it greets and looks whether the line still stands.
    needed = {*(command.lower().replace(" ", "|") for command in called), "hello", "ping", "select"}
    assert {rule[1:] for rule in rules if rule.startswith("+")} == needed
    prefixes = set(re.findall(r'f"(\w+):\{', sources)) & {"limit", "seats", "replicas", "link"} | {"limit"}
    gateway = "".join(file.read_text() for file in (ROOT / "services" / "gateway").glob("*.py"))
    prefixes |= set(re.findall(r'LastKnown\(cache, "(\w+)"\)', gateway))
    assert {f"~{prefix}:*" for prefix in prefixes} == {rule for rule in rules if rule.startswith("~")}
