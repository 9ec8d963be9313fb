"""Figures of meetings and tasks, of which analytics are made."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE meeting_figures (
    meeting_id UUID NOT NULL,
    owner_id UUID,
    version BIGINT NOT NULL,
    began_at TIMESTAMP WITH TIME ZONE,
    talk_s DOUBLE PRECISION NOT NULL,
    words BIGINT NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    told_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (meeting_id)
);
CREATE INDEX meeting_figures_of_owner ON meeting_figures (owner_id, began_at) INCLUDE (talk_s, words)
    WHERE deleted_at IS NULL;
CREATE TABLE speaker_figures (
    meeting_id UUID NOT NULL,
    speaker TEXT NOT NULL,
    owner_id UUID NOT NULL,
    began_at TIMESTAMP WITH TIME ZONE NOT NULL,
    talk_s DOUBLE PRECISION NOT NULL,
    words BIGINT NOT NULL,
    PRIMARY KEY (meeting_id, speaker)
);
CREATE INDEX speaker_figures_of_owner ON speaker_figures (owner_id, began_at) INCLUDE (speaker, talk_s, words);
CREATE TABLE task_figures (
    task_id UUID NOT NULL,
    owner_id UUID,
    version BIGINT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE,
    done BOOLEAN NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (task_id)
);
CREATE INDEX task_figures_of_owner ON task_figures (owner_id, created_at) INCLUDE (done) WHERE deleted_at IS NULL;
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("DROP TABLE task_figures, speaker_figures, meeting_figures")
