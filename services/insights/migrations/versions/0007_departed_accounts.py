"""Accounts that are no more: what they spent counts on, for nobody."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE TABLE departed (owner_id TEXT PRIMARY KEY, at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL)")


def downgrade() -> None:
    op.execute("DROP TABLE departed")
