"""What backup and restore can be told: the addresses that the services have, nothing more."""

from __future__ import annotations

from pydantic import Field, SecretStr

from chassis.pool import direct_conninfo
from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of `python -m recovery`."""

    database_url_meetings: SecretStr = Field(description="The meetings database, as its service is told it.")
    database_direct_url_meetings: SecretStr = Field(
        SecretStr(""), description="The meetings database itself, if the other is a PgBouncer in transaction mode."
    )
    database_url_insights: SecretStr = Field(description="The insights database, as its service is told it.")
    database_direct_url_insights: SecretStr = Field(
        SecretStr(""), description="The insights database itself, if the other is a PgBouncer in transaction mode."
    )
    service_auth_key: SecretStr = Field(SecretStr("-" * 32), description="Not used: no service is called.")
    backup_table_s: float = Field(3600.0, gt=0, description="Longest time of reading or writing one table.")
    backup_deadline_s: float = Field(6 * 3600.0, gt=0, description="Longest time of a whole backup or restore.")

    @property
    def databases(self) -> dict[str, str]:
        """How libpq reaches each database itself, by the name of its owner."""
        pairs = {
            "meetings": (self.database_url_meetings, self.database_direct_url_meetings),
            "insights": (self.database_url_insights, self.database_direct_url_insights),
        }
        return {
            name: direct_conninfo(url.get_secret_value(), direct.get_secret_value())
            for name, (url, direct) in pairs.items()
        }

    @property
    def migration_urls(self) -> dict[str, str]:
        """Where the migrations of each database run, by the name of its owner."""
        meetings = self.database_direct_url_meetings.get_secret_value() or self.database_url_meetings.get_secret_value()
        insights = self.database_direct_url_insights.get_secret_value() or self.database_url_insights.get_secret_value()
        return {"meetings": meetings, "insights": insights}
