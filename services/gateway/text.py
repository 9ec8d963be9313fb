"""Words that people send us: markup and control characters go, what is left is plain text on one line."""

from __future__ import annotations

import html
import unicodedata

import nh3
from pydantic import SecretStr
from pydantic_core import PydanticCustomError

# Embeddings, overrides and isolates make text read as something that it is not.
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(text: str) -> str:
    """Return the text without markup, control characters and superfluous space. Never longer than the input.

    What it returns goes through unchanged a second time, so text that was read and sent back stays the same.
    """
    while "<" in text or "&" in text:
        # Text that is escaped twice turns into markup at the second look: look until nothing changes.
        stripped = html.unescape(nh3.clean(text, tags=set(), attributes={}))
        if stripped == text or len(stripped) > len(text):
            break
        text = stripped
    return " ".join("".join(c if _harmless(c) else " " for c in text).split())


def whole_secret(secret: SecretStr) -> SecretStr:
    """Return a secret as it is, if it can be written down: half a character (a lone surrogate) cannot."""
    try:
        secret.get_secret_value().encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "Should be whole characters") from None
    return secret


def _harmless(character: str) -> bool:
    return character not in _BIDI_CONTROLS and unicodedata.category(character) not in {"Cc", "Cs"}


def plain_or_invalid(text: str) -> str:
    """Return `plain(text)`; for pydantic, which reports the failure of a text that has nothing left."""
    left = plain(text)
    if not left:
        raise PydanticCustomError("no_text", "Should hold text besides markup and space")
    return left
