"""Keys of calls that create, each with the answer that belongs to it."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE TABLE idempotency_keys (owner_id TEXT NOT NULL, key TEXT NOT NULL, fingerprint BYTEA NOT NULL, "
        "answer BYTEA NOT NULL, expires_at TIMESTAMP WITH TIME ZONE NOT NULL, PRIMARY KEY (owner_id, key))"
    )
    op.execute("CREATE INDEX idempotency_keys_expired ON idempotency_keys (expires_at)")


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_keys")
