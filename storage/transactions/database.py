"""A database inside a transaction, as the work of a store sees it, and the two kinds of work there are."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from .statements import Statement

T = TypeVar("T")
Row = tuple[Any, ...]


class Cursor(Protocol):
    """What a driver's cursor must offer."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement has changed."""
        ...

    def __iter__(self) -> Iterator[Row]: ...
    def fetchone(self) -> Row | None: ...
    def fetchall(self) -> list[Row]: ...


class Database(Protocol):
    """A connection inside a transaction."""

    @property
    def again(self) -> bool:
        """Whether an earlier run of this transaction may have been committed, so that its work may be done already."""

    def run(self, statement: Statement, values: Mapping[str, Any]) -> Cursor:
        """Asks; on a server the answer is waited for by whoever looks at it. Raises `InvalidValue`."""
        ...

    def time(self, now: float) -> float:
        """The time that leases go by: `now`, or the server's own."""

    def ask_time(self, now: float) -> Callable[[], float]:
        """As `time`, read at this point among the statements, and waited for by whoever calls what it gives."""

    def tell(self, name: str) -> None:
        """With the commit, whoever watches that name hears that there is news."""

    def forget(self) -> None:
        """With the commit, what was deleted is no longer to be read in any file of the database."""


Steps: TypeAlias = Generator[None, None, T]
Work: TypeAlias = Callable[[Database], Steps[T]]
"""Work on one session, which locks no other: it asks, yields before it looks at the answers, and writes then."""


def side_by_side(works: Sequence[Work[T]], db: Database) -> list[T]:
    """Does them all in one transaction; on a server, the questions of all of them are one round trip."""
    steps = [work(db) for work in works]
    for questions in steps:
        next(questions)
    return [_end(answers) for answers in steps]


def _end(steps: Steps[T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
