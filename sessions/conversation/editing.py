"""Changes to a conversation without a turn: under its lease, on its newest state, each in one commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from sessions.clock import Clock
from sessions.conversation.conversation import Conversation
from sessions.conversation.entries import Written, make_entry
from sessions.conversation.leases import Hold, Leases
from sessions.conversation.settings_changes import has_thinking, without_foreign_thinking
from sessions.core.settings import Settings
from sessions.core.transcript import check_history, encode, lift_marks, shown
from sessions.errors import ConfigurationError, Conflict, InvalidHistory, ModelError
from sessions.tools import Toolbox
from sessions.translate import caller_errors, storage_errors
from storage import Change, Lease, Store

T = TypeVar("T")


async def entitle(store: Store, conversation: Conversation, title: str) -> None:
    """Gives it a title. That is no part of what is said, so it waits for no turn that runs."""
    with storage_errors():
        await store.entitle(conversation.record.id, title)
    conversation.record = replace(conversation.record, title=title)


class Edit:
    """A change under way: nobody else writes to the conversation until it ends."""

    def __init__(self, store: Store, clock: Clock, conversation: Conversation, hold: Hold) -> None:
        self._store, self._clock, self._conversation, self._hold = store, clock, conversation, hold

    @property
    def lease(self) -> Lease:
        """Under which it is made."""
        return self._hold.lease

    async def commit(
        self,
        *,
        written: Sequence[Written] = (),
        settings: Settings | None = None,
        title: str | None = None,
        metadata: str | None = None,
    ) -> None:
        """Writes entries behind the head, and what else is given (`metadata`: JSON text)."""
        head = written[-1].entry.id if written else self._conversation.head
        await self._commit(head, written, settings, title, metadata)

    async def move(self, head: str | None, settings: Settings | None = None) -> None:
        """Moves the head to an entry of the chain, or before the first one."""
        await self._commit(head, (), settings)

    async def _commit(
        self,
        head: str | None,
        written: Sequence[Written],
        settings: Settings | None,
        title: str | None = None,
        metadata: str | None = None,
    ) -> None:
        conversation = self._conversation
        change = Change(
            conversation.head,
            head,
            entries=tuple(entry.record for entry in written),
            settings=None if settings is None else settings.to_json(),
            title=title,
            metadata=metadata,
            updated_at=self._clock.now(),
        )
        try:
            await self._store.commit(self._hold.lease, change)
        except BaseException:
            conversation.roll_back()  # it may have gone through: what is stored is read again
            raise
        if head != conversation.head:
            conversation.pending = ()
        # After the commit: until then whoever reads the session sees what is stored.
        conversation.stage(written)
        conversation.committed(change)

    async def append(self, messages: Sequence[Any]) -> None:
        """Messages behind the history: all are checked first, then all are written or none. Raises `InvalidHistory`."""
        conversation = self._conversation
        with caller_errors(InvalidHistory):
            last, ids = conversation.last, conversation.tool_ids
            previous = [] if last is None else [{"role": last.role, "content": last.content}]
            checked = check_history(messages, previous, count=len(conversation.entries), ids=ids)
        written = self._chained(checked)
        if any(has_thinking(message["content"]) for message in checked) and not conversation.settings.foreign:
            # It was signed elsewhere: the API is asked to drop what it cannot bind, and does not refuse it then
            # (docs/provider.md, 6).
            settings = replace(conversation.settings, foreign=True)
            await self.commit(written=written, settings=settings)
            conversation.use(settings)
        else:
            await self.commit(written=written)

    def _chained(self, messages: Sequence[dict[str, Any]]) -> list[Written]:
        last, written = self._conversation.last, list[Written]()
        context = self._conversation.settings.context
        for message in messages:
            content, _ = lift_marks(message["content"])
            pinned = [dict(block) for block in context]
            # What another session with the same context has exported begins with it already.
            if last is None and message["role"] == "user" and content[: len(pinned)] != pinned:
                content = [*context, *content]
            entry = make_entry(last, message["role"], content, self._clock.now())
            written.append(entry)
            last = entry.entry
        return written

    async def rewind(self, to: str | None, expected: str | None = None) -> None:
        """The head moves back to an entry of the chain (`None`: before the first). Raises `Conflict`.

        `expected`: the head that there must be.
        """
        conversation, depth = self._conversation, self._conversation.position(to)
        if expected is not None and conversation.head != expected:
            raise Conflict(f"session {conversation.record.id} has gone on meanwhile: look at session.entries again")
        if depth < 0:
            raise Conflict(f"entry {to} is not on the chain of session {conversation.record.id}: see session.entries")
        if conversation.settings.unbound > depth:
            settings = replace(conversation.settings, unbound=depth)
            await self.move(to, settings)
            conversation.use(settings)
        else:
            await self.move(to)

    async def change_settings(
        self, settings: Settings, toolbox: Toolbox, *, title: str | None = None, metadata: str | None = None
    ) -> None:
        """Other settings, with the tools that are bound to them here, and what else is given (as `commit`)."""
        await self.commit(settings=settings, title=title, metadata=metadata)
        self._conversation.use(settings)
        self._conversation.toolbox = toolbox

    async def instruct(self, text: Any) -> None:
        """Instructions of the operator, to go out with the next request."""
        settings = self._conversation.settings
        settings = replace(settings, instructions=(*settings.instructions, text))
        await self.commit(settings=settings)
        self._conversation.adopt(settings)

    async def healing(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result; where thinking turns out to be bound to another prefix, that is stored and it is tried again."""
        try:
            return await work()
        except ModelError as error:
            settings = without_foreign_thinking(self._conversation, error)
            if settings is None:
                raise
        await self.commit(settings=settings)
        self._conversation.use(settings)
        return await work()


@asynccontextmanager
async def editing(store: Store, clock: Clock, leases: Leases, conversation: Conversation) -> AsyncIterator[Edit]:
    """The lease and the newest state of a conversation, for a change without a turn."""
    with storage_errors():
        async with leases.hold(conversation.record.id) as hold:
            await conversation.catch_up(hold.lease)
            yield Edit(store, clock, conversation, hold)


def message_list(messages: Any) -> list[Any]:
    """The messages that `append` was given. Raises `InvalidHistory` for what is no list, and holds none."""
    if isinstance(messages, Mapping):
        messages = messages.get("messages")
    if isinstance(messages, str | bytes) or not isinstance(messages, Iterable):
        raise InvalidHistory("append() takes a list of messages, or an object that holds one as 'messages'")
    return list(messages)


def check_instruction(text: Any) -> None:
    """Raises `ConfigurationError` for blank text, and for what is no text."""
    if not isinstance(text, str) or not text.strip():
        raise ConfigurationError(f"text must be some text that is not blank, not {shown(text)}")
    with caller_errors():
        encode([{"type": "text", "text": text}], where="text")
