"""A tool-using turn: two functions become tools, Claude calls them, and every step is shown as it is made."""

import asyncio
import os

from anthropic import AsyncAnthropic

from sessions import SessionManager, simulator, tool


@tool(idempotent=True)
async def weather(city: str) -> str:
    """Today's weather in a city.

    Args:
        city: The name of the city, such as Paris.
    """
    await asyncio.sleep(0.05)
    return f"{city}: light rain, {len(city) + 9} degrees"


@tool(timeout=5.0)
def reserve(city: str) -> str:
    """Reserves one seat on today's train to a city.

    Args:
        city: Where the train goes, such as Rome.
    """
    return f"Reserved one seat to {city}."


async def main() -> None:
    client = AsyncAnthropic() if os.environ.get("ANTHROPIC_API_KEY") else simulator.client()
    async with SessionManager("sqlite://", client=client) as manager:
        session = await manager.create(
            model="claude-sonnet-5-5",
            max_tokens=2048,
            system="You are a travel desk. Look things up with your tools. " * 40,
            tools=[weather, reserve],
        )
        async for step in session.run("What is the weather in Paris and in Rome?"):
            for block in step.content:
                print(
                    f"{step.kind:13}", block.get("text") or block.get("input") or block.get("content") or block["type"]
                )
        reply = await session.send("Please reserve a seat to the warmer one, Paris.")
        print(reply.text)
        for call in await session.calls():
            print(f"  {call.kind}: read {call.usage.cache_read}, written {call.usage.cache_write}, {call.status}")


if __name__ == "__main__":
    asyncio.run(main())
