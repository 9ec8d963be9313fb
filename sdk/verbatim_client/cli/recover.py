"""`verbatim recover`: does what a runbook has done first, by its name or its alert's; says what before it does it."""

from __future__ import annotations

from typing import Annotated

import typer

from verbatim_client.cli.edge import CliError, Exit, run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.printing import note, print_rows
from verbatim_client.cli.procedures import OF_ALERT, PROCEDURES, Procedure, Step
from verbatim_client.cli.settings import CliSettings

COLUMNS = ("procedure", "needs", "what")

Name = Annotated[str | None, typer.Argument(metavar="RUNBOOK", help="A procedure, or the name of an alert.")]
Target = Annotated[str, typer.Option("--target", help="The database, replica or service that it is about.")]
Do = Annotated[bool, typer.Option("--do", help="Do it. Without this the command only says what it would do.")]
Why = Annotated[str, typer.Option("--why", help="For the record.")]


def recover(ctx: typer.Context, name: Name = None, target: Target = "", do: Do = False, why: Why = "") -> None:
    """Say, and with --do do, what a runbook has done first. Without a name: list what there is."""
    if name is None:
        print_rows(COLUMNS, [{"procedure": n, "needs": p.target, "what": p.about} for n, p in PROCEDURES.items()])
        return
    run(_recover(ctx.obj, name, target, do=do, why=why))


async def _recover(settings: CliSettings, name: str, target: str, *, do: bool, why: str) -> None:
    found = PROCEDURES.get(OF_ALERT.get(name, name))
    if found is None:
        raise CliError(f"there is no procedure {name}: `verbatim recover` lists them", Exit.USAGE)
    if found.target and not target:
        raise CliError(f"--target is needed: {found.target}", Exit.USAGE)
    steps = [_aimed(step, target) for step in found.steps]
    if not do:
        for step in steps:
            note(f"would {step.about}: {step.name} = {step.value} for {step.for_s:.0f} s")
        _tell_rest(found)
        note("nothing was done: add --do")
        return
    async with logged_in(settings) as client:
        for step in steps:
            body = {"name": step.name, "value": step.value, "why": why or f"recover {name}", "for_s": step.for_s}
            await client.call("PUT", "/api/admin/controls", json=body)
            note(f"done: {step.about}: {step.name} = {step.value} for {step.for_s:.0f} s")
    _tell_rest(found)


def _aimed(step: Step, target: str) -> Step:
    aim = target.lower()
    return Step(step.about.format(target=aim), step.name.format(target=aim), step.value, step.for_s)


def _tell_rest(found: Procedure) -> None:
    note(f"verify: {found.verify}")
    note(f"runbook: docs/runbooks/{found.runbook}.md")
