"""What an account leaves behind besides meetings and tasks: uploads, jobs, kept answers, what it has used."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.postgres import Database
from services.meetings.store import idempotency_keys
from services.meetings.upload_tables import job_rows, uploads
from services.meetings.webhook_tables import audio_usage, deliveries


class RemainsStore:
    """Deletes it. What has a reference to the account (logins, keys, webhooks) has gone with its row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete_all(self, owner_id: str) -> None:
        """Delete all of it, in one transaction; safe to repeat. Raises AppError.

        A job that is under way has no effect any more; files whose upload is gone are removed by the janitor.
        """

        async def work(connection: AsyncConnection) -> None:
            for table in (deliveries, uploads, job_rows, idempotency_keys, audio_usage):
                # Some write ids as text.
                owner = sa.literal(owner_id, table.c.owner_id.type)
                await connection.execute(table.delete().where(table.c.owner_id == owner))

        await self._database.run("delete remains", work)
