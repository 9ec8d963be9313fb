"""Which tokens are ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chassis import ids
from chassis.errors import AppError, Kind
from services.gateway.access_tokens import AccessTokens, public_keys
from services.gateway.auth import Principal
from services.gateway.tests.conftest import Signer


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


def raw_hs256(signer: Signer, secret: bytes) -> str:
    unsigned = raw({"alg": "HS256", "typ": "JWT"}, signer.claims()).rpartition(".")[0]
    digest = hmac.new(secret, unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def hand_signed(signer: Signer, header: str, claims: str) -> str:
    """Return what nobody but the holder of our key could sign, and no library would."""
    parts = [base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in (header, claims)]
    signature = signer.private_key.sign(".".join(parts).encode())
    return ".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=").decode()])


def without(claim: str) -> Callable[[Signer], str]:
    return lambda signer: signer.token(**{claim: None})


ATTACKS: dict[str, Callable[[Signer], str]] = {
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
    **{f"without {claim}": without(claim) for claim in ("exp", "iat", "nbf", "aud", "iss", "sub", "jti")},
    "key that is a path": lambda s: signed(s, {"kid": "../../../../../../dev/null"}),
    "key that is a query": lambda s: signed(s, {"kid": "x' UNION SELECT 'key"}),
    "key that was taken out of use": lambda s: signed(s, {"kid": "0123456789abcdef"}),
    "key that is a list": lambda s: raw({"alg": "EdDSA", "kid": ["a"]}, s.claims()),
    "key brought along in the header": lambda s: jwt.encode(
        s.claims(),
        Ed25519PrivateKey.generate(),
        algorithm="EdDSA",
        headers={"jwk": {"kty": "OKP"}, "x5u": "https://evil.example"},
    ),
    "payload not encoded": lambda s: signed(s, {"crit": ["b64"], "b64": False}),
    "signed with eight bytes": lambda s: raw_hs256(s, b"12345678"),
    "claims named twice": lambda s: hand_signed(s, '{"alg":"EdDSA"}', json.dumps(s.claims())[:-1] + ',"role":"admin"}'),
    "header named twice": lambda s: hand_signed(s, '{"alg":"none","alg":"EdDSA"}', json.dumps(s.claims())),
    "a megabyte": lambda s: s.token(padding="x" * 1024 * 1024),
    "claims nested deeply": lambda s: hand_signed(s, '{"alg":"EdDSA"}', '{"a":' * 900 + "1" + "}" * 900),
    "issued at no number": lambda s: s.token(iat="now"),
    "expires never": lambda s: hand_signed(s, '{"alg":"EdDSA"}', json.dumps(s.claims(exp=float("inf")))),
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
    principal = AccessTokens(signer.public_pem).authenticate(token)
    assert (principal.account_id, principal.role) == (account, "admin")


@pytest.mark.req("R-AUTH-1", "R-AUTH-2")
def test_while_keys_change_tokens_of_both_are_good_and_then_of_the_new_one_alone(signer: Signer) -> None:
    old, new = signer, Signer()
    during = AccessTokens(old.public_pem + new.public_pem)
    for one in (old, new):
        kid = next(iter(public_keys(one.public_pem)))
        during.authenticate(signed(one, {"kid": kid}))
        during.authenticate(one.token())
    afterwards = AccessTokens(new.public_pem)
    for token in (old.token(), signed(old, {"kid": next(iter(public_keys(old.public_pem)))})):
        with pytest.raises(AppError):
            afterwards.authenticate(token)
    afterwards.authenticate(new.token())


@pytest.mark.req("R-SVC-7")
@pytest.mark.parametrize("pem", ["", "no key", "-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----"])
def test_text_that_holds_no_key_is_refused(pem: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        public_keys(pem)


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
    principal = Principal(ids.new_id(), "user", 0.0)
    tokens._remembered.update({f"t{number}": (2e9, principal) for number in range(10_000)})
    tokens.authenticate(signer.token())
    assert len(tokens._remembered) == 10_000
    assert "t0" not in tokens._remembered
