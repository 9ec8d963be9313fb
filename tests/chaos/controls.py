"""Defences that can be left out, so that each row is seen to fail without the one that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos.clocks import skewed
from tests.chaos.workload import ForgetfulWorkload, Workload

_HERE = "tests.chaos.without"


@dataclass(frozen=True)
class Control:
    """A platform, or clients, without one defence. `lacks` says which, in the table's words.

    `modules` run in the place of services (`tests/chaos/without`), `env` changes settings, `workload` the clients.
    """

    lacks: str
    modules: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    workload: type[Workload] | None = None


WHOLE = Control("nothing")

PUBACK = Control("waiting for the broker before an ack", {"transcriber": f"{_HERE}.puback"})
FENCE = Control("fencing", {"transcriber": f"{_HERE}.fence"})
TRIM = Control("trimming of what is held", {"transcriber": f"{_HERE}.trim"})
CHECKPOINT = Control("the exact checkpoint at adoption", {"transcriber": f"{_HERE}.checkpoint"})
APPEND = Control("repeating appends that failed", {"transcriber": f"{_HERE}.append"})
SNAPSHOT = Control("writing a session again whose log was deleted", {"transcriber": f"{_HERE}.snapshot"})
RELEASE = Control("letting go of sessions that are over", {"transcriber": f"{_HERE}.release"})
HEALING = Control("healing", {"transcriber": f"{_HERE}.healing"})
BATCH = Control("taking up again what was not stored", {"meetings": f"{_HERE}.batch"})
REHOMING = Control("moving sessions to another transcriber", {"gateway": f"{_HERE}.rehoming"})
MESSAGE_ID = Control("an id by which the broker drops repeats", {"meetings": f"{_HERE}.message_id"})
FALLBACK = Control("counting in memory", {"gateway": f"{_HERE}.fallback"})
BOUNDS = Control("bounds on frames that carry no audio", {"gateway": f"{_HERE}.bounds"})
# Not a defence left out: that clocks are really set, and that beyond what is borne it is noticed.
CLOCKS = Control(
    "clocks within a minute (ten minutes apart)",
    env={"gateway-2": skewed(300), "transcriber-2": skewed(-300)},
)
SHARING = Control("a count that all replicas share", env={"gateway": {"REDIS_URL": ""}})
TRIES = Control("a limit of tries", env={"meetings": {"LOGIN_TRIES": "1000", "LOGIN_TRIES_OF_ACCOUNT": "1000"}})
HASHING = Control(
    "bounds on hashing at once", env={"meetings": {"PASSWORD_WORKERS": "8", "PASSWORD_QUEUE_MAX": "1000"}}
)
PATIENCE = Control(
    "an end of patience",
    env={"gateway": {"HEAD_TIMEOUT_S": "300", "BODY_BYTES_PER_S_MIN": "1", "UNREAD_TIMEOUT_S": "600"}},
)
HEARTBEAT = Control("heartbeats", env={"gateway": {"HEARTBEAT_S": "60"}})
DRAIN = Control("drain", env={"gateway": {"NOTICE_S": "0"}}, modules={"meetings": f"{_HERE}.notice"})
BUFFER = Control("the client's buffer", workload=ForgetfulWorkload)
