"""Webhooks, what is sent to them, and how much audio accounts have used."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE webhooks (
            id UUID PRIMARY KEY,
            owner_id UUID NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
            url TEXT NOT NULL,
            events TEXT[] NOT NULL,
            description TEXT DEFAULT '' NOT NULL,
            enabled BOOLEAN DEFAULT true NOT NULL,
            disabled_reason TEXT DEFAULT '' NOT NULL,
            disabled_at TIMESTAMP WITH TIME ZONE,
            failures INTEGER DEFAULT 0 NOT NULL,
            secret_number INTEGER DEFAULT 1 NOT NULL,
            previous_until TIMESTAMP WITH TIME ZONE,
            version BIGINT DEFAULT 1 NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX webhooks_of_owner ON webhooks (owner_id, created_at, id)")
    op.execute(
        """
        CREATE TABLE webhook_deliveries (
            id UUID PRIMARY KEY,
            webhook_id UUID NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
            owner_id UUID NOT NULL,
            event TEXT NOT NULL,
            meeting_id UUID,
            body BYTEA NOT NULL,
            job_id TEXT NOT NULL,
            attempted_at TIMESTAMP WITH TIME ZONE,
            response_status INTEGER DEFAULT 0 NOT NULL,
            delivered_at TIMESTAMP WITH TIME ZONE,
            dead_at TIMESTAMP WITH TIME ZONE,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX webhook_deliveries_of_webhook ON webhook_deliveries (webhook_id, created_at, id)")
    op.execute(
        "CREATE INDEX webhook_deliveries_of_meeting ON webhook_deliveries (meeting_id) WHERE meeting_id IS NOT NULL"
    )
    op.execute("CREATE INDEX webhook_deliveries_age ON webhook_deliveries (created_at)")
    op.execute(
        """
        CREATE TABLE audio_usage (
            owner_id UUID NOT NULL,
            month DATE NOT NULL,
            audio_s DOUBLE PRECISION DEFAULT 0 NOT NULL,
            PRIMARY KEY (owner_id, month)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE audio_usage")
    op.execute("DROP TABLE webhook_deliveries")
    op.execute("DROP TABLE webhooks")
