"""What the routes of all protocols are handed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from sessions import SessionManager
from sessions.web.access import owner_of
from sessions.web.agents import Agents
from sessions.web.chats import Chats
from sessions.web.limits import Counts
from sessions.web.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Service:
    """A manager, its agents, and what is counted. `simulated`: no model is asked."""

    manager: SessionManager
    agents: Agents
    counts: Counts
    tasks: Tasks
    is_operator: Callable[[str], bool]
    simulated: bool

    def chats(self, request: Request) -> Chats:
        """What the owner of this request can do."""
        return Chats(self.manager, self.agents, owner_of(request), self.counts, self.tasks)
