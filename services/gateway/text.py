"""Words that people send us, as pydantic checks them: plain text on one line."""

from __future__ import annotations

from pydantic import SecretStr
from pydantic_core import PydanticCustomError

from chassis.plaintext import plain

__all__ = ["plain", "plain_or_invalid", "whole", "whole_secret"]


def plain_or_invalid(text: str) -> str:
    """Return `plain(text)`; for pydantic, which reports the failure of a text that has nothing left."""
    left = plain(text)
    if not left:
        raise PydanticCustomError("no_text", "Should hold text besides markup and space")
    return left


def whole(text: str) -> str:
    """Return a text as it is, if it can be written down: half a character (a lone surrogate) cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "Should be whole characters") from None
    return text


def whole_secret(secret: SecretStr) -> SecretStr:
    """Do the same for a secret."""
    whole(secret.get_secret_value())
    return secret
