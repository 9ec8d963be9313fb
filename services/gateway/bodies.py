"""How long the body of a request may be, by its path."""

from __future__ import annotations

from collections.abc import Mapping

# Around a file is a form.
FORM_BYTES = 16 * 1024


class BodyLimits:
    """`usual` bytes, but for the paths below one of `files`, which take a file of so many bytes in a form."""

    def __init__(self, usual: int, files: Mapping[str, int]) -> None:
        self._usual = usual
        self._files = {path: most + FORM_BYTES for path, most in files.items()}

    def of(self, path: str) -> int:
        """Return the longest body for a path, in bytes."""
        for prefix, most in self._files.items():
            if path == prefix or path.startswith(f"{prefix}/"):
                return most
        return self._usual
