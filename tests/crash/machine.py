"""What the machine of `test_machine.py` plays with: a model that does what the words say, tools, processes that die."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from sessions import Session, SessionManager, tool
from sessions.simulator import Fault, Request, Scripted, filler
from storage import StoreUnavailable, open_store
from tests.sessions.world import MODEL, World, call

MODELS = (MODEL, "claude-haiku-5-5", "claude-opus-4-8")
SYSTEMS = tuple(f"{filler(600)} {number}" for number in range(3))
HUMAN = {"name": "human", "description": "Asks a human.", "input_schema": {"type": "object", "properties": {}}}
PLANS = (
    "", "", "", "safe", "once", "thread", "fail", "human", "safe once thread", "once human", "safe+once", "pause",
    "refuse", "empty", "fail thread+human",
)  # fmt: skip
FAULTS = (
    Fault.http(429), Fault.http(529), Fault.http(400, "planned"), Fault.drop(), Fault.cut(0), Fault.cut(3),
    Fault.cut(6), Fault.end(4), Fault.error(3), Fault.garbled(4), Fault("interleaved"), Fault("repeated_id"),
    Fault("not_object"), Fault("unoffered"),
)  # fmt: skip


class Effects:
    """Tools, and how often each call of them took effect."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        few = [
            tool(self._safe, name="safe", idempotent=True), tool(self._once, name="once"),
            tool(self._thread, name="thread"), HUMAN,
        ]  # fmt: skip
        self.sets = {"few": few, "all": [*few, tool(self._fail, name="fail")]}

    def of(self, session: Session) -> list[Any]:
        """The tools that a stored session was given."""
        names = {str(one["name"]) for one in session.settings.tools}
        return self.sets["all" if "fail" in names else "few"]

    async def _safe(self, key: str) -> str:
        """Harmless to repeat."""
        await anyio.lowlevel.checkpoint()
        return f"did {key}"

    async def _once(self, key: str) -> str:
        """Not harmless to repeat."""
        await anyio.lowlevel.checkpoint()
        self.done[key] += 1
        await anyio.lowlevel.checkpoint()
        return f"did {key}"

    def _thread(self, key: str) -> str:
        """Not harmless to repeat, and not async."""
        self.done[key] += 1
        return f"did {key}"

    async def _fail(self, key: str) -> str:
        """Fails after its effect."""
        self.done[key] += 1
        raise RuntimeError(f"failed {key}")


def script(request: Request) -> Any:
    """Does what the newest words say: "m7: safe once+thread" is two rounds of tools, then an answer."""
    number, plan, after = _asked(request)
    rounds = [one.split() for one in plan.split("+")] if plan else []
    made = sum(_calls(message) for message in after)
    if plan == "refuse":
        return Scripted("I will not.", stop_reason="refusal")
    if plan == "empty":
        return Scripted([])
    if plan == "pause":
        return Scripted(f"half of {number}", "pause_turn") if request.messages[-1]["role"] != "assistant" else "rest"
    if made < len(rounds):
        calls = [
            call(name, **({} if name == "human" else {"key": f"{request.index}-{at}"}))
            for at, name in enumerate(rounds[made])
            if name in request.tools
        ]
        if calls:
            return Scripted([{"type": "text", "text": "I act."}, *calls], thinking=f"I act. {request.index}")
    return Scripted(f"answer to {number}", thinking=f"I think. {request.index}")


def _calls(message: Mapping[str, Any]) -> bool:
    return message["role"] == "assistant" and any(block["type"] == "tool_use" for block in message["content"])


def _asked(request: Request) -> tuple[str, str, list[Any]]:
    for at in range(len(request.messages) - 1, -1, -1):
        message = request.messages[at]
        for block in reversed(message["content"]):
            found = re.match(r"(m\d+): ?(.*)", block.get("text") or "") if message["role"] == "user" else None
            if found:
                return found[1], found[2], list(request.messages[at + 1 :])
    return "nothing", "", []


class Mortal:
    """A store whose process can die: then nothing works any more. `at`: commits until then, `after` the last one."""

    def __init__(self, path: Path) -> None:
        self.real: Any = open_store(f"sqlite:///{path}")
        self.dead, self.at, self.after = False, 0, False

    def __getattr__(self, name: str) -> Any:
        if self.dead and name not in ("open", "close"):
            raise StoreUnavailable("the process is dead")
        return getattr(self.real, name)

    async def commit(self, lease: Any, change: Any) -> None:
        self.at -= 1
        self.dead = self.dead or (self.at == 0 and not self.after)
        if self.dead:
            raise StoreUnavailable("the process is dead")
        await self.real.commit(lease, change)
        if self.at == 0:
            self.dead = True
            raise StoreUnavailable("the process died here")


@dataclass
class Known:
    """What the machine knows of a session: the words on its chain, instructions, the newest words sent."""

    id: str
    said: list[str] = field(default_factory=list)
    rules: set[str] = field(default_factory=set)
    newest: str | None = None
    healed: bool = False


class Process:
    """A manager on a store of its own, with the sessions that it has opened; it can recover turns of others."""

    def __init__(self, world: World, path: Path, effects: Effects) -> None:
        self.store = Mortal(path)
        tools = [one for one in effects.sets["all"] if one is not HUMAN]
        self.manager: SessionManager = world.manager(store=self.store, tools=tools)
        self.opened: dict[str, Session] = {}
