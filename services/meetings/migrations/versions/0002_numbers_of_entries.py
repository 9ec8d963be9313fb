"""Numbers of entries: viewers follow a meeting in the order in which it was stored.

What is there already is numbered by time.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE meetings
    ADD COLUMN newest_entry BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN completed_entry BIGINT,
    ADD COLUMN insights_entry BIGINT;
ALTER TABLE segments ADD COLUMN entry BIGINT DEFAULT 0 NOT NULL;
ALTER TABLE gaps ADD COLUMN entry BIGINT DEFAULT 0 NOT NULL;
"""

NUMBERS = """
CREATE TEMPORARY TABLE numbered ON COMMIT DROP AS
    SELECT *, row_number() OVER (PARTITION BY meeting_id ORDER BY start_s, session_id, kind, place) AS entry
    FROM (
        SELECT meeting_id, session_id, 'gap' AS kind, position AS place, start_s FROM gaps
        UNION ALL SELECT meeting_id, session_id, 'segment', index, start_s FROM segments
    ) AS shown;
UPDATE segments AS s SET entry = n.entry FROM numbered AS n
    WHERE n.kind = 'segment' AND s.session_id = n.session_id AND s.index = n.place;
UPDATE gaps AS g SET entry = n.entry FROM numbered AS n
    WHERE n.kind = 'gap' AND g.session_id = n.session_id AND g.position = n.place;
UPDATE meetings AS m SET newest_entry = n.newest
    FROM (SELECT meeting_id, max(entry) AS newest FROM numbered GROUP BY meeting_id) AS n WHERE m.id = n.meeting_id;
UPDATE meetings SET newest_entry = newest_entry + 1, completed_entry = newest_entry + 1 WHERE status = 'completed';
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(NUMBERS)
    with op.get_context().autocommit_block():
        # Not in a transaction: writers need not wait for these.
        for table in ("segments", "gaps"):
            op.execute(f"DROP INDEX IF EXISTS {table}_of_meeting_by_entry")
            op.execute(f"CREATE INDEX CONCURRENTLY {table}_of_meeting_by_entry ON {table} (meeting_id, entry)")


def downgrade() -> None:
    op.execute("ALTER TABLE meetings DROP newest_entry, DROP completed_entry, DROP insights_entry")
    op.execute("ALTER TABLE segments DROP entry")
    op.execute("ALTER TABLE gaps DROP entry")
