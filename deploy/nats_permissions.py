"""What each service may do at the broker, as NATS reads it.

`python -m deploy.nats_permissions` writes the file that the chart and the local platform give to the broker.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "helm" / "verbatim" / "files" / "nats-permissions.conf"
UPLOADS = "OBJ_UPLOADS"
CONTROLS = "KV_controls"
BACKUPS = "KV_backups"


@dataclass(frozen=True)
class May:
    """The streams that a service declares and reads, what it publishes and hears, where it may remove messages."""

    streams: tuple[str, ...]
    publishes: tuple[str, ...]
    hears: tuple[str, ...] = ()
    purges: tuple[str, ...] = ()
    removes_from: tuple[str, ...] = ()


USERS = {
    # Whoever retries a dead letter sends its job or event on its way again.
    "gateway": May(
        streams=(CONTROLS, UPLOADS, "TICKETS", "DLQ", "JOBS", "EVENTS"),
        publishes=("$KV.controls.>", "$O.UPLOADS.>", "tickets.*", "jobs.>", "events.>"),
        hears=("$KV.controls.>", "captions.*", "events.account.revoked"),
        purges=(UPLOADS,),
        removes_from=("DLQ",),
    ),
    # The only one that writes what was said.
    "transcriber": May(
        streams=(CONTROLS, UPLOADS, "AUDIO", "TRANSCRIPT", "JOBS", "DLQ"),
        publishes=("audio.*", "transcript.*", "captions.*", "jobs.heal.*", "sessions.adopted"),
        hears=("$KV.controls.>", "stored.*", "sessions.adopted"),
        # A file that has become a session is taken away.
        purges=(UPLOADS,),
    ),
    "meetings": May(
        streams=(CONTROLS, UPLOADS, "TRANSCRIPT", "EVENTS", "JOBS", "DLQ"),
        publishes=("events.>", "jobs.>", "dlq.>", "stored.*", "captions.*"),
        hears=("$KV.controls.>",),
        purges=(UPLOADS,),
        # Letters of accounts that are deleted.
        removes_from=("DLQ",),
    ),
    "insights": May(
        streams=(CONTROLS, "EVENTS", "JOBS", "DLQ"),
        publishes=("events.insights.>", "jobs.>", "dlq.>"),
        hears=("$KV.controls.>",),
        removes_from=("EVENTS",),
    ),
    # The only one that takes logs away; tells the gateways when a disk is full.
    "janitor": May(
        streams=(CONTROLS, BACKUPS, UPLOADS, "AUDIO", "TRANSCRIPT", "EVENTS", "JOBS", "DLQ"),
        publishes=("$KV.controls.uploads", "dlq.event.janitor"),
        hears=("$KV.controls.>",),
        purges=("AUDIO", "TRANSCRIPT", UPLOADS),
        removes_from=("DLQ", "EVENTS"),
    ),
    # No service: whoever saves and restores whole streams (`python -m recovery`).
    "backup": May(streams=(), publishes=("$JS.API.>", "$JS.SNAPSHOT.>", "$KV.backups.>")),
}


def _of_stream(name: str) -> list[str]:
    return [
        *(f"$JS.API.STREAM.{verb}.{name}" for verb in ("INFO", "CREATE", "UPDATE", "MSG.GET")),
        f"$JS.API.DIRECT.GET.{name}",
        f"$JS.API.DIRECT.GET.{name}.>",
        f"$JS.API.CONSUMER.*.{name}",
        f"$JS.API.CONSUMER.*.{name}.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{name}.>",
        f"$JS.API.CONSUMER.MSG.NEXT.{name}.>",
        f"$JS.ACK.{name}.>",
    ]


def published(may: May) -> list[str]:
    """Return the subjects that a service may publish to, the broker's own interface among them."""
    return [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        *(subject for stream in may.streams for subject in _of_stream(stream)),
        *(f"$JS.API.STREAM.PURGE.{stream}" for stream in may.purges),
        *(f"$JS.API.STREAM.MSG.DELETE.{stream}" for stream in may.removes_from),
        *may.publishes,
    ]


def heard(service: str, may: May) -> list[str]:
    """Return the subjects that a service may subscribe to. Answers come to an inbox that only it may open."""
    return [f"_INBOX_{service}.>", *may.hears]


def render() -> str:
    """Return the file."""
    lines = ["# Made by `python -m deploy.nats_permissions`: what each service may do at the broker."]
    for service, may in USERS.items():
        lines.append(f"{service.upper()} {{")
        for name, subjects in (("publish", published(may)), ("subscribe", heard(service, may))):
            lines += [f"  {name}: [", *(f'    "{subject}"' for subject in subjects), "  ]"]
        lines.append("}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(render())
