"""What the janitor can be told."""

from __future__ import annotations

from pydantic import Field, model_validator

from chassis.settings import ServiceSettings

TASKS = ("uploads", "uploaded files", "disk", "memory", "sessions", "dead letters", "backups", "deletions")


class Settings(ServiceSettings):
    """Settings of the janitor."""

    uploads_every_s: float = Field(600.0, gt=0, description="Pause between two sweeps of what uploads left behind.")
    uploads_age_s: float = Field(3600.0, gt=0, description="Age from which a file of an upload may be a left-over.")
    uploads_removed_max: int = Field(1000, ge=1, description="Most files that one sweep removes.")
    meetings_target: str = Field(
        "127.0.0.1:50052", description="Where the meetings service listens, which knows the files that are needed."
    )
    uploads_age_tight_s: float = Field(
        600.0,
        gt=0,
        description="The same age while the disk is nearly full, when everything is cleaned more than usual.",
    )
    disk_every_s: float = Field(30.0, gt=0, description="Pause between two looks at the disk.")
    disk_folders: str = Field(
        "", description="Folders besides VERBATIM_DATA_DIR whose disks are watched, separated by commas."
    )
    disk_clean_share: float = Field(0.85, gt=0, le=1, description="Share of a disk that is used; then room is made.")
    disk_refuse_share: float = Field(
        0.95, gt=0, le=1, description="Share of a disk that is used; then uploads are refused with 507."
    )
    disk_allow_share: float = Field(
        0.90, gt=0, le=1, description="Share of a disk that is used; at that uploads are let in again."
    )
    memory_every_s: float = Field(60.0, gt=0, description="Pause between two times that memory is given back.")
    backups_every_s: float = Field(300.0, gt=0, description="Pause between two looks at when the last backup was made.")
    backup_expected: bool = Field(
        False, description="Whether backups are made here: then it is an alert if there is none."
    )
    rounds: tuple[str, ...] = Field(
        (), description="Tasks that this janitor does, as a JSON list of names; empty: all. "
        "Beside a pod, for its own scratch: [\"uploads\", \"disk\", \"memory\"].",
    )  # fmt: skip
    dry_run: bool = Field(False, description="Only tell in the log what would be removed.")
    dead_letters_every_s: float = Field(30.0, gt=0, description="Pause between two looks at the dead letters.")
    transcriber_targets: str = Field(
        "",
        description="Transcribers that finish what was left, as host:port, comma-separated; none: nothing is finished.",
    )
    sessions_every_s: float = Field(300.0, gt=0, description="Pause between two looks at the sessions.")
    orphan_idle_s: float = Field(
        2700.0, gt=0, description="Silence of a session's log after which it has no owner; more than SESSION_IDLE_S."
    )
    keep_logs_s: float = Field(86_400.0, ge=0, description="How long logs of stored sessions are kept after the end.")
    keep_draft_logs_s: float = Field(
        5 * 86_400.0, ge=0,
        description="How long drafts of a session that is over may wait to be healed; then they are given up. "
        "Less than LOG_AGE_S of the transcribers.",
    )  # fmt: skip
    unhealed_idle_s: float = Field(
        120.0, ge=0, description="Silence of a closed session's log with drafts after which its healing is asked for."
    )
    audio_share_max: float = Field(
        0.85, gt=0, le=1,
        description="How full the audio log may be; then room is made, in the end by giving up drafts.",
    )  # fmt: skip
    audio_share_low: float = Field(0.75, ge=0, le=1, description="How full it is when enough room is made.")
    sessions_per_round: int = Field(100, ge=1, description="Most sessions that one round finishes, and that it purges.")
    round_deadline_s: float = Field(60.0, gt=0, description="Longest time of one round of any task.")

    @model_validator(mode="after")
    def _shares_are_in_order(self) -> Settings:
        if not self.disk_clean_share <= self.disk_allow_share <= self.disk_refuse_share:
            raise ValueError("DISK_CLEAN_SHARE <= DISK_ALLOW_SHARE <= DISK_REFUSE_SHARE does not hold")
        if unknown := set(self.rounds) - set(TASKS):
            raise ValueError(f"ROUNDS: {', '.join(sorted(unknown))}: no such task; there are {', '.join(TASKS)}")
        return self
