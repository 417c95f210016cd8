"""Which turns of a conversation never came to their end, as far as this process knows: read once, then kept up."""

from __future__ import annotations

from storage import Store, TurnRecord


class OpenTurns:
    """The open turns of one session: the newest is read when it is first asked for, written rows are noted."""

    def __init__(self, store: Store, session: str) -> None:
        self._store, self._session = store, session
        self._known: list[TurnRecord] | None = None
        self._may_have_older = False

    def forget(self) -> None:
        """Somebody else may have written: the next question is asked of the store."""
        self._known = None

    def note(self, turn: TurnRecord) -> None:
        """A turn's row was written."""
        if self._known is None:
            return
        others = [row for row in self._known if row.id != turn.id]
        if turn.is_open:
            self._known = sorted([*others, turn], key=lambda row: row.sequence)
        elif len(others) < len(self._known):
            self._known = others or None if self._may_have_older else others

    async def newest(self) -> TurnRecord | None:
        """The newest turn that is open."""
        if self._known is None:
            row = await self._store.open_turn(self._session)
            self._known, self._may_have_older = [row] if row else [], row is not None
        return self._known[-1] if self._known else None
