"""Jobs have an urgency, may expire, show that their worker is alive, and know their dead letter."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE jobs ADD urgency TEXT DEFAULT 'normal' NOT NULL, ADD expires_at TIMESTAMP WITH TIME ZONE, "
        "ADD beat_at TIMESTAMP WITH TIME ZONE, ADD letter_id TEXT"
    )
    with op.get_context().autocommit_block():
        # Not in a transaction: writers need not wait for it.
        op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_by_status ON jobs (kind, status, updated_at)")


def downgrade() -> None:
    op.execute("DROP INDEX jobs_by_status")
    op.execute("ALTER TABLE jobs DROP urgency, DROP expires_at, DROP beat_at, DROP letter_id")
