"""The edge of the process: work runs here, and what goes wrong becomes one line on stderr and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine, Iterator
from enum import IntEnum
from typing import Any

import httpx2
import typer

from verbatim_client.cli.printing import plain
from verbatim_client.errors import ApiError, ConnectionGivenUpError, StreamError


class Exit(IntEnum):
    """What the exit codes mean."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_LOGGED_IN = 3
    NOT_FOUND = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


class CliError(Exception):
    """Something that the person can do something about."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        self.code = code
        super().__init__(message)


EXIT_OF_STATUS = {
    401: Exit.NOT_LOGGED_IN,
    404: Exit.NOT_FOUND,
    502: Exit.UNAVAILABLE,
    503: Exit.UNAVAILABLE,
    504: Exit.UNAVAILABLE,
}
EXIT_OF_CODE = {
    "unauthorized": Exit.NOT_LOGGED_IN,
    "not_found": Exit.NOT_FOUND,
    "bad_gateway": Exit.UNAVAILABLE,
    "service_unavailable": Exit.UNAVAILABLE,
    "gateway_timeout": Exit.UNAVAILABLE,
}


def run(work: Coroutine[Any, Any, None]) -> None:
    """Do the work of a command. Raises typer.Exit with the code of what went wrong."""
    with answered():
        asyncio.run(work)


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Turn what goes wrong inside into a line and an exit code. Raises typer.Exit."""
    try:
        yield
    except ApiError as error:
        code = EXIT_OF_CODE.get(error.code) or EXIT_OF_STATUS.get(error.status, Exit.FAILED)
        _fail(code, error.message or f"HTTP {error.status}", error.body, error.code, error.request_id)
    except ConnectionGivenUpError as error:
        _fail(Exit.UNAVAILABLE, str(error), error.event, error.code)
    except StreamError as error:
        _fail(EXIT_OF_CODE.get(error.code, Exit.FAILED), str(error), error.event, error.code)
    except httpx2.TransportError as error:
        _fail(Exit.UNAVAILABLE, f"the platform cannot be reached: {error or type(error).__name__}")
    except httpx2.InvalidURL as error:
        _fail(Exit.USAGE, f"that is no address: {error}")
    except TimeoutError:
        _fail(Exit.UNAVAILABLE, "the platform did not answer in time")
    except CliError as error:
        _fail(error.code, str(error))
    except BrokenPipeError:
        _fail_silently()
    except OSError as error:
        _fail(Exit.FAILED, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _fail(Exit.INTERRUPTED, "interrupted")


def _fail(code: Exit, message: str, body: dict[str, Any] | None = None, name: str = "", request_id: str = "") -> None:
    body = body or {}
    problems = [f"{detail.get('field')}: {detail.get('problem')}" for detail in body.get("details") or ()]
    request_id = request_id or str(body.get("request_id") or "")
    known = [name] * (name not in ("", "unknown")) + [f"request {request_id}"] * bool(request_id)
    text = "; ".join([message, *problems]) + (f" ({', '.join(known)})" if known else "")
    print(f"error: {plain(text)}", file=sys.stderr)
    raise typer.Exit(code)


def _fail_silently() -> None:
    """End when whoever read our output has gone, without Python's complaint at the last flush."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(Exit.FAILED)
