"""The commands and what they have in common."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]

from verbatim_client.cli import (
    accounts,
    admin,
    background,
    completion,
    controls,
    doctor,
    editing,
    figures,
    following,
    keys,
    library,
    recover,
    recovery,
    slo,
    streaming,
    uploads,
    webhooks,
)
from verbatim_client.cli.settings import CliSettings

HELP = """Live meetings into transcripts, minutes and tasks.

Data goes to stdout, everything else to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 3 not logged in, 4 not found,
5 platform unavailable, 130 interrupted. VERBATIM_URL names the platform, VERBATIM_TOKEN a token to use in place of a
login, NO_COLOR switches colours off.
"""


def main() -> None:
    """Run the command line."""
    # Typer does this only for programs that have its own options for completion.
    completion_init()
    application()(prog_name="verbatim")


def application() -> typer.Typer:
    """Put the commands together."""
    app = typer.Typer(
        help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    app.callback()(_root)
    app.command("login")(accounts.login)
    app.command("logout")(accounts.logout)
    app.command("whoami")(accounts.whoami)
    app.command("password")(accounts.password)
    app.command("stream")(streaming.stream)
    app.command("watch")(following.watch)
    app.command("upload")(uploads.upload)
    app.command("list")(library.list_meetings)
    app.command("search")(library.search)
    app.command("show")(library.show)
    app.command("share")(library.share)
    app.command("edit")(editing.edit)
    app.command("rename-speaker")(editing.rename_speaker)
    app.command("export")(library.export)
    app.command("tasks")(library.tasks)
    app.command("insights")(library.insights)
    app.command("analytics")(figures.analytics)
    jobs = _group(app, "jobs", "Work that goes on in the background.")
    jobs.command("show")(background.show_job)
    jobs.command("cancel")(background.cancel_job)
    letters = _group(app, "dlq", "What was given up; for those who look after the platform.")
    letters.command("list")(background.list_letters)
    letters.command("show")(background.show_letter)
    letters.command("retry")(background.retry_letters)
    letters.command("discard")(background.discard_letters)
    app.command("completion")(completion.completion)
    app.command("doctor")(doctor.doctor)
    app.command("backup")(recovery.backup)
    app.command("verify")(recovery.verify)
    app.command("restore")(recovery.restore)
    app.command("recover")(recover.recover)
    app.command("slo")(slo.slo)
    key_commands = _group(app, "keys", "API keys, for programs.")
    key_commands.command("create")(keys.create)
    key_commands.command("list")(keys.list_keys)
    key_commands.command("delete")(keys.delete)
    hooks = _group(app, "webhooks", "Whom to tell when a meeting or its minutes are ready.")
    hooks.command("list")(webhooks.list_webhooks)
    for hook_command in (
        webhooks.create, webhooks.show, webhooks.enable, webhooks.disable, webhooks.rotate, webhooks.delete,
        webhooks.test, webhooks.deliveries, webhooks.redeliver,
    ):  # fmt: skip
        hooks.command(hook_command.__name__)(hook_command)
    app.command("usage")(accounts.usage)
    admins = _group(app, "admin", "Looking after accounts and switches, for admins.")
    for admin_command in (admin.accounts, admin.disable, admin.enable, admin.promote, admin.demote):
        admins.command(admin_command.__name__)(admin_command)
    switches = _group(admins, "controls", "Switches of the running platform.")
    switches.command("list")(controls.list_controls)
    switches.command("set")(controls.set_control)
    switches.command("unset")(controls.unset_control)
    return app


def _group(app: typer.Typer, name: str, about: str) -> typer.Typer:
    group = typer.Typer(help=about, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(_version())
        raise typer.Exit


def _root(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="Address of the platform.")] = None,
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    ctx.obj = CliSettings.of(os.environ, url)


def _version() -> str:
    try:
        return version("verbatim-client")
    except PackageNotFoundError:  # run from a checkout
        return "unreleased"
