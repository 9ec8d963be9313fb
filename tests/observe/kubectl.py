"""The part of kubectl that our pages use: its grammar, and a stand-in where there is no cluster.

`python -m tests.observe.kubectl ARGUMENTS` asks whoever listens at the Unix socket VERBATIM_CLUSTER (`cluster.py`),
which does to local processes what the cluster would do to pods.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
from dataclasses import dataclass
from typing import NoReturn

ANSWER_WITHIN_S = 180.0
_SPAN = re.compile(r"[1-9][0-9]*(s|m|h)")
_KINDS = {
    "deploy": "deployment", "deployments": "deployment", "statefulsets": "statefulset", "pods": "pod", "po": "pod",
    "jobs": "job", "cronjobs": "cronjob", "pvc": "persistentvolumeclaim", "certificates": "certificate",
    "secrets": "secret",
}  # fmt: skip


class NotUnderstood(ValueError):
    """A command that kubectl would not take."""


@dataclass(frozen=True)
class Call:
    """A command taken apart. `objects` are (kind, name); with a kind alone, all of it that `selector` chooses."""

    verb: str
    objects: tuple[tuple[str, str], ...]
    selector: str = ""
    replicas: int | None = None
    tail: int | None = None
    command: tuple[str, ...] = ()
    source: str = ""

    @property
    def component(self) -> str:
        """The component that the selector names."""
        return self.selector.removeprefix("app.kubernetes.io/component=") if self.selector else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise NotUnderstood(message)


def parse(arguments: list[str]) -> Call:
    """Take a command apart. Raises NotUnderstood for what kubectl has not, or what we do not use of it."""
    found = _parser().parse_args(arguments)
    words = [found.kind, found.name] if found.verb == "create" else list(found.words)
    if getattr(found, "since", None) and not _SPAN.fullmatch(found.since):
        raise NotUnderstood(f"--since {found.since}")
    if getattr(found, "patch", None):
        json.loads(found.patch)
    return Call(
        verb=found.verb if found.verb != "rollout" else f"rollout {found.action}",
        objects=_objects(found.verb, words),
        selector=getattr(found, "selector", None) or "",
        replicas=getattr(found, "replicas", None),
        tail=getattr(found, "tail", None),
        command=tuple(getattr(found, "command", ())),
        source=getattr(found, "from_", None) or "",
    )


def _objects(verb: str, words: list[str]) -> tuple[tuple[str, str], ...]:
    """Read `kind/name …`, `kind name …`, `kind,kind`, or, for what speaks of pods, `name`."""
    if not words:
        return ()
    if verb in {"logs", "exec", "port-forward"}:
        kind, _, name = words[0].rpartition("/")
        return ((_kind(kind) if kind else "pod", name),)
    if "/" in words[0]:
        pairs = [word.partition("/") for word in words]
        return tuple((_kind(kind), name) for kind, _, name in pairs)
    kinds = [_kind(kind) for kind in words[0].split(",")]
    return tuple((kind, name) for kind in kinds for name in (words[1:] or [""]))


def _kind(word: str) -> str:
    kind = _KINDS.get(word, word)
    if kind not in _KINDS.values():
        raise NotUnderstood(f"no such kind: {word}")
    return kind


def _parser() -> argparse.ArgumentParser:
    top = _Parser(prog="kubectl", add_help=False, allow_abbrev=False)
    verbs = top.add_subparsers(dest="verb", required=True, parser_class=_Parser)

    def verb(name: str, words: str | int | None = "*") -> argparse.ArgumentParser:
        made = verbs.add_parser(name, add_help=False, allow_abbrev=False)
        if words:
            made.add_argument("words", nargs=words)
        return made

    def chosen(*parsers: argparse.ArgumentParser) -> None:
        for one in parsers:
            one.add_argument("--selector", "-l")
            one.add_argument("--all-namespaces", "-A", action="store_true")

    get, describe, top_ = verb("get", "+"), verb("describe", "+"), verb("top", "+")
    get.add_argument("--output", "-o", choices=["wide", "yaml", "json", "name"])
    logs = verb("logs")
    for name in ("--previous", "--prefix", "--timestamps"):
        logs.add_argument(name, action="store_true")
    logs.add_argument("--since")
    logs.add_argument("--tail", type=int)
    delete = verb("delete", "+")
    chosen(get, describe, top_, logs, delete)
    rollout = verb("rollout", None)
    rollout.add_argument("action", choices=["restart", "status", "undo"])
    rollout.add_argument("words", nargs="+")
    scale = verb("scale", "+")
    scale.add_argument("--replicas", type=int, required=True)
    scale.add_argument("--all", action="store_true")
    execute = verb("exec", 1)
    execute.add_argument("command", nargs="+")
    create = verb("create", None)
    create.add_argument("kind")
    create.add_argument("name")
    create.add_argument("--from", dest="from_", required=True)
    patch = verb("patch", 2)
    patch.add_argument("--patch", "-p", required=True)
    forward = verb("port-forward", 1)
    forward.add_argument("ports", nargs="+")
    return top


def main() -> None:
    """Hand the command over, print what comes back, exit as told."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_WITHIN_S)
        connection.connect(os.environ["VERBATIM_CLUSTER"])
        connection.sendall(json.dumps(sys.argv[1:]).encode() + b"\n")
        with connection.makefile() as told:
            answer = json.loads(told.readline())
    (sys.stdout if answer["code"] == 0 else sys.stderr).write(answer["said"] + "\n")
    raise SystemExit(answer["code"])


if __name__ == "__main__":
    main()
