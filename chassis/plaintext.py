"""Words that others send us, people or language models: markup and control characters go, plain text is left."""

from __future__ import annotations

import html
import unicodedata

import nh3

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


def _harmless(character: str) -> bool:
    return character not in _BIDI_CONTROLS and unicodedata.category(character) not in {"Cc", "Cs"}
