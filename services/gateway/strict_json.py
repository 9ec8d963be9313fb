"""Parts of a token read strictly: what two readers could understand in two ways is refused."""

from __future__ import annotations

import base64
import json
from typing import Any


def strict_object(token: str, part: int) -> dict[str, Any]:
    """Return a part of a token (0 header, 1 claims). Raises ValueError unless it is an object that names each member
    once, at whatever depth."""
    text = token.split(".")[part]
    found = json.loads(
        base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), object_pairs_hook=_unique, parse_constant=_refuse
    )
    if not isinstance(found, dict):
        raise ValueError("no object")  # noqa: TRY004 - the text is wrong
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is named twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
