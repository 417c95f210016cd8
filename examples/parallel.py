"""Eight branches of one conversation, sent together: the shared history is written to the cache once, then read."""

import asyncio
import os

from anthropic import AsyncAnthropic

from sessions import SessionManager, simulator

CITIES = ("Paris", "Rome", "Vienna", "Oslo", "Lisbon", "Prague", "Madrid", "Athens")


async def main() -> None:
    client = AsyncAnthropic() if os.environ.get("ANTHROPIC_API_KEY") else simulator.client()
    async with SessionManager("sqlite://", client=client) as manager:
        session = await manager.create(
            model="claude-sonnet-5-5",
            max_tokens=1024,
            system="You write one-sentence travel notes. " * 80,
        )
        await session.send("I have a week in May, and I like museums and the sea.")
        replies = await session.map([f"Would {city} suit me?" for city in CITIES])
        for city, reply in zip(CITIES, replies, strict=True):
            print(f"{city:8} read {reply.usage.cache_read:5}  written {reply.usage.cache_write:4}  {reply.text[:60]}")
        best = replies[3].session  # each reply has its own branch, and any of them can go on
        print((await best.send("Then let us plan it.")).text)
        print(f"The first session has not moved: {len(session.entries)} entries.")


if __name__ == "__main__":
    asyncio.run(main())
