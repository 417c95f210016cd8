"""The agent as a part of a longer job: DBOS knows which steps of the job are done, the session what happened in each.

The job plans a trip in two turns and then writes the bill. Its process dies inside a tool; another one starts, and
DBOS takes the job up at the step that had not finished. That step sends the same words with the same idempotency key:
its turn goes on where it was, so nothing is asked or reserved twice. Needs `pip install dbos`; both keep what they know
in SQLite.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from anthropic import AsyncAnthropic
from dbos import DBOS, DBOSConfig, SetWorkflowID

from sessions import SessionManager, Tool, simulator, tool

PLACE = Path(*sys.argv[1:2])
TRIP = "trip-to-rome"


def tools() -> list[Tool]:
    @tool
    def reserve(city: str) -> str:
        """Reserves one seat on today's train to a city.

        Args:
            city: Where the train goes, such as Rome.
        """
        with (PLACE / "bookings.txt").open("a") as file:
            file.write(f"{city}\n")
        return f"Reserved one seat to {city}."

    @tool(idempotent=True)
    async def weather(city: str) -> str:
        """Today's weather in a city.

        Args:
            city: The name of the city, such as Paris.
        """
        await asyncio.sleep(0.2)  # the other tool is faster
        if "dies" in sys.argv and (PLACE / "bookings.txt").exists():
            os._exit(9)
        return f"{city}: sunny, 24 degrees"

    return [reserve, weather]


@DBOS.step()
async def turn(session_id: str, words: str) -> str:
    """One turn of the agent. DBOS runs a step again if its process died in it; the key makes that the same turn."""
    client = AsyncAnthropic() if os.environ.get("ANTHROPIC_API_KEY") else simulator.client()
    async with SessionManager(f"sqlite:///{PLACE / 'chat.db'}", client=client) as manager:
        if session_id not in [info.id for info in await manager.list()]:
            await manager.create(model="claude-sonnet-5-5", max_tokens=2048, tools=tools(), id=session_id)
        session = await manager.open(session_id, tools=tools())
        reply = await session.send(words, idempotency_key=f"{DBOS.workflow_id} {DBOS.step_id}")
        return reply.text


@DBOS.step()
async def write_bill(session_id: str) -> str:
    """A step that is no turn."""
    async with SessionManager(f"sqlite:///{PLACE / 'chat.db'}") as manager:
        session = await manager.open(session_id)
        return f"{len(session.entries)} entries, {len(await session.calls())} calls"


@DBOS.workflow()
async def plan_a_trip(city: str) -> str:
    """The whole job: it may take minutes or days, and any number of processes."""
    print(f"A worker plans a trip to {city}.", flush=True)
    await turn(TRIP, f"What is the weather in {city}?")
    print(await turn(TRIP, f"Please reserve a seat to {city}, and tell me the weather in {city} once more."))
    return await write_bill(TRIP)


async def work() -> None:
    """One worker: it takes up what another one left, and waits for the job."""
    config: DBOSConfig = {
        "name": "trips",
        "system_database_url": f"sqlite:///{PLACE / 'jobs.db'}",
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    with SetWorkflowID(TRIP):
        handle = await DBOS.start_workflow_async(plan_a_trip, "Rome")  # the same id: the same job, wherever it runs
    print(f"The bill: {await handle.get_result()}")
    DBOS.destroy()


async def main(place: Path) -> None:
    for how in ("dies", "lives"):
        worker = await asyncio.create_subprocess_exec(sys.executable, __file__, str(place), how)
        print(f"The worker that {how} ended with {await worker.wait()}.", flush=True)
    print(f"Reservations: {len((place / 'bookings.txt').read_text().splitlines())}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(work())
    else:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(main(Path(directory)))
