"""Whose turn it is, and whether the database and the backends agree."""
