"""Who may come in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chassis import ids
from chassis.errors import AppError, Kind
from services.gateway.auth import AccessTokens, Principal
from services.gateway.tests.conftest import Gateway, Signer, problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def signer() -> Signer:
    return Signer()


def raw(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def hs256_with_the_public_key(signer: Signer) -> str:
    # The library refuses to make this token, so it is made by hand.
    unsigned = raw({"alg": "HS256", "typ": "JWT"}, signer.claims()).rpartition(".")[0]
    digest = hmac.new(signer.public_pem.encode(), unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def signed(signer: Signer, headers: dict[str, Any]) -> str:
    return jwt.encode(signer.claims(), signer.private_key, algorithm="EdDSA", headers=headers)


ATTACKS = {
    "nothing": lambda s: "",
    "no token at all": lambda s: "not.a.token",
    "one part": lambda s: "abc",
    "alg none": lambda s: raw({"alg": "none"}, s.claims()),
    "alg none with the signature of a good token": lambda s: (
        raw({"alg": "none"}, s.claims()).rstrip(".") + "." + s.token().rpartition(".")[2]
    ),
    "public key as HMAC secret": hs256_with_the_public_key,
    "another key": lambda s: jwt.encode(s.claims(), Ed25519PrivateKey.generate(), algorithm="EdDSA"),
    "another key brought along": lambda s: jwt.encode(
        s.claims(), Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"jku": "https://evil.example/keys"}
    ),
    "unknown critical header": lambda s: signed(s, {"crit": ["x"], "x": 1}),
    "claims changed after signing": lambda s: ".".join(
        [s.token().split(".")[0], raw({}, s.claims(role="admin")).split(".")[1], s.token().split(".")[2]]
    ),
    "expired": lambda s: s.token(exp=int(time.time()) - 31),
    "not yet": lambda s: s.token(nbf=int(time.time()) + 120),
    "made in the future": lambda s: s.token(iat=int(time.time()) + 120),
    "for another audience": lambda s: s.token(aud="verbatim-internal"),
    "for several audiences": lambda s: s.token(aud=["verbatim-api", "other"]),
    "of another issuer": lambda s: s.token(iss="evil"),
    "refresh token": lambda s: s.token(typ="refresh"),
    "without type": lambda s: s.token(typ=None),
    "subject that is no account": lambda s: s.token(sub="admin' OR 1=1"),
    "role that does not exist": lambda s: s.token(role="root"),
    "without role": lambda s: s.token(role=None),
    **{
        f"without {claim}": (lambda s, claim=claim: s.token(**{claim: None}))
        for claim in ("exp", "iat", "nbf", "aud", "iss", "sub", "jti")
    },
    "longer than any token": lambda s: s.token(padding="x" * 5000),
    "not ASCII": lambda s: "é.ü.ß",
}


@pytest.mark.req("R-AUTH-1")
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_token_that_is_not_ours_is_refused_with_the_same_words(signer: Signer, attack: str) -> None:
    tokens = AccessTokens(signer.public_pem)
    with pytest.raises(AppError) as caught:
        tokens.authenticate(ATTACKS[attack](signer))
    assert caught.value.kind is Kind.UNAUTHORIZED
    assert caught.value.message == "The access token is missing, wrong or expired."


@pytest.mark.req("R-AUTH-1")
def test_a_good_token_names_account_and_role(signer: Signer) -> None:
    account = ids.new_id()
    token = signer.token(sub=account, role="admin")
    assert AccessTokens(signer.public_pem).authenticate(token) == Principal(account, "admin")


@pytest.mark.req("R-AUTH-1")
def test_clocks_may_differ_by_some_seconds(signer: Signer) -> None:
    now = int(time.time())
    AccessTokens(signer.public_pem).authenticate(signer.token(nbf=now + 20, iat=now + 20))
    AccessTokens(signer.public_pem).authenticate(signer.token(exp=now - 20))


@pytest.mark.req("R-AUTH-1")
def test_a_remembered_token_still_expires(signer: Signer) -> None:
    clock = [time.time()]
    tokens = AccessTokens(signer.public_pem, clock=lambda: clock[0])
    token = signer.token()
    tokens.authenticate(token)
    clock[0] += 900 + 31
    with pytest.raises(AppError):
        tokens.authenticate(token)


@pytest.mark.req("R-AUTH-1")
def test_the_memory_for_tokens_is_bounded(signer: Signer) -> None:
    tokens = AccessTokens(signer.public_pem)
    principal = Principal(ids.new_id(), "user")
    tokens._remembered.update({f"t{number}": (2e9, principal) for number in range(10_000)})
    tokens.authenticate(signer.token())
    assert len(tokens._remembered) == 10_000
    assert "t0" not in tokens._remembered


@pytest.mark.req("R-AUTH-1")
@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "bearer", "Bearer a b", "Token {}", "{}"])
async def test_only_a_bearer_token_opens_a_route(gateway: Gateway, header: str) -> None:
    value = header.format(gateway.signer.token())
    answer = await gateway.client.get("/api/meetings", headers={"Authorization": value})
    assert answer.status_code == 401
    assert problem(answer)["error"] == "unauthorized"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.req("R-AUTH-1")
async def test_every_route_that_is_about_somebody_asks_who_is_calling(gateway: Gateway) -> None:
    schema = (await gateway.client.get("/openapi.json")).json()
    open_to_all = {
        "/api/auth/register", "/api/auth/login", "/api/auth/refresh", "/api/auth/logout", "/healthz", "/readyz"
    }  # fmt: skip
    asked = 0
    for path, operations in schema["paths"].items():
        for method in operations:
            if path not in open_to_all:
                url = path.replace("{meeting_id}", "x").replace("{task_id}", "x").replace("{job_id}", "x")
                answer = await gateway.client.request(method, url)
                assert answer.status_code == 401, (method, path, answer.text)
                asked += 1
    assert asked >= 15


@pytest.mark.req("R-AUTH-2")
async def test_what_is_anothers_is_not_found(gateway: Gateway) -> None:
    owner, other = gateway.as_account(), gateway.as_account()
    meeting = await gateway.new_meeting(owner)
    for path in (f"/api/meetings/{meeting}", f"/api/meetings/{meeting}/segments", f"/api/meetings/{meeting}/export"):
        assert (await gateway.client.get(path, headers=owner)).status_code == 200
        assert (await gateway.client.get(path, headers=other)).status_code == 404
    change = {**other, "If-Match": '"1"'}
    assert (await gateway.client.delete(f"/api/meetings/{meeting}", headers=change)).status_code == 404
