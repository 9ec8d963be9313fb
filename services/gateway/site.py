"""The web page as `make web` built it: read once, and served from memory to whoever asks."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response

STATIC = Path(__file__).parent / "static"

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The name of an asset has the hash of its content in it; the page, which names them, is asked for again each time.
_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"


@dataclass(frozen=True, slots=True)
class SiteFile:
    """A file of the page, plain and compressed."""

    plain: bytes
    compressed: bytes
    media_type: str
    cache_control: str

    def answer(self, asked: Headers) -> Response:
        """Return the answer to a request with these header fields."""
        fields = {"Cache-Control": self.cache_control, "Vary": "Accept-Encoding"}
        if "gzip" in asked.get("accept-encoding", ""):
            fields["Content-Encoding"] = "gzip"
            return Response(self.compressed, media_type=self.media_type, headers=fields)
        return Response(self.plain, media_type=self.media_type, headers=fields)


@dataclass(frozen=True, slots=True)
class Site:
    """The page, and by name what it loads."""

    page: SiteFile
    assets: Mapping[str, SiteFile]

    @classmethod
    def read(cls, folder: Path = STATIC) -> Site:
        """Read the built files. Raises FileNotFoundError if there are none, KeyError for a type unknown here."""
        assets = {path.name: _read(path, _FOR_EVER) for path in sorted((folder / "assets").iterdir())}
        return cls(_read(folder / "index.html", _ASK_AGAIN), assets)


def _read(path: Path, cache_control: str) -> SiteFile:
    plain = path.read_bytes()
    return SiteFile(plain, gzip.compress(plain, mtime=0), _MEDIA_TYPES[path.suffix], cache_control)
