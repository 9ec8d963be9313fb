"""What the tables of the meetings database are made of."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()

Id = sa.Uuid(as_uuid=False)
Time = sa.DateTime(timezone=True)


def now(name: str) -> sa.Column[object]:
    """Return a column that holds the time of the insertion."""
    return sa.Column(name, Time, nullable=False, server_default=sa.func.now())


def text(name: str) -> sa.Column[object]:
    """Return a column of text, empty unless given."""
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def version() -> sa.Column[object]:
    """Return the number that grows with every change."""
    return sa.Column("version", sa.BigInteger, nullable=False, server_default="1")


def cascade(column: str) -> sa.ForeignKey:
    """Return a reference; the row goes with the one it refers to."""
    return sa.ForeignKey(column, ondelete="CASCADE")
