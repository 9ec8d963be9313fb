"""The tables of accounts: who may come in, with what, and how often it was tried.

What an attacker could use is not in them: passwords, tokens and keys are hashes, addresses and networks are keyed
hashes.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from services.meetings.columns import METADATA, Id, Time, cascade, now, text, version

accounts = sa.Table(
    "accounts", METADATA,
    sa.Column("id", Id, primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("username", sa.Text, nullable=False),
    # Without one, the account is entered with tokens of another issuer only (see `identities`).
    sa.Column("password_hash", sa.Text),
    sa.Column("role", sa.Text, nullable=False, server_default="user"),
    sa.Column("disabled_at", Time),
    version(),
    now("created_at"),
    sa.CheckConstraint("role IN ('user', 'admin')", name="accounts_role"),
    sa.Index("accounts_newest", "created_at", "id"),
)  # fmt: skip
# Two people whose names differ in case only could be taken for each other.
sa.Index("accounts_username", sa.func.lower(accounts.c.username), unique=True)
# An address is a name to log in with. What another issuer says of somebody's address is no such name, and must not
# bring anybody into an account that somebody else opened under it.
sa.Index(
    "accounts_email", accounts.c.email, unique=True, postgresql_where=accounts.c.password_hash.is_not(None)
)  # fmt: skip

# Who an account is to another issuer (OpenID Connect).
identities = sa.Table(
    "identities", METADATA,
    sa.Column("issuer", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("account_id", Id, cascade("accounts.id"), nullable=False),
    now("created_at"),
    sa.Index("identities_of_account", "account_id"),
)  # fmt: skip

# A login lives from the password to the logout; its refresh tokens are its family.
logins = sa.Table(
    "logins", METADATA,
    sa.Column("id", Id, primary_key=True),
    sa.Column("account_id", Id, cascade("accounts.id"), nullable=False),
    now("created_at"),
    now("last_used_at"),
    sa.Column("expires_at", Time, nullable=False),
    sa.Column("revoked_at", Time),
    sa.Index("logins_of_account", "account_id"),
    sa.Index("logins_expiry", "expires_at"),
)  # fmt: skip

refresh_tokens = sa.Table(
    "refresh_tokens", METADATA,
    sa.Column("hash", sa.LargeBinary, primary_key=True),
    sa.Column("family", Id, nullable=False),
    sa.Column("account_id", Id, cascade("accounts.id"), nullable=False),
    sa.Column("expires_at", Time, nullable=False),
    sa.Column("used_at", Time),
    sa.Column("revoked_at", Time),
    now("created_at"),
    sa.Index("refresh_tokens_family", "family"),
    sa.Index("refresh_tokens_account", "account_id"),
)  # fmt: skip

api_keys = sa.Table(
    "api_keys", METADATA,
    sa.Column("id", Id, primary_key=True),
    sa.Column("account_id", Id, cascade("accounts.id"), nullable=False),
    text("name"),
    # Its first characters, by which its owner knows it again.
    text("prefix"),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    now("created_at"),
    sa.Column("expires_at", Time),
    sa.Column("last_used_at", Time),
    sa.Index("api_keys_of_account", "account_id", "created_at", "id"),
)  # fmt: skip

# Tries to log in, register, or guess a password; see guards.py.
tries = sa.Table(
    "tries", METADATA,
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("tried_at", ARRAY(Time), nullable=False, server_default="{}"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("locked_until", Time),
    sa.Column("forget_at", Time, nullable=False),
    sa.Index("tries_forgotten", "forget_at"),
)  # fmt: skip

# Networks from which an account was entered before: a storm of tries from elsewhere does not close them.
known_networks = sa.Table(
    "known_networks", METADATA,
    sa.Column("subject", sa.LargeBinary, primary_key=True),
    sa.Column("network", sa.LargeBinary, primary_key=True),
    now("seen_at"),
    sa.Index("known_networks_seen", "seen_at"),
)  # fmt: skip

# What is good for nothing any more though it has not expired. Kept until it has.
revocations = sa.Table(
    "revocations", METADATA,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("subject", Id, primary_key=True),
    sa.Column("at", Time, nullable=False, server_default=sa.func.clock_timestamp()),
    sa.CheckConstraint("kind IN ('login', 'api_key', 'account')", name="revocations_kind"),
    sa.Index("revocations_at", "at"),
)  # fmt: skip
