"""`verbatim jobs …` and `verbatim dlq …`: work in the background, and what became of it."""

from __future__ import annotations

from typing import Annotated

import typer

from verbatim_client.cli.edge import run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines, Limit
from verbatim_client.cli.printing import Json, first, print_facts, print_items, print_json, told
from verbatim_client.cli.settings import CliSettings

JOB_FACTS = ("id", "kind", "status", "progress", "attempts", "max_attempts", "error", "created_at", "updated_at")
LETTER_COLUMNS = ("id", "at", "kind", "retryable", "error")
LETTER_FACTS = ("id", "kind", "at", "error", "retryable", "subject", "payload")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]
LetterId = Annotated[str, typer.Argument(metavar="LETTER", help="Id of the letter.")]
Kind = Annotated[str | None, typer.Option(help="Of this kind only.")]


def show_job(ctx: typer.Context, job: JobId, json_lines: JsonLines = False) -> None:
    """Show how far a job is."""
    run(_show_job(ctx.obj, job, json_lines=json_lines))


async def _show_job(settings: CliSettings, job_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        _print_job(await client.job(job_id), json_lines=json_lines)


def cancel_job(ctx: typer.Context, job: JobId, json_lines: JsonLines = False) -> None:
    """End a job that is not over; what it has not finished has no effect."""
    run(_cancel_job(ctx.obj, job, json_lines=json_lines))


async def _cancel_job(settings: CliSettings, job_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        _print_job(await client.cancel_job(job_id), json_lines=json_lines)


def _print_job(job: Json, *, json_lines: bool) -> None:
    if json_lines:
        print_json(job)
    else:
        print_facts(JOB_FACTS, job)


def list_letters(ctx: typer.Context, kind: Kind = None, limit: Limit = 50, json_lines: JsonLines = False) -> None:
    """List what was given up, the oldest first."""
    run(_list_letters(ctx.obj, kind, limit, json_lines=json_lines))


async def _list_letters(settings: CliSettings, kind: str | None, limit: int, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        print_items(LETTER_COLUMNS, await first(limit, client.dead_letters(kind)), json_lines=json_lines)


def show_letter(ctx: typer.Context, letter: LetterId, json_lines: JsonLines = False) -> None:
    """Show one letter: what was given up, why, and what came of each attempt."""
    run(_show_letter(ctx.obj, letter, json_lines=json_lines))


async def _show_letter(settings: CliSettings, letter_id: str, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        letter = await client.dead_letter(letter_id)
    if json_lines:
        print_json(letter)
        return
    print_facts(LETTER_FACTS, letter)
    print_facts(tuple(letter["about"]), letter["about"])
    for entry in letter["history"]:
        print()
        print_facts(("attempt", "at", "kind", "error"), entry)


def retry_letters(
    ctx: typer.Context,
    letter: Annotated[str | None, typer.Argument(metavar="[LETTER]", help="Id of the letter.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are there now.")] = False,
    kind: Kind = None,
    json_lines: JsonLines = False,
) -> None:
    """Send one letter on its way again, or with --all (and --kind) many."""
    if (letter is None) is not everything or (kind and not everything):
        raise typer.BadParameter("name a letter, or say --all (with --kind, if only some are meant)")
    run(_retry(ctx.obj, letter, kind, json_lines=json_lines))


async def _retry(settings: CliSettings, letter_id: str | None, kind: str | None, *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        if letter_id is not None:
            told("on its way again", await client.retry_dead_letter(letter_id), json_lines=json_lines)
            return
        done = await client.retry_dead_letters(kind)
    kept = f", {done['kept']} can only be discarded" if done["kept"] else ""
    told(f"{done['retried']} on their way again{kept}", done, json_lines=json_lines)


def discard_letters(
    ctx: typer.Context,
    letters: Annotated[list[str], typer.Argument(metavar="LETTER...", help="Ids of letters.")],
    json_lines: JsonLines = False,
) -> None:
    """Forget letters for good."""
    run(_discard(ctx.obj, letters, json_lines=json_lines))


async def _discard(settings: CliSettings, letter_ids: list[str], *, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        for letter_id in letter_ids:
            await client.discard_dead_letter(letter_id)
            if json_lines:
                print_json({"id": letter_id, "discarded": True})
