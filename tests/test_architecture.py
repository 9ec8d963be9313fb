"""The rules of the house, as far as a machine can hold them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVICES = sorted(path.name for path in (ROOT / "services").iterdir() if (path / "__main__.py").exists())
GRAB_BAGS = re.compile(r"(^|/)(utils?|helpers?|common|misc|base|manager|service)\.py$")
PURE = [
    "services/transcriber/audio.py",
    "services/transcriber/cutting.py",
    "services/transcriber/drafts.py",
    "services/transcriber/filters.py",
    "services/transcriber/marks.py",
    "services/transcriber/ogg.py",
    "services/transcriber/opus.py",
    "services/transcriber/resampling.py",
    "services/transcriber/segments.py",
    "services/transcriber/transcript.py",
    "services/transcriber/webm.py",
    "services/gateway/sse.py",
    "services/gateway/wire.py",
    "services/meetings/export.py",
    "services/insights/minutes.py",
    "services/janitor/sweep.py",
]
IO = {"asyncio", "grpc", "httpx2", "nats", "openai", "psycopg", "socket", "sqlalchemy", "subprocess"}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "build" not in path.parts and "__pycache__" not in path.parts:
                yield path


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.req("R-SVC-1")
def test_there_are_the_five_services() -> None:
    assert SERVICES == ["gateway", "insights", "janitor", "meetings", "transcriber"]


def test_services_import_chassis_and_contracts_but_never_each_other() -> None:
    for service in SERVICES:
        others = {f"services.{other}" for other in SERVICES if other != service}
        for path in sources(f"services/{service}"):
            broken = {found for found in imports(path) for other in others if found.startswith(other)}
            assert not broken, f"{name(path)} imports {broken}"


def test_chassis_knows_no_service_and_no_contract() -> None:
    for path in sources("chassis"):
        assert not roots(path) & {"services", "verbatim", "dev", "sdk", "verbatim_client"}, name(path)


def test_shipped_code_does_not_import_the_local_stack_or_the_tests() -> None:
    for path in sources("chassis", "services", "recovery", "sdk"):
        if "tests" not in path.parts:
            assert not roots(path) & {"dev", "tests", "pytest"}, name(path)


def test_recovery_knows_databases_and_streams_but_no_service_and_no_contract() -> None:
    for path in sources("recovery"):
        assert not roots(path) & {"services", "verbatim", "verbatim_client"}, name(path)


def test_client_stands_alone() -> None:
    for path in sources("sdk"):
        if "tests" not in path.parts:
            assert not roots(path) & {"chassis", "services", "verbatim", "nats", "grpc", "sqlalchemy"}, name(path)


@pytest.mark.parametrize("module", PURE)
def test_domain_does_no_input_or_output(module: str) -> None:
    assert not roots(ROOT / module) & IO


def test_no_file_is_a_grab_bag() -> None:
    ours = sources("chassis", "services", "recovery", "sdk", "dev", "tests")
    bags = [name(path) for path in ours if GRAB_BAGS.search(str(path))]
    assert bags == []


def test_environment_is_read_in_settings_only() -> None:
    reader = re.compile(r"os\.environ|os\.getenv|from os import environ")
    readers = [
        name(path)
        for path in sources("chassis", "services", "recovery")
        if "tests" not in path.parts and path.name != "settings.py" and reader.search(path.read_text())
    ]
    assert readers == []


def test_nothing_sleeps_the_thread() -> None:
    for path in sources("chassis", "services", "sdk"):
        if "tests" not in path.parts:
            assert "time.sleep(" not in path.read_text(), name(path)


def test_every_setting_has_a_meaning_and_the_table_is_current() -> None:
    from dev.reference import settings_page  # noqa: PLC0415

    assert (ROOT / "docs/settings.md").read_text() == settings_page(), "run: python -m dev.reference"


def test_table_of_requirements_is_current() -> None:
    from dev.reference import requirements_page  # noqa: PLC0415

    assert (ROOT / "docs/requirements.md").read_text() == requirements_page(), "run: python -m dev.reference"


def test_every_rpc_has_a_request_and_response_of_its_own_and_a_caller() -> None:
    code = "\n".join(path.read_text() for path in sources("services"))
    for contract in (ROOT / "proto").rglob("*.proto"):
        for method in re.findall(r"rpc (\w+)\(", contract.read_text()):
            assert re.search(rf"\.{method}\b", code), f"{method} of {contract.name} is called by nobody"


def test_every_read_says_in_its_contract_that_it_has_no_side_effects() -> None:
    for contract in (ROOT / "proto").rglob("*.proto"):
        for method, end in re.findall(
            r"rpc ((?:Get|List|Search)\w+)\([^)]*\) returns \([^)]*\)\s*([;{][^}]*)", contract.read_text()
        ):
            assert "idempotency_level = NO_SIDE_EFFECTS" in end, f"{method} of {contract.name}"
