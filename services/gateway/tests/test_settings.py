"""Settings are checked before anything starts."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from chassis.settings import load, variables
from services.gateway.settings import Settings
from services.gateway.tests.conftest import Signer


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("SERVICE_AUTH_KEY", "k" * 32)
    monkeypatch.setenv("AUTH_PUBLIC_KEY", Signer().public_pem)
    monkeypatch.setenv("TRANSCRIBER_TARGETS", "10.0.0.1:9101, 10.0.0.2:9101")
    monkeypatch.setenv("MEETINGS_TARGET", "meetings:9100")
    monkeypatch.setenv("INSIGHTS_TARGET", "insights:9100")
    return monkeypatch


@pytest.mark.req("R-SVC-7")
def test_lists_are_written_with_commas(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ALLOWED_ORIGINS", "https://a.example,http://localhost:5173")
    settings = load(Settings)
    assert settings.transcriber_targets == ("10.0.0.1:9101", "10.0.0.2:9101")
    assert settings.allowed_origins == ("https://a.example", "http://localhost:5173")


@pytest.mark.req("R-SVC-7")
def test_a_key_may_be_written_on_one_line(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AUTH_PUBLIC_KEY", Signer().public_pem.replace("\n", "\\n"))
    assert "\n" in load(Settings).auth_public_key


def _another_kind_of_key() -> str:
    key = generate_private_key(SECP256R1()).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.req("R-SVC-7")
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AUTH_PUBLIC_KEY", "secret-canary"),
        ("AUTH_PUBLIC_KEY", _another_kind_of_key()),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "https://secret-canary.example/path"),
        ("TRANSCRIBER_TARGETS", " , "),
        ("PORT", "secret-canary"),
        ("CALL_TIMEOUT_S", "0"),
        ("BODY_BYTES_MAX", "999999999999"),
        ("OIDC_ISSUER", "secret-canary"),
        ("CAPTCHA_WHERE", "everywhere"),
        ("CAPTCHA_VERIFY_URL", "ftp://secret-canary"),
    ],
)
def test_a_wrong_value_stops_the_start_with_the_name_of_its_variable(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    environment.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        load(Settings)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{variable}: ")
    assert "secret-canary" not in told


@pytest.mark.req("R-SVC-7", "R-AUTH-1")
def test_another_issuer_is_named_with_its_audience_and_in_production_reached_safely(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("OIDC_ISSUER", "http://issuer.example")
    for name, value, told in (
        ("OIDC_AUDIENCE", "", "OIDC_AUDIENCE: "),
        ("VERBATIM_ENV", "production", "OIDC_ISSUER: "),
    ):
        environment.setenv("OIDC_AUDIENCE", "verbatim")
        assert load(Settings).oidc_issuer == "http://issuer.example"
        environment.setenv(name, value)
        with pytest.raises(SystemExit):
            load(Settings)
        assert told in capsys.readouterr().err


@pytest.mark.req("R-SVC-7")
def test_every_setting_says_what_it_is() -> None:
    assert all(meaning.endswith(".") for _, _, meaning in variables(Settings))


@pytest.mark.req("R-WS-8")
def test_half_open_connections_are_found_within_45_seconds_as_it_ships(environment: pytest.MonkeyPatch) -> None:
    """A ping after so many seconds, and as many for its answer; row 35 of docs/faults.md shows that it works."""
    del environment
    assert 2 * load(Settings).heartbeat_s <= 45
