"""What people wrote into transcripts, with what was heard beside it, and the names that they gave to speakers.

Expands only: the code before this one leaves the defaults, which say that nothing was edited.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE segments ADD edits INTEGER DEFAULT 0 NOT NULL, ADD edited TEXT[] DEFAULT '{}' NOT NULL, "
        "ADD heard_text TEXT, ADD heard_speaker TEXT"
    )
    op.execute(
        """
        CREATE TABLE speaker_names (
            meeting_id UUID NOT NULL REFERENCES meetings (id) ON DELETE CASCADE,
            heard TEXT NOT NULL,
            name TEXT NOT NULL,
            PRIMARY KEY (meeting_id, heard)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE transcripts_edited (
            meeting_id UUID PRIMARY KEY REFERENCES meetings (id) ON DELETE CASCADE,
            at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE transcripts_edited, speaker_names")
    op.execute("ALTER TABLE segments DROP edits, DROP edited, DROP heard_text, DROP heard_speaker")
