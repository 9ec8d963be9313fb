"""How Alembic runs: on the connection that chassis.postgres.migrate holds, one transaction per migration."""

import sqlalchemy as sa
from alembic import context

from services.insights.store import METADATA

connection = context.config.attributes["connection"]
# A table is busy in production: rather fail and be run again than make everybody queue behind us.
connection.execute(sa.text("SET lock_timeout = '5s'"))
connection.commit()
context.configure(connection=connection, target_metadata=METADATA, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
