"""Tokens of another issuer, against an issuer on this machine."""

from __future__ import annotations

import asyncio
import base64
import functools
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chassis.errors import AppError, Kind
from services.gateway.credentials import Credentials
from services.gateway.external_tokens import OidcTokens
from services.gateway.issuer_keys import IssuerKeys
from services.gateway.revocations import Revocations
from services.gateway.tests.conftest import Gateway
from services.gateway.tests.local_server import LocalServer, local_server

pytestmark = [pytest.mark.req("R-AUTH-1"), pytest.mark.asyncio(loop_scope="module")]

AUDIENCE = "verbatim"
CONFIGURATION = "/.well-known/openid-configuration"
KEYS = "/keys"


@functools.cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """Return one of some keys, which take their time to make."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Issuer:
    """Signs tokens with keys that it shows."""

    def __init__(self, server: LocalServer, gateway: Gateway) -> None:
        self.server = server
        self.gateway = gateway
        self.url = server.url
        self.keys: dict[str, Any] = {}
        server.answers[CONFIGURATION] = {"issuer": self.url, "jwks_uri": self.url + KEYS}
        self.new_key("first")

    def new_key(self, kid: str, private: Any = None, **more: Any) -> None:
        self.keys[kid] = private or rsa_key(len(self.keys))
        self.show(**{name: {} for name in self.keys} | {kid: more})

    def show(self, **shown: dict[str, Any]) -> None:
        self.server.answers[KEYS] = {"keys": [jwk(self.keys[kid], kid=kid, **more) for kid, more in shown.items()]}

    def claims(self, **changed: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "somebody", "iat": now, "exp": now + 300, **changed}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, kid: str = "first", algorithm: str = "RS256", header: Any = None, **changed: Any) -> str:
        headers = {"kid": kid} | (header or {})
        return jwt.encode(self.claims(**changed), self.keys[kid], algorithm=algorithm, headers=headers)


def jwk(private: Any, **more: Any) -> dict[str, Any]:
    public = private.public_key()
    algorithm: Any = {
        rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm, ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PublicKey: jwt.algorithms.OKPAlgorithm,
    }  # fmt: skip
    kind = next(found for base_class, found in algorithm.items() if isinstance(public, base_class))
    return {**json.loads(kind.to_jwk(public)), "use": "sig", **more}


@pytest_asyncio.fixture(loop_scope="module")
async def issuer(gateway: Gateway) -> AsyncIterator[Issuer]:
    with local_server() as server:
        yield Issuer(server, gateway)
    gateway.accounts.fault = None


@asynccontextmanager
async def trusting(
    issuer: Issuer, clock: Callable[[], float] = time.monotonic, token_clock: Callable[[], float] = time.time
) -> AsyncIterator[tuple[Gateway, OidcTokens]]:
    async with httpx2.AsyncClient(timeout=1.0) as http:
        keys, meetings = IssuerKeys(http, issuer.url, clock=clock), issuer.gateway.entrance.meetings
        yield issuer.gateway, OidcTokens(issuer.url, AUDIENCE, keys, meetings, timeout_s=5.0, clock=token_clock)


async def refused(tokens: OidcTokens, token: str) -> Kind:
    with pytest.raises(AppError) as caught:
        await tokens.authenticate(token)
    return caught.value.kind


async def test_somebody_of_the_issuer_has_one_account_here(issuer: Issuer) -> None:
    async with trusting(issuer) as (gateway, tokens):
        ann = issuer.token(sub="ann", email="ann@example.com", preferred_username="ann", auth_time=1_700_000_000)
        assert tokens.issued(ann)
        who = await tokens.authenticate(ann)
        assert (who.role, who.login_id, who.key_id) == ("user", "", "")
        assert who.logged_in_at == 1_700_000_000
        assert (await tokens.authenticate(issuer.token(sub="ann"))).account_id == who.account_id
        assert (await tokens.authenticate(issuer.token(sub="ben"))).account_id != who.account_id
        assert gateway.accounts.identities[issuer.url, "ann"].email == "ann@example.com"


async def test_rest_speaks_with_both_kinds_of_tokens(issuer: Issuer) -> None:
    async with trusting(issuer) as (gateway, tokens):
        ours = gateway.entrance.credentials
        assert isinstance(ours, Credentials)
        both = Credentials(ours._tokens, ours._keys, tokens, ours._shares, Revocations())
        for token in (issuer.token(), gateway.signer.token()):
            who = await both.authenticate(token)
            assert both.account_of(f"Bearer {token}") == who.account_id
        assert both.account_of(f"Bearer {issuer.token(sub='new')}") is None
        foreign = issuer.token(iss="https://third.example")
        with pytest.raises(AppError) as caught:
            await both.authenticate(foreign)
        assert caught.value.kind is Kind.UNAUTHORIZED


@pytest.mark.parametrize(
    ("algorithm", "private"),
    [
        ("RS256", rsa_key(1)),
        ("PS256", rsa_key(1)),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    ],
)
async def test_keys_of_every_common_kind_are_understood(issuer: Issuer, algorithm: str, private: Any) -> None:
    issuer.new_key("other", private)
    async with trusting(issuer) as (_, tokens):
        await tokens.authenticate(issuer.token("other", algorithm))


def public_pem(issuer: Issuer) -> bytes:
    public = issuer.keys["first"].public_key()
    return bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def hs256_with_the_public_key(issuer: Issuer) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    unsigned = f"{part({'alg': 'HS256', 'kid': 'first'})}.{part(issuer.claims())}"
    mac = hmac.digest(public_pem(issuer), unsigned.encode(), "sha256")
    return f"{unsigned}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


ATTACKS: dict[str, Callable[[Issuer], str]] = {
    "for another audience": lambda i: i.token(aud="other"),
    "for no audience": lambda i: i.token(aud=None),
    "of another issuer": lambda i: i.token(iss="https://evil.example"),
    "expired": lambda i: i.token(exp=int(time.time()) - 31),
    "without end": lambda i: i.token(exp=None),
    "not yet": lambda i: i.token(nbf=int(time.time()) + 120),
    "made in the future": lambda i: i.token(iat=int(time.time()) + 120),
    "without subject": lambda i: i.token(sub=None),
    "empty subject": lambda i: i.token(sub=""),
    "a logout token": lambda i: i.token(header={"typ": "logout+jwt"}),
    "alg none": lambda i: jwt.encode(i.claims(), "", algorithm="none", headers={"kid": "first"}),
    "public key as HMAC secret": hs256_with_the_public_key,
    "another key": lambda i: jwt.encode(
        i.claims(), rsa_key(2), algorithm="RS256", headers={"kid": "first"},
    ),
    "unknown key": lambda i: i.token(header={"kid": "unknown"}),
    "key that is a path": lambda i: i.token(header={"kid": "../../../../dev/null"}),
    "key brought along": lambda i: jwt.encode(
        i.claims(), ec.generate_private_key(ec.SECP256R1()), algorithm="ES256",
        headers={"jwk": jwk(ec.generate_private_key(ec.SECP256R1())), "jku": "https://evil.example"},
    ),
    "unknown critical header": lambda i: i.token(header={"crit": ["x"], "x": 1}),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
async def test_token_that_is_not_the_issuers_is_refused(issuer: Issuer, attack: str) -> None:
    async with trusting(issuer) as (gateway, tokens):
        await tokens.authenticate(issuer.token())
        assert await refused(tokens, ATTACKS[attack](issuer)) is Kind.UNAUTHORIZED
        assert sum(url == issuer.url for url, _ in gateway.accounts.identities) == 1


async def test_claims_that_are_named_twice_are_nobodys(issuer: Issuer) -> None:
    claims = json.dumps(issuer.claims())[:-1] + ', "iss": "https://other.example"}'
    async with trusting(issuer) as (_, tokens):
        text = base64.urlsafe_b64encode(claims.encode()).rstrip(b"=").decode()
        assert not tokens.issued(f"e30.{text}.AAAA")


async def test_new_key_is_fetched_when_it_is_first_seen_and_an_old_one_is_forgotten(issuer: Issuer) -> None:
    clock = [1000.0]
    async with trusting(issuer, lambda: clock[0]) as (_, tokens):
        await tokens.authenticate(issuer.token())
        clock[0] += 60
        issuer.new_key("second")
        issuer.show(second={})
        await tokens.authenticate(issuer.token("second"))
        assert await refused(tokens, issuer.token("first")) is Kind.UNAUTHORIZED


async def test_invented_keys_do_not_make_us_ask_the_issuer_again_and_again(issuer: Issuer) -> None:
    async with trusting(issuer) as (_, tokens):
        await asyncio.gather(
            *(refused(tokens, issuer.token(header={"kid": f"invented{number}"})) for number in range(30))
        )
        assert len([path for _, path, _ in issuer.server.asked if path == KEYS]) == 1


async def test_issuer_that_is_away_costs_nobody_who_is_known_his_entry(issuer: Issuer) -> None:
    clock = [1000.0]
    async with trusting(issuer, lambda: clock[0]) as (_, tokens):
        issuer.server.answers[KEYS] = (503, b"")
        assert await refused(tokens, issuer.token()) is Kind.UNAVAILABLE
        clock[0] += 6
        issuer.show(first={})
        await tokens.authenticate(issuer.token())
        issuer.server.answers[KEYS] = (503, b"")
        clock[0] += 3600
        await tokens.authenticate(issuer.token())
        # A key that we do not know may be a new one: nobody can tell now.
        assert await refused(tokens, issuer.token(header={"kid": "new"})) is Kind.UNAVAILABLE
        clock[0] += 86400
        assert await refused(tokens, issuer.token()) is Kind.UNAVAILABLE


async def test_issuer_that_does_not_answer_is_not_waited_for_long(issuer: Issuer) -> None:
    issuer.server.stall = threading.Event()
    async with trusting(issuer) as (_, tokens), asyncio.timeout(20):
        assert await refused(tokens, issuer.token()) is Kind.UNAVAILABLE


@pytest.mark.parametrize(
    "answer",
    [
        b"not json",
        b"[]",
        b"{}",
        b'{"keys": []}',
        b'{"keys": "none"}',
        b'{"keys": [1, null]}',
        b'{"keys": [{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlYw", "kid": "first"}]}',
        b'{"keys": [{"kty": "RSA", "kid": "first"}]}',
        b" " * 300_000,
    ],
)
async def test_keys_that_make_no_sense_open_nothing(issuer: Issuer, answer: bytes) -> None:
    issuer.server.answers[KEYS] = (200, answer)
    async with trusting(issuer) as (_, tokens):
        assert await refused(tokens, issuer.token()) is Kind.UNAVAILABLE


async def test_configuration_of_another_issuer_is_not_believed(issuer: Issuer) -> None:
    issuer.server.answers[CONFIGURATION] = {"issuer": "https://evil.example", "jwks_uri": issuer.url + KEYS}
    async with trusting(issuer) as (_, tokens):
        assert await refused(tokens, issuer.token()) is Kind.UNAVAILABLE


async def test_key_is_good_for_the_algorithm_that_it_names_and_for_signing_only(issuer: Issuer) -> None:
    issuer.new_key("narrow", alg="RS512")
    issuer.new_key("secret", use="enc")
    issuer.show(first={}, narrow={"alg": "RS512"}, secret={"use": "enc"})
    async with trusting(issuer) as (_, tokens):
        await tokens.authenticate(issuer.token("narrow", "RS512"))
        assert await refused(tokens, issuer.token("narrow", "RS256")) is Kind.UNAUTHORIZED
        assert await refused(tokens, issuer.token("secret")) is Kind.UNAUTHORIZED


async def test_token_without_a_key_id_is_checked_with_the_only_key(issuer: Issuer) -> None:
    async with trusting(issuer) as (_, tokens):
        bare = jwt.encode(issuer.claims(), issuer.keys["first"], algorithm="RS256")
        await tokens.authenticate(bare)
    issuer.new_key("second")
    async with trusting(issuer) as (_, tokens):
        assert await refused(tokens, bare) is Kind.UNAUTHORIZED


async def test_disabled_account_is_shut_and_opened_again(issuer: Issuer) -> None:
    now = [time.time()]
    async with trusting(issuer, token_clock=lambda: now[0]) as (gateway, tokens):
        await tokens.authenticate(issuer.token())
        gateway.accounts.identities[issuer.url, "somebody"].disabled = True
        now[0] += 31
        assert await refused(tokens, issuer.token()) is Kind.UNAUTHORIZED
        gateway.accounts.identities[issuer.url, "somebody"].disabled = False
        now[0] += 31
        await tokens.authenticate(issuer.token())


async def test_who_is_known_stays_so_while_meetings_does_not_answer(issuer: Issuer) -> None:
    now = [time.time()]
    async with trusting(issuer, token_clock=lambda: now[0]) as (gateway, tokens):
        await tokens.authenticate(issuer.token())
        gateway.accounts.fault = AppError(Kind.UNAVAILABLE, "The database does not answer.")
        now[0] += 60
        await tokens.authenticate(issuer.token())
        assert await refused(tokens, issuer.token(sub="new")) is Kind.UNAVAILABLE
        now[0] += 900
        assert await refused(tokens, issuer.token()) is Kind.UNAVAILABLE
        gateway.accounts.fault = AppError(Kind.VALIDATION_FAILED, "That cannot be kept.")
        assert await refused(tokens, issuer.token(sub="odd")) is Kind.UNAUTHORIZED
