"""Recordings as people and attackers send them, made here: no file of anybody else is needed."""
