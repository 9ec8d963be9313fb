"""Requests that a program made up, from the document that the platform gives of itself."""
