"""An agent whose tool is another agent: each has a session of its own, what they cost is one bill.

A subagent has the id of the call that it answers, so it is the same one when the call runs again after a crash: its
turn goes on, or its reply is there. It belongs to the owner of the session that asked, and `list` leaves it out.
"""

import asyncio
import os

from anthropic import AsyncAnthropic

from sessions import SessionManager, SessionNotFound, Tool, ToolContext, simulator, tool


@tool(idempotent=True)
def weather(city: str) -> str:
    """Today's weather in a city.

    Args:
        city: The name of the city, such as Paris.
    """
    return f"{city}: light rain, {len(city) + 9} degrees"


def research(manager: SessionManager) -> Tool:
    @tool(idempotent=True)
    async def research(city: str, context: ToolContext) -> str:
        """Has a city researched by an agent of its own.

        Args:
            city: The name of the city, such as Paris.
        """
        name = f"research-{context.call_id}"
        try:
            agent = await manager.open(name, tools=[weather])
        except SessionNotFound:
            agent = await manager.create(
                id=name, parent=context.session_id, model="claude-haiku-4-5", max_tokens=1024, tools=[weather]
            )
        context.progress(f"{city} is looked into")
        reply = await agent.send(f"What is the weather in {city}?", idempotency_key=context.call_id)
        return reply.text

    return research


async def main() -> None:
    client = AsyncAnthropic() if os.environ.get("ANTHROPIC_API_KEY") else simulator.client()
    async with SessionManager("sqlite://", client=client) as manager:
        session = await manager.create(
            model="claude-sonnet-5-5",
            max_tokens=2048,
            system="You are a travel desk. Have every city researched before you answer. " * 40,
            tools=[research(manager)],
            owner="ada",
        )
        turn = await session.begin("Please research Paris and Rome.")
        async for event in turn.follow():
            if event.type in ("tool_started", "tool_progress", "tool_result"):
                print(event.type)
        print((await turn.reply()).text)

        for agent in await manager.list(parent=session.id):
            print(f"{agent.owner}'s subagent: {agent.turns} turn, {agent.calls} calls, ${agent.cost}")
        alone, together = await session.cost(), await session.cost(branches=True)
        print(f"The desk itself: {alone.calls} calls, ${alone.total}. Together: {together.calls}, ${together.total}")


if __name__ == "__main__":
    asyncio.run(main())
