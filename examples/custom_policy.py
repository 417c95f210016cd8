"""A policy of your own: a help desk that knows when its users are at work, and decides the rest by expected cost."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sessions import Clock, ExpectedCost, Option, Outlook, SessionManager, simulator
from sessions.testing import ManualClock


@dataclass(frozen=True)
class OfficeHours:
    """Nothing is kept warm overnight: who has gone home does not write within the hour."""

    clock: Clock
    opens: int = 8
    closes: int = 18
    otherwise: ExpectedCost = field(default_factory=ExpectedCost)

    def choose(self, outlook: Outlook) -> Option:
        hour = datetime.fromtimestamp(self.clock.now(), UTC).hour
        if not self.opens <= hour < self.closes:
            return outlook.options[0]  # "5m" when writing, "lapse" when idle
        return self.otherwise.choose(outlook)


async def ask_at(hour: int) -> None:
    """One question at that hour, and an hour of silence."""
    clock = ManualClock(datetime(2026, 11, 25, hour, tzinfo=UTC).timestamp())
    client = simulator.client(clock=clock)
    async with SessionManager("sqlite://", client=client, clock=clock, ttl=OfficeHours(clock)) as manager:
        desk = await manager.create(model="claude-opus-5", max_tokens=500, system=simulator.filler(3000))
        await desk.send("Why does the printer blink?")
        await clock.advance(3600)
        kinds = [call.kind for call in await desk.calls()]
        print(f"asked at {hour}:00: {', '.join(kinds)}; ${(await desk.cost()).total:.5f}")


async def main() -> None:
    await ask_at(10)
    await ask_at(22)


asyncio.run(main())
