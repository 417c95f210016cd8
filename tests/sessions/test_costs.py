"""What calls add up to: the same from the ledger's rows and from the store's own sums."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from sessions import Cost, SessionNotFound
from sessions.core.profiles import profile_for
from sessions.ledger import Loss
from tests.sessions.world import MODEL, World, create, everywhere


@everywhere
async def test_the_stores_sums_are_those_of_the_rows(tmp_path: Path) -> None:
    world = World(url=tmp_path / "s.db")
    unpriced = replace(profile_for(MODEL), price_as=None)
    async with world.manager(tend=False) as manager, world.manager(tend=False, profile=unpriced) as another:
        one, other = await create(manager, owner="ada"), await create(another, owner="ada")
        for words in ("Hello", "More"):
            await one.send(words)
            await other.send(words)
            world.engine.evict()
        await one.prewarm()
        world.check()
        bills = {session.id: await session.cost() for session in (one, other)}
        assert await manager.costs("session") == bills
        assert await manager.costs("model") == {MODEL: bills[one.id] + bills[other.id]}
        assert await manager.costs("agent") == {None: bills[one.id] + bills[other.id]}
        assert await manager.for_owner("ada").costs("agent", until=world.clock.now() - 3600) == {}
        assert await manager.costs("owner") == {"ada": bills[one.id] + bills[other.id]}
        kinds = await manager.costs("kind", session=one.id)
        assert sum(kinds.values(), start=Cost()) == bills[one.id]
        assert {kind: cost.by_kind for kind, cost in kinds.items()} == {
            kind: {kind: price} for kind, price in bills[one.id].by_kind.items()
        }
        assert bills[other.id].unpriced == bills[other.id].calls == 2
        assert (bills[other.id].total, bills[other.id].by_kind) == (Decimal(0), {})


@everywhere
async def test_losses_are_told_by_cause(tmp_path: Path) -> None:
    world = World(url=tmp_path / "s.db")
    async with world.manager(tend=False) as manager:
        session = await create(manager)
        for words in ("Hello", "More", "And more"):
            await session.send(words)
            world.engine.evict()
        misses = [call.miss for call in await session.calls() if call.miss]
        assert len(misses) == 2
        bill = await session.cost()
        assert bill.losses == {
            "evicted": Loss(2, sum(one.tokens for one in misses), sum(one.cost or Decimal(0) for one in misses))
        }
        assert bill.loss == bill.losses["evicted"]
        assert Decimal(0) < bill.loss.cost < bill.total
        assert Cost().loss == Loss()


@everywhere
async def test_what_costs_refuses() -> None:
    async with World().manager() as manager:
        session = await create(manager, owner="ada")
        with pytest.raises(ValueError, match="must be one of session, owner, day, kind, model, agent"):
            await manager.costs("week")
        with pytest.raises(SessionNotFound):
            await manager.costs("day", session=session.id, owner="bob")
        assert await manager.costs("day", session=session.id, owner="ada") == {}
