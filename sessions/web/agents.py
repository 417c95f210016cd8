"""What a client may choose by name: a model with its prompt and tools. A browser never sends settings of its own."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sessions import ConfigurationError, Session

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_REMEMBERED = 10_000
_OWN = frozenset({"id", "metadata", "owner", "parent", "title"})
"""Settings of `SessionManager.create` that the back end gives itself."""


class Agent:
    """An agent that users talk to.

    `settings`: those of `SessionManager.create`, such as `model`, `max_tokens`, `system`, `thinking`. `titles`: a model
    that is asked once, after the first answer, what a conversation is to be called; the first words, where `None`.
    Raises `ConfigurationError` for a name that does not fit into a path, and for settings of the back end's own.
    """

    def __init__(
        self,
        name: str,
        *,
        model: str,
        max_tokens: int = 8192,
        tools: Iterable[Any] = (),
        description: str = "",
        titles: str | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(f"an agent's name must be 1 to 64 letters, digits, _ and -, not {name!r:.80}")
        if own := sorted(_OWN & settings.keys()):
            raise ConfigurationError(f"agent {name!r}: the back end itself gives {', '.join(own)}")
        self.name, self.model, self.description, self.titles = name, model, description, titles
        self.tools = tuple(tools)
        self.settings = {"model": model, "max_tokens": max_tokens, **settings}

    def __repr__(self) -> str:
        return f"<Agent {self.name}, {self.model}>"


class Agents:
    """The agents by name; the first one is offered first. Raises `ConfigurationError` for none, and for two alike."""

    def __init__(self, agents: Agent | Iterable[Agent]) -> None:
        found = [agents] if isinstance(agents, Agent) else list(agents)
        if not found or not all(isinstance(agent, Agent) for agent in found):
            raise ConfigurationError("agents must be an Agent, or some of them: Agent('helper', model=…)")
        self._by_name = {agent.name: agent for agent in found}
        self._remembered: OrderedDict[str, Agent] = OrderedDict()
        if len(self._by_name) < len(found):
            raise ConfigurationError("two agents have the same name")

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._by_name.values())

    def get(self, name: Any) -> Agent | None:
        """The agent with this name."""
        return self._by_name.get(name)

    def remembered(self, session: str) -> Agent | None:
        """The agent of a session that was looked at lately: it never changes."""
        return self._remembered.get(session)

    def remember(self, session: Session) -> Agent | None:
        """The agent that a session was made with."""
        agent = self.of(session.metadata)
        if agent is not None:
            self._remembered[session.id] = agent
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return agent

    def of(self, metadata: Mapping[str, Any]) -> Agent | None:
        """The agent of a session with this metadata; `None` where it is another program's, or there no longer."""
        return self.get(metadata.get("agent"))


def tools_of(agents: Agent | Iterable[Agent]) -> Callable[[str | None, Mapping[str, Any]], tuple[Any, ...]]:
    """What `SessionManager(tools=…)` takes, so that turns a dead worker left go on: the tools of a session's agent."""
    known = Agents(agents)

    def tools(owner: str | None, metadata: Mapping[str, Any]) -> tuple[Any, ...]:
        agent = known.of(metadata)
        return agent.tools if agent is not None else ()

    return tools
