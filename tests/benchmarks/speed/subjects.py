"""What is measured: each library behind the same six verbs, used as its own documentation says. Ours is here.

No side makes an HTTP body in `turn`, so that what is compared is the session's work; `through_sdk` is our turn through
the real SDK and an in-process transport. A message has 1 kB of text, a turn is a user's message and a reply.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from sessions import SessionManager
from sessions.core.incoming import Incoming
from storage import open_store
from tests.benchmarks.send import _EVENTS, MODEL, Instant, client, history

WORDS, ANSWER = "y" * 1000, "r" * 1000


class Subject:
    """One library with one store. `place`: a folder of its own (SQLite) or the URL of an empty database."""

    name: ClassVar[str]
    whole_turns: ClassVar[bool] = True
    parallel: ClassVar[bool] = False
    """Whether it is measured with many conversations at once."""
    loads: ClassVar[bool] = True

    def __init__(self, place: str | Path) -> None:
        self.place = place

    @property
    def file(self) -> Path:
        """The database file."""
        return Path(self.place) / "sessions.db"

    @property
    def sqlalchemy_url(self) -> str:
        """The place for SQLAlchemy's asyncio engine."""
        if isinstance(self.place, Path):
            return f"sqlite+aiosqlite:///{self.file}"
        return self.place.replace("postgresql://", "postgresql+asyncpg://", 1)

    async def start(self) -> None:
        """Connects and creates the tables."""

    async def stop(self) -> None:
        """Disconnects."""

    async def begin(self, count: int) -> Any:
        """A conversation that holds this many messages."""
        raise NotImplementedError

    async def turn(self, talk: Any) -> None:
        """One whole turn with a model that answers at once."""
        raise NotImplementedError

    async def append(self, talk: Any) -> None:
        """Stores a user's message and a reply, without any model."""
        raise NotImplementedError

    async def load(self, talk: Any) -> int:
        """Reads the conversation as another process would; how many messages there are."""
        raise NotImplementedError

    def bytes_on_disk(self) -> int:
        """The size of the database file with its log."""
        folder = Path(self.place)
        return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


class NoBody:
    """A way to the Messages API that answers at once with values, as the others' models do: nothing is encoded."""

    base_url = "http://nobody/"

    @asynccontextmanager
    async def stream(
        self, body: Mapping[str, Any], incoming: Incoming, *, typed: bool = False
    ) -> AsyncIterator[AsyncIterator[Any]]:
        yield self._events(incoming)

    async def _events(self, incoming: Incoming) -> AsyncIterator[Any]:
        for event in _EVENTS:
            incoming.feed(event)
            yield event

    async def send(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        raise NotImplementedError("no zero-token request is measured")


class Warmline(Subject):
    name = "warmline"
    parallel = True
    options: ClassVar[dict[str, Any]] = {}

    def _client(self) -> Any:
        return NoBody()

    def _url(self) -> str:
        return f"sqlite:///{self.file}" if isinstance(self.place, Path) else self.place

    async def start(self) -> None:
        store = open_store(self._url())
        await store.upgrade()
        self.manager = SessionManager(store, client=self._client(), tend=False, **self.options)
        await self.manager.__aenter__()

    async def stop(self) -> None:
        await self.manager.__aexit__(None, None, None)

    async def begin(self, count: int) -> Any:
        session = await self.manager.create(model=MODEL, max_tokens=1000, system="You are terse.")
        if count:
            await session.append(history(count))
        return session

    async def turn(self, talk: Any) -> None:
        await talk.send(WORDS)

    async def append(self, talk: Any) -> None:
        await talk.append([{"role": "user", "content": WORDS}, {"role": "assistant", "content": ANSWER}])

    async def load(self, talk: Any) -> int:
        return len((await self.manager.open(talk.id)).messages)


class WarmlineSdk(Warmline):
    name = "warmline, through the SDK"
    parallel = False
    loads = False

    def _client(self) -> Any:
        return client(Instant())
