"""`verbatim recover`: does what a runbook has done first, by its name or its alert's; says what before it does it."""

from __future__ import annotations

from typing import Annotated

import typer

from verbatim_client.cli.edge import CliError, Exit, run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines
from verbatim_client.cli.printing import note, print_items, told
from verbatim_client.cli.procedures import OF_ALERT, PROCEDURES, Procedure, Step
from verbatim_client.cli.settings import CliSettings

COLUMNS = ("procedure", "needs", "what")

Name = Annotated[str | None, typer.Argument(metavar="RUNBOOK", help="A procedure, or the name of an alert.")]
Target = Annotated[str, typer.Option("--target", help="The database, replica or service that it is about.")]
Do = Annotated[bool, typer.Option("--do", help="Do it. Without this the command only says what it would do.")]
Why = Annotated[str, typer.Option("--why", help="For the record.")]


def recover(
    ctx: typer.Context,
    name: Name = None,
    target: Target = "",
    do: Do = False,
    why: Why = "",
    json_lines: JsonLines = False,
) -> None:
    """Say, and with --do do, what a runbook has done first. Without a name: list what there is."""
    if name is None:
        known = [{"procedure": n, "needs": p.target, "what": p.about} for n, p in PROCEDURES.items()]
        print_items(COLUMNS, known, json_lines=json_lines)
        return
    run(_recover(ctx.obj, name, target, do=do, why=why, json_lines=json_lines))


async def _recover(settings: CliSettings, name: str, target: str, *, do: bool, why: str, json_lines: bool) -> None:
    found = PROCEDURES.get(OF_ALERT.get(name, name))
    if found is None:
        raise CliError(f"there is no procedure {name}: `verbatim recover` lists them", Exit.USAGE)
    if found.target and not target:
        raise CliError(f"--target is needed: {found.target}", Exit.USAGE)
    steps = [_aimed(step, target) for step in found.steps]
    if not do:
        for step in steps:
            _tell("would", step, json_lines=json_lines)
        _tell_rest(found)
        note("nothing was done: add --do")
        return
    async with logged_in(settings) as client:
        for step in steps:
            body = {"name": step.name, "value": step.value, "why": why or f"recover {name}", "for_s": step.for_s}
            await client.call("PUT", "/api/admin/controls", json=body)
            _tell("done:", step, json_lines=json_lines)
    _tell_rest(found)


def _tell(how: str, step: Step, *, json_lines: bool) -> None:
    done = {"done": how == "done:", "about": step.about, "name": step.name, "value": step.value, "for_s": step.for_s}
    told(f"{how} {step.about}: {step.name} = {step.value} for {step.for_s:.0f} s", done, json_lines=json_lines)


def _aimed(step: Step, target: str) -> Step:
    aim = target.lower()
    return Step(step.about.format(target=aim), step.name.format(target=aim), step.value, step.for_s)


def _tell_rest(found: Procedure) -> None:
    note(f"verify: {found.verify}")
    note(f"runbook: docs/runbooks/{found.runbook}.md")
