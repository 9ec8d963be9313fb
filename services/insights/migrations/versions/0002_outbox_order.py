"""The outbox keeps the order of each aggregate and where the broker put each event; what is pruned has an index."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE outbox ADD aggregate TEXT DEFAULT '' NOT NULL, ADD stream_seq BIGINT")
    op.execute("CREATE TABLE streams (name TEXT PRIMARY KEY, created_at TIMESTAMP WITH TIME ZONE NOT NULL)")
    with op.get_context().autocommit_block():
        # Not in a transaction: writers need not wait for these.
        op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS outbox_published ON outbox (published_at)")
        op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS inbox_handled ON inbox (handled_at)")


def downgrade() -> None:
    op.execute("DROP INDEX inbox_handled")
    op.execute("DROP INDEX outbox_published")
    op.execute("DROP TABLE streams")
    op.execute("ALTER TABLE outbox DROP aggregate, DROP stream_seq")
