"""What each method of a store does inside one transaction: plain functions on a `Database`, the same for every dialect.

These names are what a dialect needs: it runs work on its own `Database`, one or several works in one transaction.
"""

from __future__ import annotations

from .database import Cursor, Database, Row, Steps, Work, side_by_side

__all__ = ["Cursor", "Database", "Row", "Steps", "Work", "side_by_side"]
