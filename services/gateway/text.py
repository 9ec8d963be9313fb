"""Words that people send us, as pydantic checks them: plain text on one line."""

from __future__ import annotations

from pydantic_core import PydanticCustomError

from chassis.plaintext import plain

__all__ = ["plain", "plain_or_invalid"]


def plain_or_invalid(text: str) -> str:
    """Return `plain(text)`; for pydantic, which reports the failure of a text that has nothing left."""
    left = plain(text)
    if not left:
        raise PydanticCustomError("no_text", "Should hold text besides markup and space")
    return left
