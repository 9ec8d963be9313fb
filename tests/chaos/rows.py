"""The rows of the table, numbered as the fault matrix is; what a row does is in the file named after its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.chaos import controls
from tests.chaos.bad_clients import bad_frames, hostile_frames
from tests.chaos.broker_faults import (
    answers_lost,
    broker_and_transcriber_killed,
    broker_disk_full,
    broker_killed,
    streams_deleted,
)
from tests.chaos.clocks import may_skew, skewed
from tests.chaos.controls import Control
from tests.chaos.disk import may_mount
from tests.chaos.edge_faults import AS_SHIPPED, LIMITS, bursts, login_storm, passwords_guessed
from tests.chaos.fuzz import FuzzedWorkload
from tests.chaos.nemesis import nemesis
from tests.chaos.network_faults import (
    bad_network,
    client_flaps,
    client_resets,
    database_unreachable,
    half_open_clients,
    partitions,
)
from tests.chaos.process_faults import (
    cache_flaps,
    cache_killed,
    database_crashes,
    deposed_owner_returns,
    ended_while_recognising,
    frozen,
    frozen_in_turn,
    keepers_killed,
    killed,
    rolling_restart,
    speech_for,
)
from tests.chaos.scene import REST_HZ, Script
from tests.chaos.slow_clients import AS_SHIPPED as PATIENCE_AS_SHIPPED
from tests.chaos.slow_clients import slow_clients
from tests.chaos.soak import SESSIONS as SOAKED
from tests.chaos.soak import soak
from tests.chaos.speech_faults import (
    QUICK_BREAKER,
    healers_killed,
    speech_hangs,
    speech_outage,
    speech_rationed,
)
from tests.chaos.workload import Workload


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Besides the invariants of all rows: `pause_s_max` is the longest that a session may go without an acknowledgement,
    `pause_s_p95` the longest that all but a twentieth of those that a fault has interrupted may,
    `rest_perfect` says that no call may fail, `unnoticed` that no client may see anything at all, `heals` that no draft
    may be left. `control` is the defence whose absence must be noticed; its script is `control_script` where that can
    be shorter. `load` is what burdens processes as the row does and lets them live, where its script does not: with it
    is seen whether memory that a row has left grows again. `own_platform` rows share theirs with nobody, so that it may
    have settings (`env`, by service) and a `broker_disk`; `limit_s` bounds a play; `impossible` says why a row cannot
    be played here.
    """

    key: str
    fault: str
    script: Script
    control: Control | None = None
    workload: type[Workload] = Workload
    sessions: int = 10
    speed: float = 6.0
    session_s: float | None = None
    rest_hz: float = REST_HZ
    pause_s_max: float | None = None
    pause_s_p95: float | None = None
    rest_perfect: bool = False
    unnoticed: bool = False
    heals: bool = False
    own_platform: bool = False
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    broker_disk: bool = False
    control_script: Script | None = None
    load: Script | None = None
    limit_s: float = 300.0
    impossible: Callable[[], str] = str


NEMESIS_S = 600.0


def nemesis_row(seconds: float) -> Row:
    """Return row 45 of a length."""
    return Row(
        "45", f"seeded nemesis, {seconds / 60:g} min", nemesis(seconds), controls.PUBACK,
        session_s=60.0, control_script=nemesis(min(seconds, 60.0)), limit_s=seconds + 300.0,
    )  # fmt: skip


_TRANSCRIBERS = (("transcriber",), ("transcriber-2",))
_GATEWAYS = (("gateway",), ("gateway-2",))
_BOTH = (("gateway", "transcriber"), ("gateway-2", "transcriber-2"))

# Faults outlast the patience of a transaction: then it is the consumer that has to repeat its batch.
IMPATIENT = {"meetings": {"DB_CONNECTION_TIMEOUT_S": "1"}}

ROWS = (
    Row(
        "1", "meetings cut off from Postgres: refused 4 s, silent 5 s", database_unreachable, controls.BATCH,
        own_platform=True, env=IMPATIENT,
    ),
    Row(
        "4", "speech API says 429 with Retry-After 2 for 12 s", speech_rationed, controls.HEALING,
        sessions=4, speed=2.0, heals=True, own_platform=True, env=QUICK_BREAKER,
    ),
    Row(
        "5", "speech API takes requests and never answers, for 20 s", speech_hangs, controls.HEALING,
        sessions=4, speed=2.0, heals=True, own_platform=True, env=QUICK_BREAKER,
    ),
    Row(
        "6", "speech API fails for 15 s while people talk", speech_outage, controls.HEALING,
        sessions=4, speed=2.0, heals=True, own_platform=True, env=QUICK_BREAKER,
    ),
    Row(
        "6k", "transcribers SIGKILL while drafts heal, of live and of closed sessions", healers_killed,
        sessions=3, speed=1.5, heals=True, own_platform=True, env=QUICK_BREAKER,
    ),
    Row("8", "clients' connections reset, 12 times half of them", client_resets, controls.BUFFER, pause_s_p95=1.0),
    Row("8b", "clients' network gone for 0.7 s, 6 times", client_flaps, controls.BUFFER),
    Row("9", "frames repeated, overlapping, reordered, with holes", bad_frames, controls.TRIM, FuzzedWorkload),
    Row(
        "14", "ten times what is allowed from one address over two gateways, Redis there, going, away", bursts,
        controls.SHARING, own_platform=True, env=LIMITS, rest_hz=2.0, pause_s_max=5.0,
    ),
    Row(
        "15", "1,000 guesses at a password from one address, and from 1,000 networks", passwords_guessed,
        controls.TRIES, own_platform=True, env=AS_SHIPPED, rest_hz=2.0, pause_s_max=5.0,
    ),
    Row(
        "15b", "1,000 people of as many networks log in at once", login_storm, controls.HASHING, own_platform=True,
        rest_hz=2.0,
    ),
    Row(
        "17", f"none: {SOAKED:,} sessions come and go", soak(SOAKED), controls.RELEASE, load=speech_for(45.0),
        sessions=32, session_s=0.5, rest_hz=2.0, own_platform=True, limit_s=3600.0, control_script=soak(4_000),
    ),
    Row(
        "18", "broker's disk full, a transcriber SIGKILL meanwhile", broker_disk_full, controls.PUBACK,
        own_platform=True, broker_disk=True, impossible=may_mount,
    ),
    Row(
        "19", "Redis killed twice, away 3 s", cache_killed, controls.FALLBACK, unnoticed=True, rest_perfect=True,
    ),
    Row(
        "19b", "Redis frozen 4 s, then coming and going, 4 times", cache_flaps, controls.FALLBACK,
        unnoticed=True, rest_perfect=True,
    ),
    Row(
        "21", "partitions: gateway–transcriber, transcriber–NATS; one way and both", partitions, controls.REHOMING,
        pause_s_max=15.0,
    ),
    Row(
        "24a", "transcriber SIGKILL mid-sentence", killed(*_TRANSCRIBERS, *_TRANSCRIBERS), controls.PUBACK,
        pause_s_p95=5.0,
    ),
    Row("24b", "gateway SIGKILL mid-sentence", killed(*_GATEWAYS, *_GATEWAYS), controls.BUFFER, pause_s_p95=5.0),
    Row("24c", "gateway and transcriber SIGKILL at once", killed(*_BOTH, *_BOTH), controls.PUBACK, pause_s_p95=5.0),
    Row("24d", "all transcribers SIGKILL at once", killed(("transcriber", "transcriber-2")), controls.PUBACK),
    Row(
        "24e", "meetings, insights, janitor SIGKILL in turn; then the minutes of all", keepers_killed, unnoticed=True,
    ),
    Row("25a", "transcriber frozen 20 s", frozen("transcriber", 20.0), controls.REHOMING, pause_s_max=15.0),
    Row("25b", "NATS frozen 6 s", frozen("nats", 6.0), controls.APPEND),
    Row("25c", "frozen transcriber returns after its sessions moved", deposed_owner_returns, controls.FENCE),
    Row("25d", "gateway frozen 20 s", frozen("gateway", 20.0), controls.BUFFER, pause_s_max=15.0),
    Row(
        "25e", "meetings, Postgres, Redis, insights, janitor frozen 6 s each",
        frozen_in_turn("meetings", "postgres", "redis", "insights", "janitor", seconds=6.0), unnoticed=True,
    ),
    Row(
        "26", "rolling restart: gateways, transcribers, meetings (SIGTERM)", rolling_restart, controls.DRAIN,
        rest_hz=50.0, rest_perfect=True, pause_s_p95=2.0,
    ),
    Row(
        "27", "SIGTERM while the speech API has the transcriber's calls", ended_while_recognising, controls.CHECKPOINT,
        load=speech_for(45.0), sessions=24, speed=4.0,
    ),
    Row("28", "NATS SIGKILL, away 0 to 8 s", broker_killed, controls.APPEND),
    Row("28b", "NATS, then a transcriber SIGKILL", broker_and_transcriber_killed, controls.PUBACK),
    Row(
        "28c", "meetings cannot hear the broker's acknowledgements, 13 s twice", answers_lost, controls.MESSAGE_ID,
        session_s=2.5, own_platform=True,
    ),
    Row(
        "29", "consumer, audio log, transcript log, events deleted by hand", streams_deleted, controls.SNAPSHOT,
        own_platform=True,
    ),
    Row("30", "Postgres crash, 4 times", database_crashes, controls.BATCH, own_platform=True, env=IMPATIENT),
    Row(
        "32", "clocks 50 s apart: a gateway's ahead, a transcriber's behind; transcribers SIGKILL in turn",
        killed(*_TRANSCRIBERS, *_TRANSCRIBERS), controls.CLOCKS, own_platform=True, pause_s_p95=5.0,
        env={"gateway-2": skewed(25), "transcriber-2": skewed(-25)}, impossible=may_skew,
    ),
    Row(
        "33", "1,000 connections slow in the head, in the body, in reading", slow_clients, controls.PATIENCE,
        own_platform=True, env=PATIENCE_AS_SHIPPED, rest_hz=2.0,
    ),
    Row(
        "34", "oversize, fragmented, compressed frames, floods of pings", hostile_frames, controls.BOUNDS,
        own_platform=True, env={"transcriber": {"SESSION_IDLE_S": "5"}},  # so that what attackers leave behind ends
    ),
    Row("35", "half-open clients, one way and the other", half_open_clients, controls.HEARTBEAT, pause_s_max=15.0),
    Row("44", "slow, narrow, sliced, cut-off network", bad_network, controls.BUFFER),
    nemesis_row(NEMESIS_S),
)  # fmt: skip
