"""Logins, API keys, identities of other issuers, tries, revocations.

A family of refresh tokens that is there already becomes a login.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE accounts
    ADD COLUMN disabled_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN version BIGINT DEFAULT '1' NOT NULL,
    ALTER COLUMN password_hash DROP NOT NULL;
CREATE TABLE identities (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    account_id UUID NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (issuer, subject),
    FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
CREATE INDEX identities_of_account ON identities (account_id);
CREATE TABLE logins (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    last_used_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    revoked_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
CREATE INDEX logins_of_account ON logins (account_id);
CREATE INDEX logins_expiry ON logins (expires_at);
CREATE TABLE api_keys (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    prefix TEXT DEFAULT '' NOT NULL,
    hash BYTEA NOT NULL,
    scopes TEXT[] NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    last_used_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE,
    UNIQUE (hash)
);
CREATE INDEX api_keys_of_account ON api_keys (account_id, created_at, id);
CREATE TABLE tries (
    key BYTEA NOT NULL,
    tried_at TIMESTAMP WITH TIME ZONE[] DEFAULT '{}' NOT NULL,
    failures INTEGER DEFAULT '0' NOT NULL,
    locked_until TIMESTAMP WITH TIME ZONE,
    forget_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (key)
);
CREATE INDEX tries_forgotten ON tries (forget_at);
CREATE TABLE known_networks (
    subject BYTEA NOT NULL,
    network BYTEA NOT NULL,
    seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (subject, network)
);
CREATE INDEX known_networks_seen ON known_networks (seen_at);
CREATE TABLE revocations (
    kind TEXT NOT NULL,
    subject UUID NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    PRIMARY KEY (kind, subject),
    CONSTRAINT revocations_kind CHECK (kind IN ('login', 'api_key', 'account'))
);
CREATE INDEX revocations_at ON revocations (at);
"""

LOGINS = """
INSERT INTO logins (id, account_id, created_at, last_used_at, expires_at, revoked_at)
SELECT family, (array_agg(account_id))[1], min(created_at), max(created_at), max(expires_at), max(revoked_at)
FROM refresh_tokens GROUP BY family;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(LOGINS)
    with op.get_context().autocommit_block():
        # Not in a transaction: writers need not wait for these.
        op.execute("DROP INDEX IF EXISTS accounts_email")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY accounts_email ON accounts (email) WHERE password_hash IS NOT NULL"
        )
        op.execute("DROP INDEX IF EXISTS accounts_newest")
        op.execute("CREATE INDEX CONCURRENTLY accounts_newest ON accounts (created_at, id)")
    op.execute("ALTER TABLE accounts DROP CONSTRAINT accounts_email_key")


def downgrade() -> None:
    # The code before this migration knows no account without a password, and no two of one address.
    op.execute("DELETE FROM accounts WHERE password_hash IS NULL")
    op.execute("ALTER TABLE accounts ADD CONSTRAINT accounts_email_key UNIQUE (email)")
    op.execute("DROP INDEX accounts_email, accounts_newest")
    op.execute("ALTER TABLE accounts DROP disabled_at, DROP version, ALTER COLUMN password_hash SET NOT NULL")
    op.execute("DROP TABLE identities, logins, api_keys, tries, known_networks, revocations")
