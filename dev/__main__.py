"""`python -m dev run|demo|seed|setup|clean`: what `make` calls."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

from dev.demo import demo
from dev.people import NotOpenedError
from dev.ports import PortBusyError
from dev.run import run
from dev.runner import NotReadyError, ProcessDiedError
from dev.seed import seed
from dev.servers import ServersMissingError
from dev.settings import Settings, SettingsError
from dev.setup import set_up
from dev.stack import AlreadyRunningError, remove_data

PLAIN_ERRORS = (
    AlreadyRunningError, PortBusyError, ServersMissingError, SettingsError, NotOpenedError, PermissionError,
)  # fmt: skip


def main() -> int:
    """Do what the command line says and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dev", description="The platform on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="generate the contracts, find or install the servers")
    start = commands.add_parser("run", help="run the platform until Ctrl-C")
    start.add_argument("--logs", action="store_true", help="show the logs of all processes here too")
    commands.add_parser("demo", help="speak a recording into the platform and show what comes of it")
    commands.add_parser("seed", help="make the demo account and its sample meeting")
    commands.add_parser("clean", help="remove the platform's data")
    arguments = parser.parse_args()
    try:
        settings = Settings.of(os.environ)
        if arguments.command == "clean":
            remove_data(settings.data_folder)
            return 0
        set_up(settings, _say)
        if arguments.command == "setup":
            return 0
        does: dict[str, Callable[[], Awaitable[int]]] = {
            "run": lambda: run(settings, show_logs=arguments.logs),
            "demo": lambda: demo(settings),
            "seed": lambda: seed(settings),
        }
        return asyncio.run(_awaited(does[arguments.command]()))
    except PLAIN_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
    except (ProcessDiedError, NotReadyError) as error:
        print(f"{error.tail}\nerror: {error}", file=sys.stderr)
    except KeyboardInterrupt:  # before anything was started
        return 130
    return 1


async def _awaited(work: Awaitable[int]) -> int:
    return await work


def _say(text: str) -> None:
    print(f"  · {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
