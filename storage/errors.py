"""What a store can refuse or fail to do. Each message says who should act, and how.

StorageError
├── SessionMissing    ├── SessionExists   ├── EntryMissing
├── LeaseTaken        ├── LeaseGone       ├── HeadMoved
├── TurnMissing       ├── TurnKeyTaken    ├── DecisionTaken
├── BudgetFull
├── SchemaTooOld      ├── SchemaTooNew
├── StoreDamaged      ├── InvalidValue
└── StoreUnavailable
    ├── StoreNotOpen
    └── ServerAway
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

    from .holders import Holder


class StorageError(Exception):
    """The store could not do what was asked."""


class SessionMissing(StorageError):
    """The store has no such session: check the id; it may have been deleted."""

    def __init__(self, session: str) -> None:
        super().__init__(f"the store has no session {session!r}: check the id; it may have been deleted")
        self.session = session


class SessionExists(StorageError):
    """The id is taken: create the session under another one."""

    def __init__(self, session: str) -> None:
        super().__init__(f"a session {session!r} exists already: choose another id, or open that one")
        self.session = session


class EntryMissing(StorageError):
    """A head or a parent names an entry that the session's tree does not have: nothing was written."""

    def __init__(self, entry: str) -> None:
        super().__init__(f"this session's tree has no entry {entry!r}: take an id from the session's own entries")
        self.entry = entry


class LeaseTaken(StorageError):
    """Another holder has the session: wait until its lease expires or is released, then try again."""

    def __init__(self, session: str, holder: Holder, expires: float) -> None:
        who = f"process {holder.pid} on {holder.host.partition('/')[0]}"
        super().__init__(f"session {session!r} is held by {who}: try again when it has finished or its lease expires")
        self.session = session
        self.holder = holder
        self.expires = expires


class LeaseGone(StorageError):
    """The lease was taken by somebody else: nothing was written; acquire a new one and read the session again."""

    def __init__(self, session: str, token: int) -> None:
        super().__init__(
            f"the lease {token} on session {session!r} is no longer the newest: nothing was written;"
            " acquire a new lease and load the session again"
        )
        self.session = session
        self.token = token


class HeadMoved(StorageError):
    """The conversation has moved on or back: nothing was written; read the session again and decide anew."""

    def __init__(self, expected: str | None, actual: str | None) -> None:
        super().__init__(f"expected head {expected!r}, found {actual!r}: nothing was written; load the session again")
        self.expected = expected
        self.actual = actual


class TurnKeyTaken(StorageError):
    """Another turn of the session has this idempotency key: look that turn up by the key."""

    def __init__(self, session: str, key: str) -> None:
        super().__init__(f"another turn of session {session!r} has the idempotency key {key!r}: look it up by that key")
        self.session = session
        self.key = key


class TurnMissing(StorageError):
    """The session has no such turn, or it is in no state for this: nothing was written; look at the session's turns."""

    def __init__(self, session: str, turn: str, state: str | None = None) -> None:
        if state is None:
            problem = f"session {session!r} has no turn {turn!r}: take an id from the session's own turns"
        else:
            problem = (
                f"turn {turn!r} of session {session!r} is {state}: it neither begins nor waits for a decision;"
                " load the session again"
            )
        super().__init__(problem)
        self.session = session
        self.turn = turn


class DecisionTaken(StorageError):
    """Somebody has decided on this tool call already: nothing was written; look the decision up."""

    def __init__(self, session: str, entry: str, index: int) -> None:
        super().__init__(
            f"tool call {index} of entry {entry!r} in session {session!r} has been decided on already:"
            " nothing was written; load the session again"
        )
        self.session = session
        self.entry = entry
        self.index = index


class BudgetFull(StorageError):
    """A limit leaves no room for the request: nothing was written; ask again when it frees, or raise the limit.

    `scope`: the limit's. `left`: USD. `frees`: when there is room for it (seconds since the epoch) if nothing else is
    spent meanwhile, None where there never is. `is_held`: there would be room now if what is under way costs no more
    than is expected of it.
    """

    def __init__(self, scope: str, left: Decimal, frees: float | None, *, is_held: bool) -> None:
        super().__init__(f"the limit {scope!r} has ${left} left, less than the request may cost: ask again later")
        self.scope = scope
        self.left = left
        self.frees = frees
        self.is_held = is_held


class SchemaTooOld(StorageError):
    """The database has an older schema: run `warmline db upgrade`, then start again."""

    def __init__(
        self, store: str, revision: str | None, command: str = "`warmline db upgrade`", *, others_go_on: bool = False
    ) -> None:
        state = f"has schema {revision}, older than this version needs" if revision else "has no schema yet"
        meanwhile = "; workers of the version before go on meanwhile, so stop them when new ones run"
        super().__init__(f"{store} {state}: run {command}{meanwhile if others_go_on else ''}")
        self.revision = revision


class SchemaTooNew(StorageError):
    """The database was written by a newer version: install that version; nothing was changed."""

    def __init__(self, store: str, revision: str) -> None:
        super().__init__(f"{store} has schema {revision}, which this version does not know: install a newer warmline")
        self.revision = revision


class StoreUnavailable(StorageError):
    """The path or server cannot be used: the message says which, why, and what to do."""


class StoreNotOpen(StoreUnavailable):
    """The store was used before it was opened, or after it was closed: await open() first."""

    def __init__(self, store: str) -> None:
        super().__init__(f"{store} is not open: await open() first")


class ServerAway(StoreUnavailable):
    """The server went away and was not back in time: nothing was written, unless `unknown`; then load and look."""

    def __init__(self, store: str, problem: str, *, unknown: bool = False) -> None:
        written = "whether the last write was kept is not known" if unknown else "nothing was written"
        super().__init__(f"{store} went away ({problem}): {written}; load the session again when the server is back")
        self.problem = problem
        self.unknown = unknown


class InvalidValue(StorageError):
    """A value that cannot be stored, or a limit that is none: the message names it; nothing was written."""


class StoreDamaged(StorageError):
    """The stored data is not as it was written: restore a copy; nothing is ever repaired silently."""
