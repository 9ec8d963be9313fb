"""Uploads: what may be said about one, and how much of it one account may have under way."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from services.meetings.checks import Checks, clean_line
from services.meetings.meetings import TITLE_LONGEST, UNTITLED

KIND = "upload"
BUCKET = "UPLOADS"
"""Of the object store: the files, by the id of their upload."""
CONTAINERS = ("mp3", "wav", "ogg", "webm", "mp4")
_FILE_NAME_LONGEST = 255


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What one account may have under way, and how long a file may take to arrive."""

    uploads_max: int = 20
    bytes_max: int = 1024**3
    life_s: float = 86_400.0
    attempts_max: int = 5


@dataclass(frozen=True, slots=True)
class NewUpload:
    """A file that is about to arrive. Without `meeting_id` it becomes a meeting of its own."""

    id: str
    owner_id: str
    meeting_id: str
    title: str
    language: str
    container: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that arrives or has arrived; `job_id` is None until it has."""

    id: str
    owner_id: str
    meeting_id: str
    makes_meeting: bool
    title: str
    language: str
    container: str
    size_bytes: int
    job_id: str | None
    refusal: str
    expires_at: dt.datetime


def new_upload(
    upload_id: str,
    owner_id: str,
    *,
    meeting_id: str,
    title: str,
    language: str,
    file_name: str,
    container: str,
    size_bytes: int,
) -> NewUpload:
    """Check what a caller says of a file. Raises AppError(VALIDATION_FAILED)."""
    checks = Checks()
    found = NewUpload(
        id=checks.id("upload_id", upload_id),
        owner_id=checks.id("owner_id", owner_id),
        meeting_id=checks.id("meeting_id", meeting_id) if meeting_id else "",
        title=checks.line("title", title, longest=TITLE_LONGEST) or title_of_file(file_name),
        language=checks.language("language", language),
        container=checks.choice("container", container, CONTAINERS),
        size_bytes=size_bytes,
    )
    if size_bytes < 1:
        checks.fail("size_bytes", "must not be empty")
    checks.done()
    return found


def title_of_file(name: str) -> str:
    """Return the title of a meeting that is made of a file: the file's name without folders and suffix."""
    last = clean_line(name[-_FILE_NAME_LONGEST:]).replace("\\", "/").rpartition("/")[2]
    stem = last.rpartition(".")[0] or last
    return stem.replace("_", " ").strip(" .")[:TITLE_LONGEST] or UNTITLED
