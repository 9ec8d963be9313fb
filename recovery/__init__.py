"""Backup and restore of everything that the platform must not lose: both databases and the broker's streams."""
