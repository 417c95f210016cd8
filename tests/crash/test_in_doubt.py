"""Tool calls that were running when the process died: told to the model, run again or raised; results are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from sessions import InDoubtToolCalls, Session, tool
from sessions.simulator import Request
from storage import StoreUnavailable
from tests.crash.test_killed_anywhere import Dying
from tests.servers import lease_lapses, short_leases, without_gate
from tests.sessions.world import World, call, create, results


class Acts:
    """A quick tool, and two that the process dies in."""

    def __init__(self, store: Dying | None = None) -> None:
        self.ran: list[str] = []
        self._store = store
        self.tools = [
            tool(self._quick, name="quick"),
            tool(self._pay, name="pay"),
            tool(self._read, name="read", idempotent=True),
        ]

    async def _quick(self) -> str:
        """Done before the process dies."""
        self.ran.append("quick")
        return "quick result"

    async def _pay(self) -> str:
        """Not to be done twice."""
        return await self._slow("pay")

    async def _read(self) -> str:
        """May be done twice."""
        return await self._slow("read")

    async def _slow(self, name: str) -> str:
        self.ran.append(name)
        if self._store is not None:
            while not any(row.ended for row in await self._store.real.journal("fixed")):
                await anyio.sleep(0.001)
            self._store.dead = True
            raise StoreUnavailable("the process died here")
        return f"{name} result"


def script(request: Request) -> Any:
    """One round of three calls."""
    return "All done." if request.results else [call("pay"), call("quick"), call("read")]


async def _dead(url: str) -> World:
    """A process that died while `pay` and `read` were running."""
    world = World(script, url=url)
    store = Dying(url, 1000, after=False)
    acts = Acts(store)
    async with world.manager(store=store, **without_gate(url)) as manager:
        short_leases(manager, url)
        session = await create(manager, id="fixed", tools=acts.tools)
        with pytest.raises(Exception, match="dead"):
            await session.send("go")
    assert sorted(acts.ran) == ["pay", "quick", "read"]
    await world.clock.advance(11)
    await lease_lapses(manager)
    return world


def _told(session: Session) -> list[str]:
    return [one["content"] for one in results(session.messages[2])]


async def test_report_tells_the_model_and_runs_only_what_is_harmless(new_place: Callable[[], str]) -> None:
    world, acts = await _dead(new_place()), Acts()
    async with world.manager(**without_gate(world.url)) as manager:
        session = await manager.open("fixed", tools=acts.tools)
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "All done."
        assert acts.ran == ["read"]
        assert _told(session) == ["interrupted; it may or may not have taken effect", "quick result", "read result"]
    world.check()


async def test_rerun_runs_all_that_is_in_doubt_and_nothing_that_is_finished(new_place: Callable[[], str]) -> None:
    world, acts = await _dead(new_place()), Acts()
    async with world.manager(**without_gate(world.url)) as manager:
        session = await manager.open("fixed", tools=acts.tools)
        await session.resume(in_doubt="rerun")
        assert sorted(acts.ran) == ["pay", "read"]
        assert _told(session) == ["pay result", "quick result", "read result"]
    world.check()


async def test_raise_names_the_calls_and_changes_nothing(new_place: Callable[[], str]) -> None:
    world, acts = await _dead(new_place()), Acts()
    async with world.manager(**without_gate(world.url)) as manager:
        session = await manager.open("fixed", tools=acts.tools)
        for _ in range(2):
            with pytest.raises(InDoubtToolCalls, match="pay") as caught:
                await session.resume(in_doubt="raise")
            assert [name for name, _ in caught.value.calls] == ["pay"]
        assert acts.ran == []
        assert (await session.resume(in_doubt="report")) is not None
    world.check()


async def test_new_words_close_what_is_open_truthfully(new_place: Callable[[], str]) -> None:
    world, acts = await _dead(new_place()), Acts()
    async with world.manager(**without_gate(world.url)) as manager:
        session = await manager.open("fixed", tools=acts.tools)
        await session.send("what happened?")
        doubt = "interrupted; it may or may not have taken effect"
        assert _told(session) == [doubt, "quick result", doubt]
        assert acts.ran == []
        assert session.messages[2]["content"][-1]["text"] == "what happened?"
    world.check()
