"""Every command and snippet of the documents is taken apart against what it speaks to; an unknown program fails.

Of the handbook and the runbooks only what `verbatim` is told: the rest is in tests/observe/test_runbooks.py. What
docs/sdk.md shows is run as well (tests/e2e/test_guide.py), and `make demo` and `make run` are what other tests start.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml
from verbatim_client.cli.app import application
from verbatim_client.cli.settings import CliSettings

from dev.settings import ROOT
from services.gateway.tests.test_openapi import PUBLIC

pytestmark = pytest.mark.req("R-RUN-7")

# Typer brings a Click of its own, and exports no other of its errors.
CLICK_ERROR = typer.BadParameter.__bases__[0]

PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/helm/verbatim/README.md")),
        *(page for page in (ROOT / "docs").glob("*.md") if page.name not in {"settings.md", "requirements.md"}),
        *(ROOT / "docs/quickstarts").glob("*.md"),
    ]
)
HANDBOOK = sorted([*(ROOT / "docs/runbooks").glob("*.md"), *(ROOT / "docs/operations").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
INDENTED = re.compile(r"(?:^ {4}\S.*\n)+", re.M)
QUOTED = re.compile(r"`((?:make|verbatim) [^`\n]+)`")
# Blocks that show something else than what is typed.
PICTURES = re.compile(r"[─│┌└▶←]|──|^  |^accounts|^decisions|^tasks", re.M)


@dataclass(frozen=True, slots=True)
class Command:
    """A line that somebody is told to type."""

    page: str
    line: str

    def __str__(self) -> str:
        return f"{self.page}: {self.line[:60]}"


def commands() -> list[Command]:
    """Return every line of every block that is typed into a shell, and commands within sentences."""
    found = set()
    for page in [*PAGES, *HANDBOOK]:
        text = page.read_text(encoding="utf-8")
        rest = FENCE.sub("", text)
        typed = [block for kind, block in FENCE.findall(text) if kind == "sh" or (not kind and is_typed(block))]
        lines = [line for block in [*typed, *INDENTED.findall(rest)] for line in joined(block)]
        lines += [line for quoted in QUOTED.findall(rest) for line in alternatives(quoted)]
        if page in HANDBOOK:
            lines = [line for line in lines if line.startswith("verbatim ")]
        found |= {Command(str(page.relative_to(ROOT)), line) for line in lines}
    return sorted(found, key=str)


def is_typed(block: str) -> bool:
    """Whether a block of no kind is a shell's, and no picture or output."""
    return not PICTURES.search(block)


def alternatives(quoted: str) -> list[str]:
    """Return the commands that `verbatim jobs show|cancel` stands for."""
    *head, last = quoted.split(" ")
    return [" ".join([*head, one]) for one in last.split("|")] if re.fullmatch(r"[a-z]+(\|[a-z]+)+", last) else [quoted]


def joined(block: str) -> Iterator[str]:
    """Give the lines of a block, those that go on behind a backslash as one, without what a comment says."""
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        if typed := re.sub(r"\s+# .*|\s{3,}.*", "", line.strip()):
            yield typed


def words_of(line: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables that are set for a command, and its words up to where its output goes."""
    words = shlex.split(re.sub(r"<[a-z ]+>|…", "x", line))
    settings = {}
    while words and (match := re.fullmatch(r"([A-Z][A-Z0-9_]*)=(.*)", words[0])):
        settings[match[1]] = match[2]
        words.pop(0)
    ends = [at for at, word in enumerate(words) if word in {">", "|", "&&"}]
    return settings, words[: ends[0]] if ends else words


@cache
def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def make(words: list[str]) -> None:
    for word in words:
        if name := re.fullmatch(r"([A-Z][A-Z0-9_]*)=.*", word):
            assert re.search(rf"\b{name[1]}\b", makefile() + settings_page()), f"nobody reads {name[1]}"
        else:
            assert re.search(rf"^{re.escape(word)}:", makefile(), re.M), f"make does not know {word}"


@cache
def settings_page() -> str:
    return (ROOT / "docs/settings.md").read_text(encoding="utf-8") + (ROOT / "dev/settings.py").read_text("utf-8")


def verbatim(words: list[str]) -> None:
    command: Any = typer.main.get_command(application())
    words = ["x" if word == "[…]" else word for word in words]
    while hasattr(command, "commands") and words not in ([], ["--help"]):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command = command.commands[words.pop(0)]
    if words in ([], ["x"], ["--help"]):
        return  # it is only mentioned
    try:
        command.make_context(str(command.name), words, obj=CliSettings(None, None, Path()))
    except typer.BadParameter as fault:
        # Of a file that only the reader has.
        if not str(fault).endswith("does not exist."):
            raise


def python(words: list[str]) -> None:
    assert words[0] == "-m", "documents run modules"
    assert importlib.util.find_spec(words[1]) is not None, f"there is no module {words[1]}"


def pip(words: list[str]) -> None:
    assert words[0] == "install"
    for word in words[1:]:
        assert not word.startswith(".") or (ROOT / word / "pyproject.toml").exists(), f"{word} cannot be installed"


def helm(words: list[str]) -> None:
    assert words[0] in {"install", "upgrade", "rollback", "test", "uninstall", "lint", "template"}
    for word in words[1:]:
        if word.startswith("deploy/"):
            assert (ROOT / word).exists(), f"there is no {word}"
    values = yaml.safe_load((ROOT / "deploy/helm/verbatim/values.yaml").read_text(encoding="utf-8"))
    for at, word in enumerate(words):
        if word == "--set":
            here: Any = values
            for key in words[at + 1].split("=")[0].split("."):
                assert key in here, f"the chart has no value {words[at + 1]}"
                here = here[key]


@cache
def chart_names() -> set[str]:
    made = yaml.safe_load_all((ROOT / "deploy/helm/golden/default.yaml").read_text(encoding="utf-8"))
    return {one["metadata"]["name"].removeprefix("v-") for one in made if one} | {"verbatim-verbatim-secrets"}


def kubectl(words: list[str]) -> None:
    assert words[0] in {"port-forward", "delete", "get", "rollout", "logs", "exec", "apply", "create"}, words
    for word in words[1:]:
        if word.startswith("service/"):
            assert word.removeprefix("service/") in chart_names(), f"the chart makes no {word}"


def docker(words: list[str]) -> None:
    assert words[0] in {"run", "compose", "push", "build", "image", "save", "load", "tag"}, words
    for word in re.findall(r"(?<![\w/.])/?(deploy/[\w./-]+)", " ".join(words)):
        assert (ROOT / word).exists() or word == "deploy/.env" or ":ro" in " ".join(words), f"there is no {word}"


def curl(words: list[str]) -> None:
    address = next(word for word in words if "://" in word or word.startswith("$"))
    path = re.sub(r"^(https?://[^/]+|\$VERBATIM_URL)", "", address).split("?")[0]
    method = words[words.index("-X") + 1].lower() if "-X" in words else "post" if "-F" in words else "get"
    routes = {re.sub(r"{\w+}", "[^/]+", route): methods for route, methods in PUBLIC.items()}
    assert any(re.fullmatch(route, path) and method in methods for route, methods in routes.items()), address


def evaluated(words: list[str]) -> None:
    inner = re.fullmatch(r"\$\((.*)\)", words[0])
    assert inner
    check(inner[1])


def nothing_to_check(words: list[str]) -> None:
    assert words


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "make": make, "verbatim": verbatim, ".venv/bin/verbatim": verbatim, ".venv/bin/python": python, "python": python,
    "pip": pip, "helm": helm, "kubectl": kubectl, "docker": docker, "curl": curl, "eval": evaluated,
    "git": nothing_to_check, "cd": nothing_to_check,
}  # fmt: skip


def check(line: str) -> None:
    """Raise unless a line can be typed."""
    settings, words = words_of(line)
    for name in settings:
        assert re.search(rf"\b{name}\b", settings_page() + makefile()), f"nobody reads {name}"
    assert words and words[0] in PROGRAMS, f"nobody here knows {words[:1]}"
    PROGRAMS[words[0]](words[1:])


@pytest.mark.parametrize("command", commands(), ids=str)
def test_it_can_be_typed(command: Command) -> None:
    check(command.line)


def test_they_are_found_in_every_way_in_which_they_are_written() -> None:
    found = {(command.page, command.line) for command in commands()}
    assert {
        ("README.md", "make demo"),
        ("docs/install.md", "helm test verbatim"),
        ("docs/quickstarts/programmer.md", "pip install ./sdk"),
        ("docs/sdk.md", "verbatim doctor"),
    } <= found
    assert len(found) > 60


@pytest.mark.parametrize(
    "wrong",
    [
        "make coffee", "make run COFFEE=1", "verbatim sing", "verbatim list --loud", "COFFEE=1 make run",
        "pip install ./nowhere", "helm install verbatim deploy/nowhere",
        "helm install verbatim deploy/helm/verbatim --set coffee.hot=1", "kubectl port-forward service/coffee 80:80",
        "curl http://localhost:8000/api/coffee", "curl -X DELETE http://localhost:8000/api/meetings",
        ".venv/bin/python -m coffee", "brew coffee", 'eval "$(verbatim sing)"',
    ],
)  # fmt: skip
def test_what_cannot_be_typed_is_found(wrong: str) -> None:
    with pytest.raises((AssertionError, CLICK_ERROR)):
        check(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_piece_of_python_is_python(page: Path) -> None:
    for kind, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            compile(block, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), link
