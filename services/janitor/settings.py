"""What the janitor can be told."""

from __future__ import annotations

from pydantic import Field

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of the janitor."""

    uploads_every_s: float = Field(600.0, gt=0, description="Pause between two sweeps of the folder of uploads.")
    uploads_age_s: float = Field(3600.0, gt=0, description="Age from which an upload's temporary file is a left-over.")
    uploads_removed_max: int = Field(1000, ge=1, description="Most files that one sweep removes.")
    disk_every_s: float = Field(30.0, gt=0, description="Pause between two looks at the disk.")
    dead_letters_every_s: float = Field(30.0, gt=0, description="Pause between two looks at the dead letters.")
    round_deadline_s: float = Field(60.0, gt=0, description="Longest time of one round of any task.")
