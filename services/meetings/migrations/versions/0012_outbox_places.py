"""Where the broker put each event is indexed: what it has lost is found without a look at every row."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Not in a transaction: writers need not wait for it.
        op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS outbox_placed ON outbox (stream_seq)")


def downgrade() -> None:
    op.execute("DROP INDEX outbox_placed")
