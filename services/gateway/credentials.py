"""Every kind of credential that opens the public API, and what none of them opens any more."""

from __future__ import annotations

from services.gateway.access_tokens import AccessTokens
from services.gateway.api_key_checks import PREFIX, ApiKeyChecks
from services.gateway.auth import Principal
from services.gateway.external_tokens import ExternalTokens
from services.gateway.revocations import Revocations


class Credentials:
    """Tells whose a credential is, whatever its kind."""

    def __init__(
        self, tokens: AccessTokens, keys: ApiKeyChecks, external: ExternalTokens, revocations: Revocations
    ) -> None:
        self._tokens = tokens
        self._keys = keys
        self._external = external
        self._revocations = revocations

    async def authenticate(self, credential: str) -> Principal:
        """Return whom the credential stands for. Raises AppError as auth.Recognises says."""
        if credential.startswith(PREFIX):
            who = await self._keys.authenticate(credential)
        elif self._external.issued(credential):
            who = await self._external.authenticate(credential)
        else:
            who = await self._tokens.authenticate(credential)
        self._revocations.check(who)
        return who
