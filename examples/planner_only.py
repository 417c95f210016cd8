"""The breakpoint planner alone: the plain SDK makes the calls, nothing is stored, `sessions.core` only decides."""

import asyncio
import os
import time

from anthropic import AsyncAnthropic

from sessions import Fixed, simulator
from sessions.core.circumstances import Circumstances
from sessions.core.gaps import human
from sessions.core.plan import make_plan, render
from sessions.core.profiles import profile_for
from sessions.core.prompt import Prompt
from sessions.core.settings import make_settings
from sessions.core.transcript import Entry, canonical, encode, entry_id
from sessions.core.usage import Usage
from sessions.core.warmth import Warmth


def entry(prompt: Prompt, role: str, content: object, prompt_tokens: int | None = None) -> Entry:
    """The next message as a value; its id is not needed where nothing is stored, but costs little."""
    blocks = canonical(content, where=role)
    name = entry_id(str(len(prompt.messages)), role, encode(blocks))
    return Entry(
        name, None, "user" if role == "user" else "assistant", blocks, time.time(), prompt_tokens=prompt_tokens
    )


async def main() -> None:
    client = AsyncAnthropic() if os.environ.get("ANTHROPIC_API_KEY") else simulator.client()
    settings = make_settings(model="claude-sonnet-5-5", max_tokens=1024, system="You answer in one sentence. " * 100)
    prompt = Prompt(settings, profile_for(settings.model))
    warmth = Warmth()
    for words in ("Name a river.", "Where does it rise?", "And where does it end?"):
        prompt.extend([entry(prompt, "user", words)])
        now = time.time()
        plan = make_plan(prompt, warmth, Circumstances(now, Fixed("5m"), human()))
        message = await client.messages.create(**render(prompt, plan.marks))
        usage = Usage.from_api(message.usage.model_dump())
        warmth.learn(plan.marks, plan.hit, usage, now)
        prompt.extend([entry(prompt, "assistant", message.content, prompt_tokens=usage.total_input)])
        print(message.content[-1].text if message.content[-1].type == "text" else message.stop_reason)
        marks = ", ".join(mark.slot for mark in plan.marks)
        print(f"  marked {marks}; expected to read {plan.expected.cache_read} tokens, read {usage.cache_read}")


if __name__ == "__main__":
    asyncio.run(main())
