"""The store on a PostgreSQL server, for many machines; needs psycopg."""

from __future__ import annotations

from .database import PostgreSQLDatabase
from .dialect import PostgreSQL

__all__ = ["PostgreSQL", "PostgreSQLDatabase"]
