"""What a backup consists of, and how one knows that all of it is there and as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
FILE = "manifest.json"
_CHUNK_BYTES = 1024 * 1024


class BackupUnusable(Exception):
    """The backup is not whole, not as it was written, or not of a format that we know. The message says which."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file, by its path below the backup. `size` in bytes; `sha256` in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TableCopy:
    """The rows of one table, as COPY writes them, compressed with gzip."""

    columns: tuple[str, ...]
    rows: int
    part: Part


@dataclass(frozen=True, slots=True)
class DatabaseCopy:
    """One database at one moment. `revision` is of its schema; `sequences` the last value that each gave (or None)."""

    revision: str
    tables: dict[str, TableCopy]
    sequences: dict[str, int | None]


@dataclass(frozen=True, slots=True)
class StreamCopy:
    """One stream at one moment, as the broker itself packs it. `config` and `state` are the broker's own words."""

    config: dict[str, Any]
    state: dict[str, Any]
    part: Part

    @property
    def messages(self) -> int:
        return int(self.state.get("messages", 0))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole backup. `began_at` (RFC 3339) is the moment that a restore leads back to."""

    version: str
    began_at: str
    ended_at: str
    databases: dict[str, DatabaseCopy] = field(default_factory=dict)
    streams: dict[str, StreamCopy] = field(default_factory=dict)

    def parts(self) -> list[Part]:
        """Return every file of the backup."""
        tables = [table.part for database in self.databases.values() for table in database.tables.values()]
        return tables + [stream.part for stream in self.streams.values()]

    def write(self, folder: Path) -> None:
        """Write it down, with a checksum of itself."""
        said = asdict(self)
        said["format"] = FORMAT
        said["sha256"] = _own_digest(said)
        (folder / FILE).write_text(json.dumps(said, indent=2, sort_keys=True))


def read(folder: Path) -> Manifest:
    """Read the manifest of a backup. Raises BackupUnusable."""
    try:
        said = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        raise BackupUnusable(f"{folder} holds no {FILE}: it is no backup, or did not come to its end") from None
    except (OSError, ValueError) as fault:
        raise BackupUnusable(f"{folder / FILE} cannot be read: {type(fault).__name__}") from None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise BackupUnusable(f"{folder / FILE} is of a format that this release does not know")
    if said.pop("sha256", "") != _own_digest(said):
        raise BackupUnusable(f"{folder / FILE} is not as it was written")
    return Manifest(
        version=said["version"],
        began_at=said["began_at"],
        ended_at=said["ended_at"],
        databases={name: _database(one) for name, one in said["databases"].items()},
        streams={
            name: StreamCopy(one["config"], one["state"], Part(**one["part"])) for name, one in said["streams"].items()
        },
    )


def verify(folder: Path) -> Manifest:
    """Read every byte of a backup and return its manifest. Raises BackupUnusable."""
    manifest = read(folder)
    for part in manifest.parts():
        path = folder / part.path
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BackupUnusable(f"{part.path} is not inside of the backup")
        try:
            found = seen(path, part.path)
        except OSError as fault:
            raise BackupUnusable(f"{part.path} cannot be read: {type(fault).__name__}") from None
        if found != part:
            raise BackupUnusable(f"{part.path} is not as it was written")
    return manifest


def seen(path: Path, name: str) -> Part:
    """Return what a file is now. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return Part(name, size, digest.hexdigest())


def _database(said: Mapping[str, Any]) -> DatabaseCopy:
    tables = {
        name: TableCopy(tuple(one["columns"]), one["rows"], Part(**one["part"])) for name, one in said["tables"].items()
    }
    return DatabaseCopy(said["revision"], tables, dict(said["sequences"]))


def _own_digest(said: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in said.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
