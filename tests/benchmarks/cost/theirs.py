"""Real peers on the recordings: each builds every request from the history that our sessions had by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any, get_args

import anyio

from sessions import Fixed
from sessions.core.profiles import Profile, Ttl
from sessions.core.usage import Usage
from sessions.importers import RecordedConversation
from sessions.simulator import Engine
from tests.benchmarks.cost.conversations import Asked, Conversation, Listener
from tests.benchmarks.cost.ours import play
from tests.benchmarks.cost.peers.door import Door
from tests.benchmarks.cost.spent import Spent
from tests.benchmarks.cost.traces import recording

PEERS = ("langchain", "pydantic_ai", "litellm", "agno")
TTLS: tuple[Ttl, ...] = get_args(Ttl)


def module(peer: str) -> Any:
    """The peer's adapter. Raises `ImportError` where its library is not installed."""
    return import_module(f"tests.benchmarks.cost.peers.{peer}")


def label(peer: str, ttl: Ttl) -> str:
    """The name of a row."""
    package = module(peer).PACKAGE
    return f"{package} {version(package)}, {ttl}"


@dataclass(frozen=True, slots=True)
class Answered:
    """What each of a peer's requests was charged, in order, and what went wrong."""

    usages: tuple[Usage, ...]
    problems: tuple[str, ...]

    @property
    def spent(self) -> Spent:
        """All of it."""
        usage = sum(self.usages, start=Usage())
        return Spent(usage, usage.total_input, len(self.usages), problems=self.problems)


def run(user: str, names: Sequence[str]) -> dict[str, Spent]:
    """Every peer with both lifetimes on some recordings."""
    answered = on_recordings([recording(name) for name in names], user)
    return {name: one.spent for name, one in answered.items()}


def on_recordings(
    recorded: Sequence[Sequence[RecordedConversation]], user: str, profile: Profile | None = None
) -> dict[str, Answered]:
    """Our sessions are played once, to have the requests; then every peer is asked the same."""
    listener = Listener()
    more = {"profile": profile} if profile else {}
    play(recorded, 0.1, user, listener, ttl=Fixed("5m"), tend=False, **more)
    return on_requests(listener.asked, profile)


def on_requests(asked: Sequence[tuple[Conversation, Asked]], profile: Profile | None = None) -> dict[str, Answered]:
    """Every peer with both lifetimes on the requests that our sessions sent, in their order."""
    return {label(peer, ttl): anyio.run(_replay, peer, ttl, asked, profile) for peer in PEERS for ttl in TTLS}


async def _replay(
    peer: str, ttl: Ttl, asked: Sequence[tuple[Conversation, Asked]], profile: Profile | None
) -> Answered:
    engine = Engine(lambda _: "Yes.", profile=profile, keep=8)
    door, made = Door(engine), dict[int, Any]()
    usages: list[Usage] = []
    problems: list[str] = []
    for conversation, one in asked:
        client = made.get(id(conversation)) or module(peer).Peer(conversation, ttl, door)
        made[id(conversation)] = client
        door.hands.at, before = one.at, engine.bill().charged
        try:
            await client.ask(conversation.messages[: one.count])
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}"[:300])
            continue
        usage = engine.requests[-1].usage
        if engine.bill().charged != before + 1 or usage is None:
            problems.append(f"{engine.bill().charged - before} requests were charged instead of one")
            continue
        usages.append(usage)
    return Answered(tuple(usages), tuple(problems))
