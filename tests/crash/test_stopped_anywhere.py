"""The user presses stop at each await of a turn: what is kept is true, and the conversation goes on."""

from __future__ import annotations

import anyio
import pytest

from tests.crash.stepping import at_step
from tests.crash.test_cancelled_anywhere import STEPS, Effects, script
from tests.sessions.world import World, create, results, words


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_turn_stopped_at_each_await(backend: str) -> None:
    async def everything() -> None:
        for step in range(1, STEPS):
            world, effects = World(script), Effects()
            async with world.manager(busy_timeout=1) as manager:
                session = await create(manager, tools=effects.tools)
                stream = session.stream("go")
                stepper = at_step(stream.get_final_reply(), step, stream.stop)
                async with stream:
                    with anyio.fail_after(20):
                        reply = await stepper
                assert reply.stop_reason in ("cancelled", "end_turn"), step
                for message in session.messages[2:3]:
                    for name, one in zip(("safe 1", "once 1", "once 2"), results(message), strict=False):
                        if name in effects.done:
                            assert one["content"] in (f"did {name}", "interrupted; it may or may not have taken effect")
                        elif name not in effects.begun:
                            assert "did" not in one["content"]
                assert all(effects.begun.count(what) <= 1 for what in effects.begun)
                with anyio.fail_after(20):
                    assert (await session.send("next")).text == "All done."
                assert words(session)[-1].endswith("next")
                stored = await manager.open(session.id, tools=effects.tools)
                assert stored.messages == session.messages
            world.check()
            if reply.stop_reason == "end_turn":  # the last answer was whole before the user pressed stop
                assert [one.state for one in world.requests[:2]] == ["complete", "complete"], step
            if stepper.steps < step:
                return
        raise AssertionError("the turn never came through")

    anyio.run(everything, backend=backend)
