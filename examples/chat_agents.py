"""The agents of a chat: what `warmline serve --agents` takes, as `module:name`.

    cd examples && warmline serve --agents chat_agents:agents

The page offers them by name. A browser chooses one and can change nothing of it: model, prompt and tools are the
server's. Without ANTHROPIC_API_KEY a simulated Claude answers: ask it for the opening hours of the museum, or to book.
"""

import anyio

from sessions import ToolContext, tool
from sessions.web import Agent


@tool(idempotent=True)
async def hours(place: str, context: ToolContext) -> str:
    """The opening hours of a place."""
    context.progress(f"calling {place}")
    await anyio.sleep(0.5)
    return f"{place}: Tuesday to Sunday, 10 to 18"


@tool(needs_approval=True)
def book(people: int, context: ToolContext) -> str:
    """Books a visit. It waits until the user has agreed; `call_id` is the same after a restart: a key for the till."""
    return f"Booked for {people}, number {context.call_id[-6:]}."


agents = [
    Agent(
        "guide",
        model="claude-sonnet-5-5",
        description="Opening hours and bookings.",
        system="You help visitors of a town. Be brief, and say what you do not know. " * 40,
        tools=[hours, book],
    ),
    Agent("writer", model="claude-opus-5", max_tokens=16_000, description="Texts of all kinds."),
]
