"""Change the resilience code in every small way there is, and see that its tests notice.

python -m tests.mutation [--only breaker,retry] [--floor 0.9] [--out docs/mutation.md]

Each module is mutated by cosmic-ray in a copy of the repository, one change at a time, and its own tests must
notice. What they do not notice is listed. Takes some minutes a module.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson

ROOT = Path(__file__).parents[2]
COPIED = ("chassis", "services", "dev/assets", "tests/mutation", "pyproject.toml")
RUN_S = 600.0

# Changes that change nothing, or nothing that runs: `is` between members of an enumeration is `==`, and `|` stands in
# annotations only. Bit operations on fractions fail at once whatever the tests are; they would only flatter the score.
EXCLUDED = (
    "core/ReplaceComparisonOperator_(Is|IsNot)_(Eq|NotEq|Lt|LtE|Gt|GtE)",
    "core/ReplaceComparisonOperator_(Eq|NotEq|Lt|LtE|Gt|GtE)_(Is|IsNot)",
    "core/ReplaceBinaryOperator_BitOr_.*",
    "core/ReplaceBinaryOperator_.*_(RShift|LShift|BitOr|BitAnd|BitXor)",
)


@dataclass(frozen=True)
class Target:
    """A module and the tests that must notice every change to it."""

    name: str
    module: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Survivor:
    """A change that no test noticed: where, and the line as it became."""

    line: int
    operator: str
    became: str


@dataclass(frozen=True)
class Score:
    """What became of a module's mutants."""

    target: Target
    killed: int
    survivors: tuple[Survivor, ...]

    @property
    def share(self) -> float:
        return self.killed / max(1, self.killed + len(self.survivors))


TARGETS = (
    Target(
        "breaker", "chassis/breaker.py",
        ("chassis/tests/test_breaker_rules.py", "chassis/tests/test_breaker_machine.py"),
    ),
    Target("retry and budget", "chassis/retry.py", ("chassis/tests/test_retry.py",)),
    # Its tests wait for real time: an hour and more, so only when it is asked for.
    Target("turnstile", "services/transcriber/turnstile.py", ("services/transcriber/tests/test_turnstile.py",)),
)  # fmt: skip


USUAL = "breaker,retry"


def score(target: Target) -> Score:
    """Mutate a module in a copy of the repository. Raises CalledProcessError, also if its tests fail unchanged."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # the session is committed after each mutant
    with tempfile.TemporaryDirectory(prefix="verbatim-mutation-", dir=memory) as name:
        folder = Path(name)
        for part in COPIED:
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, folder / part)
        config, session = folder / "mutation.toml", folder / "mutation.sqlite"
        config.write_text(_config(target, folder))
        _run(folder, "cosmic-ray", "init", config.name, session.name)
        _run(folder, "cr-filter-operators", session.name, config.name)
        nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.nursery", str(folder / "socket"), *target.tests],
            cwd=folder, env=_environment(folder),
        )  # fmt: skip
        try:
            while not (folder / "socket").exists() and nursery.poll() is None:
                time.sleep(0.1)
            _run(folder, "cosmic-ray", "baseline", config.name)
            _run(folder, "cosmic-ray", "exec", config.name, session.name)
        finally:
            nursery.kill()
            nursery.wait()
        return _read(target, _run(folder, "cosmic-ray", "dump", session.name))


def _config(target: Target, folder: Path) -> str:
    excluded = ", ".join(f'"{operator}"' for operator in EXCLUDED)
    return f"""
[cosmic-ray]
module-path = "{target.module}"
timeout = {RUN_S}
excluded-modules = []
test-command = "{sys.executable} -S -E {Path(__file__).parent}/nursery.py {folder}/socket"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = [{excluded}]
"""


def _environment(folder: Path) -> dict[str, str]:
    python_path = os.pathsep.join((str(folder), str(ROOT / "build/gen"), str(ROOT / "sdk")))
    return os.environ | {
        "PYTHONPATH": python_path, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"
    }  # fmt: skip


def _run(folder: Path, program: str, *arguments: str) -> str:
    finished = subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments],
        cwd=folder, env=_environment(folder),
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if finished.returncode:
        print(finished.stdout, finished.stderr, file=sys.stderr)
    finished.check_returncode()
    return finished.stdout


def _read(target: Target, dump: str) -> Score:
    killed, survivors = 0, []
    for line in filter(None, dump.splitlines()):
        work, result = orjson.loads(line)
        if result is None or result["worker_outcome"] == "skipped":
            continue
        [mutation] = work["mutations"]
        if result["test_outcome"] == "survived":
            became = [row[1:].strip() for row in result["diff"].splitlines() if row[:1] == "+" and row[:3] != "+++"]
            operator = mutation["operator_name"].removeprefix("core/")
            survivors.append(Survivor(mutation["start_pos"][0], operator, " ".join(became)))
        else:
            killed += 1
    return Score(target, killed, tuple(sorted(survivors, key=lambda one: one.line)))


def page(scores: list[Score]) -> str:
    """Return what came of it, as a page of the documentation."""
    lines = [
        "# Mutation tests",
        "",
        "Made by `make mutation`: every small change to a module, one at a time, and whether the module's own tests",
        "notice. Left out are changes that change nothing (`tests/mutation/__main__.py` says which).",
        "",
        "| module | mutants | noticed | share |",
        "|---|---|---|---|",
    ]
    for one in scores:
        mutants = one.killed + len(one.survivors)
        lines.append(f"| `{one.target.module}` | {mutants} | {one.killed} | {one.share:.1%} |")
    for one in scores:
        if one.survivors:
            lines += ["", f"Not noticed in `{one.target.module}`:", ""]
            lines += [f"- line {it.line}, {it.operator}: `{it.became}`" for it in one.survivors]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Return 0 if every module's share is above the floor."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", default="", help=f"names of targets, comma-separated; default: {USUAL}")
    parser.add_argument("--floor", type=float, default=0.9, help="least share that must be noticed")
    parser.add_argument("--out", type=Path, help="where the page is written")
    chosen = parser.parse_args()
    wanted = {name.strip() for name in (chosen.only or USUAL).split(",")}
    targets = [target for target in TARGETS if target.name.split()[0] in wanted]
    if not targets:
        parser.error(f"there are the targets {', '.join(target.name.split()[0] for target in TARGETS)}")
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        scores = list(pool.map(score, targets))
    print(page(scores))
    if chosen.out:
        chosen.out.write_text(page(scores))
    return 0 if all(one.share >= chosen.floor for one in scores) else 1


if __name__ == "__main__":
    sys.exit(main())
