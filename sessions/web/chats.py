"""What one owner can do: open conversations with their agent's tools, begin turns, edit, ask again, decide.

All protocols come through here. What is taken from a client are words, files, and decisions on calls that are open in
the store; history, settings and tool results are the server's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from sessions import (
    ConfigurationError,
    Session,
    SessionManager,
    SessionNotFound,
    ToolsChanged,
    Turn,
)
from sessions.web.agents import Agent, Agents
from sessions.web.limits import Counts, TooMany
from sessions.web.models import Part, WhileRunning
from sessions.web.problems import Refused
from sessions.web.tasks import Tasks
from sessions.web.variants import asked_in, go_before, words_at, words_of
from sessions.web.words import TITLE_CHARACTERS, blocks_of, title_of

PURPOSE = "purpose"
"""In the metadata of sessions that the back end makes for itself: what for."""


class Chats:
    """The conversations of one owner."""

    def __init__(self, manager: SessionManager, agents: Agents, owner: str, counts: Counts, tasks: Tasks) -> None:
        self.manager, self.owner = manager.for_owner(owner), owner
        self._agents, self._counts, self._tasks = agents, counts, tasks

    # -- conversations --

    def agent(self, name: str) -> Agent:
        """The agent that a client named. Raises `Refused`."""
        agent = self._agents.get(name)
        if agent is None:
            names = ", ".join(agent.name for agent in self._agents)
            raise Refused(404, f"there is no such agent: choose one of {names}")
        return agent

    async def create(self, agent: Agent, title: str | None = None, key: str | None = None) -> Session:
        """A new conversation with an agent. `key`: the same one again gives the same conversation."""
        if key is None:
            return await self._create(agent, title, None)
        session = await self.opened(key, agent, title)
        if session.metadata.get("agent") != agent.name:
            raise Refused(409, "this key was used with another agent: choose a new key")
        return session

    async def _create(self, agent: Agent, title: str | None, id: str | None) -> Session:
        session = await self.manager.create(
            **agent.settings, tools=agent.tools, title=title, metadata={"agent": agent.name}, id=id
        )
        self._agents.remember(session)
        return session

    async def read(self, id: str) -> Session:
        """A conversation to look at. Raises `SessionNotFound`, also for one of others."""
        try:
            return await self.manager.open(id)
        except ConfigurationError:  # no id that a session can have
            raise SessionNotFound(id) from None

    async def open(self, id: str) -> Session:
        """A conversation to go on with, by the tools that its agent has now. Raises `SessionNotFound`, as `read`."""
        agent = self._agents.remembered(id)
        if agent is None:
            session = await self.read(id)
            agent = self._agents.remember(session)
            if agent is None:
                return session
        try:
            session = await self.manager.open(id, tools=agent.tools)
        except ToolsChanged:  # a newer release of the service: its tools from now on
            return await self.manager.open(id, tools=agent.tools, rebase=True)
        if session.settings.local_tools and not agent.tools:
            await session.update(tools=(), rebase=True)
        return session

    async def opened(self, name: str, agent: Agent, title: str | None = None) -> Session:
        """The conversation that a client calls by this name; a new one where it has none. Two at once get the same."""
        found = await self.known(name)
        if found is not None:
            return found
        id = self._id_of(name)
        try:
            return await self._create(agent, title, id)
        except ConfigurationError:
            try:
                return await self.open(id)  # another request was faster
            except SessionNotFound:
                pass  # it was not: what is wrong is told below
            raise

    async def known(self, name: str) -> Session | None:
        """The conversation that a client calls by this name, its id or one of its own."""
        for id in (name, self._id_of(name)):
            try:
                return await self.open(id)
            except SessionNotFound:
                continue
        return None

    def _id_of(self, name: str) -> str:
        """The id behind a name of the client's: another owner's use of it says nothing, and takes nothing."""
        return "c-" + blake2b(f"{self.owner}\0{name}".encode("utf-8", "replace"), digest_size=16).hexdigest()

    # -- turns --

    async def turn(self, id: str, turn: str | None = None) -> Turn | None:
        """The newest turn of a conversation, or this one. Raises `SessionNotFound`."""
        try:
            return await self.manager.turn(id, turn)
        except ConfigurationError:  # no id that a session, or a turn, can have
            raise SessionNotFound(id) from None

    async def begin(
        self, session: Session, content: Sequence[Part], key: str, while_running: WhileRunning = "queue"
    ) -> Turn:
        """Begins a turn with the user's words; the same key again is the same turn. Raises `TooMany`, `Refused`."""
        blocks = blocks_of(content, self._counts.limits)
        self._check_agent(session)
        with self._counts.beginning(self.owner) as others:
            try:
                await self._check_running(session, others)
            except TooMany:
                if await self.manager.turn(session.id, key=key) is None:
                    raise
            if session.title is None and session.state == "idle":
                return await self._begin_first(session, blocks, key, while_running)
            return await session.begin(blocks, idempotency_key=key, while_running=while_running)

    async def _begin_first(
        self, session: Session, blocks: list[dict[str, Any]], key: str, while_running: WhileRunning
    ) -> Turn:
        """A conversation without a title gets one by these words."""
        title = title_of(blocks)
        if title is not None:
            await session.update(title=title)
        turn = await session.begin(blocks, idempotency_key=key, while_running=while_running)
        self._tasks.start(self._entitle(session, turn, title))
        return turn

    async def edit(self, session: Session, entry: str, content: Sequence[Part], key: str) -> Turn:
        """Begins a turn in the place of the one with these words; what followed stays as a branch.

        The same key again is the same turn, and goes on where a try before it got no further.
        """
        blocks = blocks_of(content, self._counts.limits)
        self._check_agent(session)
        with self._counts.beginning(self.owner) as others:
            async with self._tasks.alone(session.id):
                if await self._is_new(session, key, others):
                    await go_before(self.manager, session, await words_at(self.manager, session, entry))
                return await session.begin(blocks, idempotency_key=key, while_running="interrupt")

    async def regenerate(self, session: Session, turn_id: str | None = None) -> Turn:
        """Asks for another answer to the same words; the one there was stays as a branch.

        Without `turn_id` to the newest words, unless they are being answered. Asked twice it is the same new answer.
        """
        self._check_agent(session)
        key = f"again {turn_id or session.head}"
        with self._counts.beginning(self.owner) as others:
            async with self._tasks.alone(session.id):
                known = await self.manager.turn(session.id, key=key)
                newest = await self.manager.turn(session.id) if known is None and turn_id is None else None
                known = newest if newest is not None and newest.state in ("running", "queued") else known
                if known is not None:
                    return known
                await self._check_running(session, others)
                words = await words_of(self.manager, session, turn_id)
                await go_before(self.manager, session, words)
                asked = asked_in(words, session)
                return await session.begin(asked, idempotency_key=key, while_running="interrupt")

    async def resume(self, session: Session) -> Turn | None:
        """Goes on with a turn that broke off; the newest turn, where there is none such."""
        self._check_agent(session)
        turn = await session.go_on() if session.state == "interrupted" else None
        return turn or await self.manager.turn(session.id)

    async def decide(
        self, session: Session, call_id: str, approve: bool, input: dict[str, Any] | None, reason: str | None
    ) -> None:
        """Decides on a call that waits. Raises `Conflict` where it is decided, `ConfigurationError` where none is."""
        self._check_agent(session)
        if approve:
            await session.approve(call_id, input)
        else:
            await session.deny(call_id, reason)

    def _check_agent(self, session: Session) -> None:
        if session.settings.local_tools and self._agents.of(session.metadata) is None:
            raise Refused(409, "the agent of this conversation is there no longer: begin a new one")

    async def _is_new(self, session: Session, key: str, others: int) -> bool:
        """Whether no turn has this key. Raises `TooMany` where a new one would be too many."""
        if await self.manager.turn(session.id, key=key) is not None:
            return False
        await self._check_running(session, others)
        return True

    async def _check_running(self, session: Session, others: int) -> None:
        """Raises `TooMany`. `others`: turns of this owner that are just being begun."""
        most = self._counts.limits.running_turns
        running = await self.manager.list(state="running", limit=most + 1, branches=True)
        if sum(info.id != session.id for info in running) + others >= most:
            raise TooMany(f"{most} answers are under way: wait for one to end, or stop one")
        if any(info.id == session.id for info in running):
            open_turns = [turn for turn in await session.turns() if turn.state in ("running", "queued")]
            if len(open_turns) + others >= most:
                raise TooMany(f"{most} messages wait in this conversation: wait for an answer, or stop one")

    # -- titles --

    async def _entitle(self, session: Session, turn: Turn, given: str | None) -> None:
        """Once the first answer is there, a title by the agent's model for titles, in a session of its own.

        It takes the place of the first words, and of no title that the user has `given` meanwhile.
        """
        agent = self._agents.of(session.metadata)
        if agent is None or agent.titles is None:
            return
        reply = await turn.reply()
        asked = await self.manager.create(
            model=agent.titles, max_tokens=200, parent=session.id, metadata={"agent": agent.name, PURPOSE: "title"}
        )
        answer = await asked.send(
            "Name this conversation in at most six words, without quotation marks. Reply with the name alone.\n\n"
            f"Question: {given}\n\nAnswer: {reply.text[:2000]}"
        )
        title = " ".join(answer.text.split())[:TITLE_CHARACTERS]
        await session.refresh()
        if title and session.title == given:
            await session.update(title=title)
