"""A process dies in the middle of a tool call; this one opens the session and finishes the turn, nothing runs twice."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from anthropic import AsyncAnthropic

from sessions import SessionManager, Tool, simulator, tool


def tools(directory: Path, *, dies: bool) -> list[Tool]:
    @tool
    def reserve(city: str) -> str:
        """Reserves one seat on today's train to a city.

        Args:
            city: Where the train goes, such as Rome.
        """
        with (directory / "bookings.txt").open("a") as file:
            file.write(f"{city}\n")
        return f"Reserved one seat to {city}."

    @tool(idempotent=True)
    async def weather(city: str) -> str:
        """Today's weather in a city.

        Args:
            city: The name of the city, such as Paris.
        """
        if dies:
            await asyncio.sleep(0.5)  # time for the other tool to finish
            os._exit(9)
        return f"{city}: sunny, 24 degrees"

    return [reserve, weather]


async def main(directory: Path, session_id: str | None) -> None:
    client = AsyncAnthropic() if os.environ.get("ANTHROPIC_API_KEY") else simulator.client()
    async with SessionManager(f"sqlite:///{directory / 'chat.db'}", client=client) as manager:
        if session_id:  # the process that dies
            session = await manager.open(session_id, tools=tools(directory, dies=True))
            await session.send("Please reserve a seat to Rome and tell me the weather in Rome.")
        session = await manager.create(model="claude-sonnet-5-5", max_tokens=2048, tools=tools(directory, dies=False))
        died = await asyncio.create_subprocess_exec(sys.executable, __file__, str(directory), session.id)
        await died.wait()
        session = await manager.open(session.id, tools=tools(directory, dies=False))
        reply = await session.resume()
        print(f"The worker ended with {died.returncode}. Resumed: {reply.text if reply else 'nothing to do'}")
        print(f"Reservations: {len((directory / 'bookings.txt').read_text().splitlines())}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as place:
            asyncio.run(main(Path(place), None))
