"""Generating the contracts; reading the caller's environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dev.settings import Settings, SettingsError, default_data_folder
from dev.setup import generate_contracts
from dev.stack import remove_data

CONTRACT = 'syntax = "proto3";\npackage verbatim.greeting.v1;\nmessage Greeting { string text = 1; }\n'


@pytest.fixture
def proto(tmp_path: Path) -> Path:
    folder = tmp_path / "proto" / "verbatim" / "greeting" / "v1"
    folder.mkdir(parents=True)
    (folder / "greeting.proto").write_text(CONTRACT)
    return tmp_path / "proto"


def generate(proto: Path) -> bool:
    return generate_contracts(proto, proto.parent / "gen", lambda _text: None)


@pytest.mark.req("R-RUN-1")
def test_contracts_are_generated_once_and_again_when_they_change(proto: Path) -> None:
    assert generate(proto)
    module = proto.parent / "gen" / "verbatim" / "greeting" / "v1" / "greeting_pb2.py"
    assert "Greeting" in module.read_text()
    assert module.with_suffix(".pyi").exists()
    assert not generate(proto)
    contract = next(proto.rglob("*.proto"))
    contract.write_text(CONTRACT + "message Farewell {}\n")
    assert generate(proto)
    assert "Farewell" in module.with_suffix(".pyi").read_text()


def test_code_of_a_contract_that_is_gone_goes_too(proto: Path) -> None:
    second = next(proto.rglob("*.proto")).with_name("second.proto")
    second.write_text(CONTRACT.replace("Greeting", "Second"))
    generate(proto)
    second.unlink()
    generate(proto)
    assert not list((proto.parent / "gen").rglob("second_pb2.py"))


def test_a_wrong_contract_leaves_the_generated_code_as_it_was(proto: Path) -> None:
    generate(proto)
    next(proto.rglob("*.proto")).write_text("this is no contract")
    with pytest.raises(subprocess.CalledProcessError):
        generate(proto)
    assert list((proto.parent / "gen").rglob("greeting_pb2.py"))


@pytest.mark.parametrize("port", ["eighty", "80", "65536", "-1", "８０００"])
def test_a_port_that_cannot_be_used_is_refused_by_its_variables_name(port: str) -> None:
    with pytest.raises(SettingsError, match=r"^PORT:"):
        Settings.of({"PORT": port})


def test_only_known_variables_reach_the_services(tmp_path: Path) -> None:
    settings = Settings.of({"WHISPER_MODEL": "large", "OPENAI_API_KEY": "", "VERBATIM_DATA_DIR": str(tmp_path)})
    assert settings.passed_on == {"WHISPER_MODEL": "large"}
    assert (settings.port, settings.data_folder, settings.nats_server) == (8000, tmp_path, None)


def test_a_checkout_in_roots_closed_home_keeps_its_data_where_postgres_can_go(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert default_data_folder(Path("/")) == Path("/.run")
    folder = default_data_folder(closed)
    # Who is not root runs PostgreSQL as themselves, and can pass their own home.
    assert folder == closed / ".run" or folder.is_relative_to("/var/lib/verbatim")
    assert default_data_folder(closed) == folder


def test_cleaning_removes_what_a_stack_made_and_nothing_else(tmp_path: Path) -> None:
    for name in ("postgres", "keys", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "seeded").touch()
    remove_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
