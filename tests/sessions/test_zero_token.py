"""Requests without an answer end where their last mark is, wherever that is, and are ones that the API takes."""

from __future__ import annotations

from sessions import simulator, tool
from sessions.core.plan import predict
from sessions.simulator import Request, Scripted
from tests.sessions.world import World, call

SMALL = 60
"""Tokens that a placeholder, and the results of calls that are cut off, may take."""


@tool
def look(place: str) -> str:
    """Looks somewhere."""
    return simulator.filler(300)


def script(request: Request) -> Scripted:
    if request.messages[-1]["content"][-1]["type"] == "tool_result":
        return Scripted(simulator.filler(150), thinking="So it is.")
    return Scripted([{"type": "text", "text": "I look."}, *(call("look", place=place) for place in ("here", "there"))])


async def test_it_ends_at_its_last_mark_wherever_that_is() -> None:
    at = World(script)
    async with at.manager(tend=False) as manager:
        session = await manager.create(
            model="claude-opus-5", max_tokens=1000, system=simulator.filler(3000), tools=[look]
        )
        for _ in range(2):
            await session.send(simulator.filler(500))
        prompt, ends = session.conversation.prompt, 0
        for index, point in enumerate(prompt.points):
            if index < prompt.head_points - 1 or not prompt.markable[index]:  # the head is sent whole
                continue
            plan = predict(prompt, {index: "assistant"}, {index: "1h"}, None)
            asked = await manager.runtime.zero_token.ask(session.conversation, "refresh", plan)
            in_reply = point.where.tier == "messages" and prompt.messages[point.where.message]["role"] == "assistant"
            # A reply is sent whole, so its calls may lie behind a mark on its text.
            assert asked.usage.input <= SMALL * (1 + in_reply), point.where
            ends += 1
        assert ends >= 10
        at.check()
