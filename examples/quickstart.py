"""A conversation that outlives its program: two turns, then the same session opened again and asked once more."""

import asyncio
import os

from anthropic import AsyncAnthropic

from sessions import SessionManager, Usage, simulator


def figures(usage: Usage) -> str:
    return f"  read {usage.cache_read}, written {usage.cache_write}, uncached {usage.input} tokens"


async def main() -> None:
    client = AsyncAnthropic() if os.environ.get("ANTHROPIC_API_KEY") else simulator.client()
    async with SessionManager("sqlite://", client=client) as manager:
        session = await manager.create(
            model="claude-sonnet-5-5",
            max_tokens=1024,
            system="You are a patient teacher of astronomy. " * 60,  # long enough to be cached
            title="A first conversation",
        )
        reply = await session.send("Why is the sky dark at night?")
        print(reply.text)
        print(figures(reply.usage))

        again = await manager.open(session.id)
        async with again.stream("And why is it blue by day?") as stream:
            async for text in stream.text_stream:
                print(text, end="", flush=True)
            reply = await stream.get_final_reply()
        print(f"\n{figures(reply.usage)}")
        print(f"  this turn cost ${reply.cost}, the session ${(await again.cost()).total}")


if __name__ == "__main__":
    asyncio.run(main())
