"""Zero-token requests: they write or read a prefix without an answer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio

from sessions.calls.forecaster import Forecaster
from sessions.calls.gate import WarmupGate
from sessions.calls.requests import Requests
from sessions.clock import Clock
from sessions.conversation.conversation import Conversation
from sessions.conversation.entries import make_entry
from sessions.conversation.opening import Conversations
from sessions.core.cache import Where
from sessions.core.cleared import clearing_edit, uses_in
from sessions.core.idle import waits_for_server_tools, why_no_zero_token
from sessions.core.plan import Plan, make_plan, render
from sessions.core.steps import calls_of, result_block
from sessions.core.usage import Usage
from sessions.core.warmth import Mark
from sessions.errors import ModelError
from sessions.ledger import Call
from storage import Store
from storage.records import CallKind

PLACEHOLDER = "."


def _ends_with_words(conversation: Conversation) -> bool:
    return conversation.last is not None and conversation.last.role != "assistant"


def _body(conversation: Conversation, marks: tuple[Mark, ...]) -> dict[str, Any]:
    """The request: the prompt as far as its last mark. Whatever lies behind it would be billed, and kept nowhere."""
    body = render(conversation.prompt, marks)
    messages = _up_to(body["messages"], marks[-1].where) if marks else body["messages"]
    asked = [message for message in messages if message["role"] == "assistant"][-1:]
    answered = {block.get("tool_use_id") for message in messages[-1:] for block in message["content"]}
    open_calls = [call for message in asked for call in calls_of(message["content"]) if call.id not in answered]
    words: list[dict[str, Any]] = [result_block(call, PLACEHOLDER) for call in open_calls]
    if not messages or messages[-1]["role"] == "assistant":
        # A prompt ends with a user's message, in which each open call has its result (docs/provider.md, 10).
        messages = [*messages, {"role": "user", "content": words or [{"type": "text", "text": PLACEHOLDER}]}]
    elif words and messages[-1]["role"] == "user":
        messages = [*messages[:-1], {**messages[-1], "content": [*messages[-1]["content"], *words]}]
    if conversation.prompt.cleared:
        body["context_management"] = clearing_edit(uses_in(messages), conversation.prompt.cleared)
    # 0 where the endpoint takes it (docs/provider.md, 8 and 14).
    return {**body, "messages": messages, "max_tokens": conversation.prompt.profile.prewarm_max_tokens}


def _up_to(messages: Sequence[dict[str, Any]], where: Where) -> list[dict[str, Any]]:
    """The messages as far as this place. A reply is kept whole: its thinking and its calls belong together."""
    if where.tier != "messages":
        return []
    last = messages[where.message]
    if last["role"] != "assistant":
        last = {**last, "content": last["content"][: where.block + 1]}
    return [*messages[: where.message], last]


class ZeroToken:
    """The zero-token requests of one manager."""

    def __init__(
        self,
        requests: Requests,
        store: Store,
        clock: Clock,
        conversations: Conversations,
        gate: WarmupGate,
        forecaster: Forecaster,
    ) -> None:
        self._requests, self._store, self._clock = requests, store, clock
        self._conversations, self._gate, self._forecaster = conversations, gate, forecaster

    async def prewarm(self, conversation: Conversation) -> Usage | None:
        """Writes the prefix of a conversation that the caller holds; see `Session.prewarm`."""
        prompt = conversation.prompt
        if (reason := why_no_zero_token(conversation.settings, prompt.profile)) is not None:
            warnings.warn(f"prewarm() does nothing for this session: {reason}", stacklevel=4)
            return None
        # A paused reply is sent again as it is (docs/provider.md, 11): no placeholder may stand behind it.
        if waits_for_server_tools(conversation.last):
            return None
        if not conversation.entries and conversation.settings.context:
            usage = await self.prewarm(await self._opened(conversation))
            # It was another object's call: this one learns it from the ledger.
            await conversation.reload_calls()
            return usage
        await self._forecaster.learn(conversation)
        async with await self._gate.enter(
            lambda: self._plan(conversation), prompt.profile.worth_waiting_for
        ) as passage:
            now, last = self._clock.now(), passage.plan.marks[-1] if passage.plan.marks else None
            # Looked at inside the passage: another request may have written it while this one waited.
            if (
                last is None
                or last.tokens < prompt.profile.minimum_tokens
                or conversation.recent.warmth.is_alive(last.point, now)
            ):
                return None
            try:
                call = await self.ask(conversation, "prewarm", passage.plan, waited=passage.waited)
            except ModelError:
                if why_no_zero_token(conversation.settings, conversation.prompt.profile) is None:
                    raise
                return None  # the endpoint takes none of these requests, which has been said when it was learnt
            await passage.opened()
            return call.usage

    async def ask(self, conversation: Conversation, kind: CallKind, plan: Plan, *, waited: float = 0.0) -> Call:
        """Sends the prompt with the marks of a plan and no wish for an answer; gives the call, which is in the ledger.

        `waited`: seconds that were spent at the gate. Raises `ModelError`; a request that failed or was cancelled is a
        row of the ledger too.
        """
        requests, body = self._requests, _body(conversation, plan.marks)
        async with requests.outside_of_turns(conversation, kind, plan, body, waited=waited) as request:
            await requests.answer(request)
        record, call = requests.end(request, conversation, "ok")
        with anyio.CancelScope(shield=True):  # it is paid: whoever waits for it may leave just now
            await self._store.record(record, conversation.settings_to_keep)
        conversation.learn(call)
        return call

    async def _opened(self, conversation: Conversation) -> Conversation:
        """The conversation with its first words still to come: the pinned context is part of their message."""
        opened = await self._conversations.open(conversation.record.id, conversation.toolbox)
        words = [*opened.settings.context, {"type": "text", "text": PLACEHOLDER}]
        opened.stage([make_entry(None, "user", words, self._clock.now())])
        return opened

    def _plan(self, conversation: Conversation) -> Plan:
        """The marks of a turn's request, without the one on words that wait for an answer."""
        at = self._forecaster.circumstances(conversation, self._clock.now())
        plan = make_plan(conversation.prompt, conversation.recent.warmth, at)
        marks = tuple(mark for mark in plan.marks if mark.slot != "tail" or not _ends_with_words(conversation))
        return replace(plan, marks=marks)
