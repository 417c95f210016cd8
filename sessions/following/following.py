"""The turns that this process runs, and those of other workers that somebody here follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from sessions.background import Background
from sessions.clock import Clock
from sessions.following.channel import Channel
from sessions.following.reader import Reader
from sessions.following.relay import Place, Relay
from storage import Store


class Following:
    """The channels of one manager, by session and turn.

    `look` renews the lease of a session, which tells what others want of its turn.
    """

    def __init__(
        self, store: Store, clock: Clock, background: Background, look: Callable[[str], Awaitable[None]]
    ) -> None:
        self._own: dict[Place, Channel] = {}
        self._known: WeakValueDictionary[Place, Channel] = WeakValueDictionary()
        self._relay = Relay(store, clock, background, self._own, look, self.gone)
        self._reader = Reader(store, clock, background, self._own.__contains__)

    def own(self, session: str, turn: str) -> Channel | None:
        """The channel of a turn that runs, or is queued, in this process."""
        channel = self._own.get((session, turn))
        return None if channel is None or channel.is_over else channel

    def channel(self, session: str, turn: str, owner: str | None) -> Channel:
        """The same: the turn, of a session of this owner's, is this process's from now on."""
        channel = self.known(session, turn)
        channel.owner = owner
        if (session, turn) not in self._own:
            self._own[session, turn] = channel
            # Who followed it elsewhere looks anew, and finds this channel.
            self._reader.leave((session, turn))
            self._relay.begun()
        return channel

    def known(self, session: str, turn: str) -> Channel:
        """The channel that the turn has whenever it runs in this process, for who holds on to it."""
        channel = self._known.get((session, turn))
        if channel is None:
            channel = self._known[session, turn] = Channel(session, turn)
        return channel

    def has_queued(self, session: str) -> bool:
        """Whether a turn of this session is queued in this process."""
        return any(
            channel.session == session and channel.row is not None and channel.row.state == "queued"
            for channel in self._own.values()
        )

    def elsewhere(self, session: str, turn: str) -> Channel:
        """The channel of a turn that another worker runs: it is read from the store while somebody follows."""
        return self._reader.channel((session, turn))

    def ask(self, session: str, turn: str) -> None:
        """Whoever runs that turn, which is followed here, is to look now what others want of it."""
        self._reader.ask((session, turn))

    def gone(self, channel: Channel) -> None:
        """The turn is this process's no longer."""
        channel.leave()
        self._own.pop((channel.session, channel.turn), None)
        self._relay.ended(channel)

    async def close(self) -> None:
        """The manager ends: what is left is passed on, and nobody here follows any more."""
        await self._relay.close()
        await self._reader.close()
