"""What the demo's processes have in common: where everything is, and what a worker is told and prints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from pydantic import TypeAdapter

from sessions import Fixed, SessionManager
from sessions.cli.demo.bill import Recorder
from sessions.core.profiles import profile_for
from sessions.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is told: where everything is, and the words to send (`None`: resume what was interrupted).

    `slow`: seconds that the slow tool takes. `base_url` is `None` for the real API.
    """

    directory: Path
    model: str
    base_url: str | None
    session: str = ""
    words: str | None = None
    slow: float = 0.0

    @property
    def store(self) -> str:
        return f"sqlite:///{self.directory / 'demo.db'}"

    @property
    def bookings(self) -> Path:
        return self.directory / "bookings.txt"

    @property
    def recorder(self) -> Recorder:
        return Recorder(self.directory / "requests.jsonl")

    def client(self) -> AsyncAnthropic:
        """The SDK's client, its requests recorded for the bill."""
        http = DefaultAsyncHttpxClient(event_hooks=self.recorder.hooks())
        if self.base_url is None:
            return AsyncAnthropic(http_client=http)
        return AsyncAnthropic(http_client=http, base_url=self.base_url, api_key="simulated")

    @asynccontextmanager
    async def manager(self) -> AsyncIterator[SessionManager]:
        """A manager on the demo's database; the simulator's address must not be taken for a stranger's."""
        profile = profile_for(self.model)
        async with (
            self.client() as client,
            SessionManager(self.store, client=client, profile=profile, ttl=Fixed("5m")) as manager,
        ):
            yield manager

    def with_words(self, session: str, words: str | None, slow: float = 0.0) -> Job:
        """The same place, another task."""
        return replace(self, session=session, words=words, slow=slow)


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker prints: the reply's text and the usage of the call that made it."""

    text: str
    usage: Usage


JOB = TypeAdapter(Job)
DONE = TypeAdapter(Done)
