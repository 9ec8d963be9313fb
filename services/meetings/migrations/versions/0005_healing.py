"""Healing: drafts that are given up, whether a session heals, and what found tasks and their minutes are known by."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE meetings ADD COLUMN insights_version BIGINT DEFAULT 0 NOT NULL;
ALTER TABLE sessions ADD COLUMN heals BOOLEAN;
ALTER TABLE segments ADD COLUMN given_up BOOLEAN DEFAULT false NOT NULL;
ALTER TABLE tasks ADD COLUMN found BOOLEAN DEFAULT false NOT NULL;
ALTER TABLE tombstones ADD COLUMN meeting_id UUID, ADD COLUMN source_segment_id TEXT DEFAULT '' NOT NULL;
UPDATE tasks SET found = true WHERE origin = 'insights';
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    with op.get_context().autocommit_block():
        # Not in a transaction: writers need not wait for it.
        op.execute("DROP INDEX IF EXISTS tombstones_of_meeting")
        op.execute(
            "CREATE INDEX CONCURRENTLY tombstones_of_meeting ON tombstones (meeting_id) WHERE meeting_id IS NOT NULL"
        )


def downgrade() -> None:
    op.execute("ALTER TABLE meetings DROP insights_version")
    op.execute("ALTER TABLE sessions DROP heals")
    op.execute("ALTER TABLE segments DROP given_up")
    op.execute("ALTER TABLE tasks DROP found")
    op.execute("ALTER TABLE tombstones DROP meeting_id, DROP source_segment_id")
