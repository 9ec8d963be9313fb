"""Mutation tests of the code that stands between a fault and a person."""
