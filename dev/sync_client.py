"""Write `sdk/verbatim_client/sync.py`: the calls of the client for programs that do not use asyncio.

python -m dev.sync_client

Each public method of `VerbatimClient` becomes one with the same name, parameters and docstring that waits for it.
Written and not looked up at run time, so that editors and type checkers know them. A test compares.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from dev.settings import ROOT

SOURCE = ROOT / "sdk/verbatim_client/client.py"
TARGET = ROOT / "sdk/verbatim_client/sync.py"

# What makes no sense without asyncio, and what `SyncVerbatimClient` does in its own way.
LEFT_OUT = frozenset({"live", "answer"})

HEAD = '''"""The client for programs that do not use asyncio. Written by `python -m dev.sync_client`: do not edit.

with SyncVerbatimClient("http://localhost:8000", access_token=key) as client:
    for event in client.stream(pcm, LiveSettings(title="Planning")):
        if event["type"] == "segment":
            print(event["text"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from verbatim_client.backoff import Backoff
from verbatim_client.client import Json
from verbatim_client.settings import Buffering, LiveSettings
from verbatim_client.uploading import Begun, Progress
from verbatim_client.waiting import Waiting
from verbatim_client.wire import Event


class SyncVerbatimClient(Waiting):
    """One account's view of a platform; every call waits for its answer.

    The same calls as VerbatimClient, which works in a thread of its own: live audio flows while your program does
    something else. Lists, `stream` and `watch` are iterators. Not for use from several threads at once.
    """
'''


def source() -> str:
    """Return the module as it should be."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    client = next(one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "VerbatimClient")
    methods = [
        one
        for one in client.body
        if isinstance(one, ast.AsyncFunctionDef | ast.FunctionDef)
        and not one.name.startswith("_")
        and one.name not in LEFT_OUT
        and not any(isinstance(mark, ast.Name) and mark.id == "property" for mark in one.decorator_list)
    ]
    return HEAD + "".join(f"\n{_method(one)}" for one in methods)


def _method(one: ast.AsyncFunctionDef | ast.FunctionDef) -> str:
    returned = ast.unparse(one.returns) if one.returns else "None"
    head = f"    def {one.name}({ast.unparse(one.args)}) -> "
    doc = ast.get_docstring(one, clean=False) or ""
    call = f"self._client.{one.name}({', '.join(_passed(one.args))})"
    streams = returned.startswith("AsyncGenerator") or returned == "Watch"
    if streams:
        item = "Event" if returned == "Watch" or "Event" in returned else "Json"
        body = f"return self._each({call})"
        returned = f"Iterator[{item}]"
    else:
        body = f"self._wait({call})" if returned == "None" else f"return self._wait({call})"
    return f'{head}{returned}:\n        """{doc}"""\n        {body}\n'


def _passed(arguments: ast.arguments) -> list[str]:
    by_place = [one.arg for one in arguments.args[1:]]
    by_name = [f"{one.arg}={one.arg}" for one in arguments.kwonlyargs]
    rest = [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return by_place + by_name + rest


def formatted(text: str) -> str:
    """Return the text as the house's formatter leaves it. Raises CalledProcessError."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def write(target: Path = TARGET) -> None:
    """Write the module."""
    target.write_text(formatted(source()), encoding="utf-8")


if __name__ == "__main__":
    write()
