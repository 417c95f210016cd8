"""Which code may use which schema: a newer one too, where the database says that code as old as this may."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import SchemaTooNew
from .records import SchemaState
from .tables import OLDEST, REVISION


def state_of(row: Sequence[str] | None) -> SchemaState:
    """What the row of the version table says; before revision 0005 it had one column.

    What it says of another revision than its own does not count: nobody has said anything of this one.
    """
    revision, oldest, of = (*(row or ()), None, None, None)[:3]
    return SchemaState(revision, oldest if of == revision else None)


def check_known(store: str, found: SchemaState) -> None:
    """Raises `SchemaTooNew` for a schema that is newer than what this version may use."""
    if found.revision is not None and is_too_new(found):
        raise SchemaTooNew(store, found.revision)


def is_too_new(found: SchemaState) -> bool:
    """Whether this version does not know it, and the database does not say that it may be used all the same."""
    if found.revision is None or found.revision <= REVISION:
        return False
    return found.oldest is None or found.oldest > REVISION


def is_too_old(found: SchemaState) -> bool:
    """Whether it lacks something that this version needs."""
    return found.revision is None or found.revision < REVISION


def others_go_on(found: SchemaState) -> bool:
    """Whether workers that know no more than this schema may go on when it is brought up to date."""
    return found.revision is not None and found.revision >= OLDEST
