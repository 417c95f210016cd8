"""A process dies before or after each of its commits; another one resumes: nothing lost, nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage import StoreUnavailable, open_store
from tests.crash.test_cancelled_anywhere import Effects, script
from tests.servers import lease_lapses, short_leases, without_gate
from tests.sessions.world import World, create, words


class Dying:
    """A store whose process dies at its n-th commit: before it is written, or right after. Then nothing works."""

    def __init__(self, url: Path | str, at: int, *, after: bool) -> None:
        self.real: Any = open_store(f"sqlite:///{url}" if isinstance(url, Path) else url)
        self._at, self._after = at, after
        self.commits = 0
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        if self.dead and name not in ("open", "close"):
            raise StoreUnavailable("the process is dead")
        return getattr(self.real, name)

    async def commit(self, lease: Any, change: Any) -> None:
        if self.dead:
            raise StoreUnavailable("the process is dead")
        self.commits += 1
        last = self.commits == self._at
        if last and not self._after:
            self.dead = True
        if not self.dead:
            await self.real.commit(lease, change)
        if last:
            self.dead = True
            raise StoreUnavailable("the process died here")


@pytest.mark.parametrize("then", ["resume", "send", "key"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_process_that_dies_at_each_commit(after: bool, then: str, new_place: Callable[[], str]) -> None:
    for at in range(1, 50):
        url = new_place()
        world, effects = World(script, url=url), Effects()
        store = Dying(url, at, after=after)
        async with world.manager(store=store, **without_gate(url)) as manager:
            short_leases(manager, url)
            session = await create(manager, tools=effects.tools, thinking={"type": "adaptive"}, id="fixed")
            try:
                await session.send("go", idempotency_key="k")
            except Exception:
                assert store.dead
        await world.clock.advance(11)
        await lease_lapses(manager)
        async with world.manager(**without_gate(url)) as manager:
            session = await manager.open("fixed", tools=effects.tools)
            stored = bool(session.messages)
            if then == "resume":
                reply = await session.resume()
                assert reply is None or reply.text == "All done."
            elif then == "key":
                assert (await session.send("go", idempotency_key="k")).text == "All done."
            assert (await session.send("next")).text == "All done."
            said = "\n".join(words(session))
            assert said.count("go") == (1 if stored or then == "key" else 0)
            for what in ("once 1", "once 2"):
                assert effects.begun.count(what) <= 1
            for row in await manager.runtime.store.journal("fixed"):
                assert (row.ended is None) == (row.content is None)
            assert len(await session.calls()) >= len([one for one in world.requests if one.ok])
            assert [one.sequence for one in await manager.runtime.store.turns("fixed")] == sorted(
                {one.sequence for one in await manager.runtime.store.turns("fixed")}
            )
        world.check()
        if not store.dead:
            break
    else:
        raise AssertionError("the turn never came through")
    assert at > 4
