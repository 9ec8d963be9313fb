"""What people wrote stands, with what was made beside it; what language models cost each account."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE insights ADD edited TEXT[] DEFAULT '{}' NOT NULL, ADD beside JSONB DEFAULT '{}' NOT NULL, "
        "ADD reason TEXT DEFAULT '' NOT NULL"
    )
    op.execute(
        "CREATE TABLE model_usage (owner_id TEXT NOT NULL, period TEXT NOT NULL, calls BIGINT DEFAULT '0' NOT NULL, "
        "input_tokens BIGINT DEFAULT '0' NOT NULL, output_tokens BIGINT DEFAULT '0' NOT NULL, "
        "updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, PRIMARY KEY (owner_id, period))"
    )


def downgrade() -> None:
    op.execute("DROP TABLE model_usage")
    op.execute("ALTER TABLE insights DROP edited, DROP beside, DROP reason")
