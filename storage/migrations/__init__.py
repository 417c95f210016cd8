"""The schema's history, run by alembic from the installed package; each step expands first and contracts later."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

_one_at_a_time = threading.Lock()  # alembic keeps its context in global variables


def upgrade(url: str, *, schema: str | None = None, **engine_options: Any) -> None:
    """Runs what is missing up to the newest revision, in one transaction; `schema` is created where it is missing."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(url, poolclass=NullPool, **engine_options)
    with _one_at_a_time, engine.connect() as connection:
        config = Config(attributes={"connection": connection, "schema": schema})
        config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
        command.upgrade(config, "head")
        connection.commit()
