"""The platform on one machine, as local processes: no Docker, no API key."""
