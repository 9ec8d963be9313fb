"""Every kind of credential that opens the public API, and what none of them opens any more."""

from __future__ import annotations

from chassis.errors import AppError
from services.gateway.access_tokens import AccessTokens
from services.gateway.api_key_checks import PREFIX, ApiKeyChecks
from services.gateway.auth import Principal
from services.gateway.external_tokens import ExternalTokens
from services.gateway.revocations import Revocations
from services.gateway.shares import PREFIX as SHARE_PREFIX
from services.gateway.shares import Shares

_SEEN_MAX = 10_000


class Credentials:
    """Tells whose a credential is, whatever its kind."""

    def __init__(
        self,
        tokens: AccessTokens,
        keys: ApiKeyChecks,
        external: ExternalTokens,
        shares: Shares,
        revocations: Revocations,
    ) -> None:
        self._tokens = tokens
        self._keys = keys
        self._external = external
        self._shares = shares
        self._revocations = revocations
        self._seen: dict[str, str] = {}

    async def authenticate(self, credential: str) -> Principal:
        """Return whom the credential stands for. Raises AppError as auth.Recognises says."""
        if credential.startswith(SHARE_PREFIX):
            # Not remembered: whoever has a link is counted by address, not as its maker.
            who = self._shares.authenticate(credential)
            self._revocations.check(who)
            return who
        if credential.startswith(PREFIX):
            who = await self._keys.authenticate(credential)
        elif self._external.issued(credential):
            who = await self._external.authenticate(credential)
        else:
            who = self._tokens.authenticate(credential)
        self._revocations.check(who)
        self._remember(credential, who)
        return who

    def account_of(self, authorization: str) -> str | None:
        """Return whom an Authorization header speaks for, as far as that is known without asking anybody.

        For counting only: it may be revoked.
        """
        scheme, _, credential = authorization.partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer":
            return None
        if (seen := self._seen.get(credential)) is not None:
            return seen
        if credential.startswith((PREFIX, SHARE_PREFIX)) or self._external.issued(credential):
            return None
        try:
            return self._tokens.authenticate(credential).account_id
        except AppError:
            return None

    def _remember(self, credential: str, who: Principal) -> None:
        if credential not in self._seen:
            if len(self._seen) >= _SEEN_MAX:
                del self._seen[next(iter(self._seen))]
            self._seen[credential] = who.account_id
