"""Who is calling, and what they may do."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from chassis.errors import AppError, Kind

ROLES = frozenset({"user", "admin"})
READ, WRITE, STREAM, ADMIN = "read", "write", "stream", "admin"
SCOPES = frozenset({READ, WRITE, STREAM, ADMIN})

_READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Principal:
    """The account that a request speaks for, and with what: a login, an API key, or another issuer's token."""

    account_id: str
    role: str
    expires_at: float
    """Unix time at which the credential ends."""
    issued_at: float = 0.0
    """Unix time at which it was given, or last confirmed, to be the account's."""
    logged_in_at: float = 0.0
    """Unix time at which a person proved to be there."""
    login_id: str = ""
    key_id: str = ""
    scopes: frozenset[str] = SCOPES
    meeting_id: str = ""
    """The only meeting that a shared link leads to; empty for every other credential."""

    def require(self, scope: str) -> None:
        """Raise AppError(FORBIDDEN) unless this may be done with the credential."""
        if scope not in self.scopes or (scope == ADMIN and self.role != ADMIN):
            raise AppError(Kind.FORBIDDEN, f"This needs the scope {scope}.")


class Recognises(Protocol):
    """Tells whose a credential is."""

    def authenticate(self, credential: str) -> Awaitable[Principal]:
        """Return whom the credential stands for.

        Raises AppError: UNAUTHORIZED if it is wrong, expired or revoked; UNAVAILABLE or TIMEOUT if that cannot be told
        now. A good credential is never called wrong.
        """

    def account_of(self, authorization: str) -> str | None:
        """Return whom an Authorization header speaks for, as far as that is known without asking anybody."""


def refusal(why: str) -> AppError:
    """Return the answer to a credential that is none: the same words whatever is wrong."""
    return AppError(Kind.UNAUTHORIZED, "The access token is missing, wrong or expired.", log=f"token refused: {why}")


_bearer = HTTPBearer(
    auto_error=False,
    description="The `access_token` that `POST /api/auth/login` answers, or an API key of `POST /api/auth/api-keys`.",
)


async def _known(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Principal:
    if credentials is None:
        raise refusal("no bearer token")
    recognises: Recognises = request.app.state.credentials
    who = await recognises.authenticate(credentials.credentials)
    if who.meeting_id:
        _stay_in_meeting(request, who.meeting_id)
    return who


def _stay_in_meeting(request: Request, meeting_id: str) -> None:
    """Keep who has a shared link to routes that name its meeting; its scope keeps them to reading."""
    named = request.path_params.get("meeting_id")
    if named is None:
        raise AppError(Kind.FORBIDDEN, "A shared link shows one meeting and nothing else.")
    if str(named).lower() != meeting_id:
        raise AppError(Kind.NOT_FOUND, "There is no such meeting.")


Known = Annotated[Principal, Depends(_known)]


async def _scoped(request: Request, who: Known) -> Principal:
    who.require(READ if request.method in _READING else WRITE)
    return who


async def _admin(who: Annotated[Principal, Depends(_scoped)]) -> Principal:
    who.require(ADMIN)
    return who


async def admin_of(request: Request) -> Principal:
    """Return the admin that a request is from, for a route that needs one now and then. Raises as `Admin` does."""
    return await _admin(await _scoped(request, await _known(request, await _bearer(request))))


async def _person(who: Known) -> Principal:
    if who.key_id:
        raise AppError(Kind.FORBIDDEN, "An API key may not do this: log in.")
    return who


# A route that has a parameter of one of these types turns everybody else away, before it looks at what was sent.
# Who: somebody, with an API key that may read (GET) or write (the rest). Admin: of these, who looks after the platform,
# with an API key that has that scope too. Person: somebody who is logged in.
Who = Annotated[Principal, Depends(_scoped)]
Person = Annotated[Principal, Depends(_person)]
Admin = Annotated[Principal, Depends(_admin)]
