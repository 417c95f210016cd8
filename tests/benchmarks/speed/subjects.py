"""What is measured: each library behind the same six verbs, used as its own documentation says. Ours is here.

No side makes an HTTP body in `turn`, so that what is compared is the session's work; `through_sdk` is our turn through
the real SDK and an in-process transport. A message has 1 kB of text, a turn is a user's message and a reply.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import anthropic
from anthropic._models import construct_type

from sessions import SessionManager
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


class Ready:
    """A stream of events that are there already, shaped as the SDK's: the others' models answer with values too."""

    def __init__(self) -> None:
        self.response = self
        self.headers: dict[str, str] = {}
        self._decoder = self

    async def aiter_bytes(self, events: Any) -> Any:
        for one in events:
            yield one

    def _iter_events(self) -> Any:
        return self._decoder.aiter_bytes(_RAW)

    @functools.cached_property
    def _iterator(self) -> Any:
        return self._typed()

    async def _typed(self) -> Any:
        at = 0
        async for _ in self._iter_events():
            yield _TYPED[at]
            at += 1

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        return await self._iterator.__anext__()

    async def close(self) -> None:
        pass


_RAW = [SimpleNamespace(data=json.dumps(one)) for one in _EVENTS]
_TYPED = [construct_type(type_=anthropic.types.RawMessageStreamEvent, value=one) for one in _EVENTS]


class NoBody:
    """A client whose `messages.create` answers at once: no request body is made, no response is parsed."""

    base_url = "http://nobody/"

    def __init__(self) -> None:
        self.messages = self

    async def create(self, **_: Any) -> Ready:
        return Ready()


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
