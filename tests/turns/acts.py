"""What the tests of a turn share: a model that waits until it is let go, tools that ask, followers that add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from sessions import tool
from sessions.clock import SystemClock
from sessions.following.events import TurnEvent
from sessions.following.view import View
from sessions.simulator import Request
from tests.sessions.world import World


class Held:
    """A model that answers "You said: …", but only when it is let go; `asked` is set when somebody waits for it."""

    def __init__(self, answer: Callable[[Request], Any] | None = None) -> None:
        self.asked, self._go = anyio.Event(), anyio.Event()
        self._answer = answer or (lambda request: f"You said: {request.text}")

    def let_go(self) -> None:
        self._go.set()

    async def __call__(self, request: Request) -> Any:
        self.asked.set()
        await self._go.wait()
        return self._answer(request)


class Acts:
    """Tools that need approval, and note what they did. `approval`: what `needs_approval` is."""

    def __init__(self, approval: Any = True, *, idempotent: bool = False) -> None:
        self.ran: list[Any] = []
        self.pay = tool(self._pay, name="pay", needs_approval=approval, idempotent=idempotent)
        self.look = tool(self._look, name="look")
        self.tools = [self.pay, self.look]

    async def _pay(self, amount: int) -> str:
        """Pays."""
        self.ran.append(amount)
        return f"paid {amount}"

    async def _look(self) -> str:
        """Looks."""
        self.ran.append("look")
        return "looked"


class Follower:
    """Adds up what it is told. `seen`: the events."""

    def __init__(self) -> None:
        self.seen: list[TurnEvent] = []
        self.view = View()
        self.attached = anyio.Event()

    async def follow(self, turn: Any, after: str | None = None) -> None:
        """Follows to the end; no event comes twice, or out of order."""
        last = after or ""
        async for event in turn.follow(after):
            assert event.id > last or event.type in ("snapshot", "restarted"), (event, last)
            last = event.id
            self.seen.append(event)
            self.view.add(event)
            self.attached.set()

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.seen]

    @property
    def text(self) -> str:
        """The text of what there is, the reply under way too."""
        blocks = [block for entry in self.view.entries for block in entry.content]
        blocks += [part.block for part in self.view.snapshot("").blocks]
        return "".join(block.get("text", "") for block in blocks)


def plain(entries: Any) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Entries, to compare them."""
    return [(entry.id, entry.role, entry.content) for entry in entries]


def real(script: Any = None, **given: Any) -> World:
    """A world in which time passes by itself, for what waits until another one has let go."""
    world = World(script, **given)
    world.clock = SystemClock()  # type: ignore[assignment]
    return world
