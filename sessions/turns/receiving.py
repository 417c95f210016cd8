"""What an answer to a turn's request means, and how it is stored: appended, refused, or kept as far as it came."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sessions.conversation.entries import Written
from sessions.core.incoming import Incoming
from sessions.core.steps import Finished, next_step
from sessions.core.transcript import Malformed, is_empty_reply, tool_calls
from sessions.errors import ContextFull, ModelError
from sessions.ledger import Call
from sessions.runtime import Runtime
from sessions.turns import states
from sessions.turns.outcome import Outcome
from sessions.turns.writer import CANCELLED, TurnWriter


class Receiving:
    """The answers to the requests of one turn, whoever has sent them: each ends the writer's call under way."""

    def __init__(self, runtime: Runtime, writer: TurnWriter) -> None:
        self._runtime, self._writer, self._conversation = runtime, writer, writer.conversation

    async def receive(self, incoming: Incoming) -> tuple[Call, Outcome | None]:
        """Decides what a reply means and stores it; an `Outcome` where it is not appended and ends the turn."""
        reason, content = incoming.stop_reason, _unique_ids(incoming.reply, self._conversation.tool_ids)
        # A stream that ends early and cleanly raises nothing (docs/provider.md, 17).
        if reason is None:
            raise ModelError("the answer ended early, without a stop reason; resume() asks again", retryable=True,
                             request_id=incoming.request_id)  # fmt: skip
        # Of a cut call the input may be {} or a list, and would run as if it were meant (docs/provider.md, 17).
        if (name := incoming.unfinished_call) is not None and reason != "refusal":
            raise ModelError(self._unfinished(name, reason), request_id=incoming.request_id)
        # Neither may become a message (docs/provider.md, 11).
        if reason == "refusal" or is_empty_reply(content):
            self._check_limit(incoming, reason)
            return await self._end_without(content, reason)
        return await self._append(incoming, content, reason), None

    def _check_limit(self, incoming: Incoming, reason: str) -> None:
        """Raises `ModelError` where a limit was reached before the answer had begun."""
        if reason == "max_tokens":
            raise ModelError(
                f"max_tokens ({self._conversation.settings.max_tokens}) was reached before the answer began: "
                "raise it with update(max_tokens=…), then resume()",
                request_id=incoming.request_id,
            )
        if reason == "model_context_window_exceeded":
            raise ContextFull(request_id=incoming.request_id)

    async def keep_partial(self, incoming: Incoming) -> None:
        """The user pressed stop: finished blocks and the text so far are the reply; thinking alone is not kept."""
        content = incoming.partial()
        written = None if is_empty_reply(content) else self._made(incoming, content, CANCELLED)
        reply = written.entry.id if written is not None else None
        # How long an answer is comes with its end (docs/provider.md, 12), which nobody waits for now.
        self._runtime.client.cut_short(incoming, self._conversation.prompt.profile)
        record = self._writer.record("cancelled", reply=reply, error="stopped by the user")
        if written is not None:
            self._writer.add(written)
        await self._writer.stopped((record,), reply=reply)

    async def _append(self, incoming: Incoming, content: list[dict[str, Any]], reason: str) -> Call:
        writer = self._writer
        # In this order: content that cannot be stored raises while the call can still fail, and the call is judged by
        # the prompt that was sent, which the entry is no part of.
        written = self._made(incoming, content, reason, output_tokens=incoming.usage.output)
        record = writer.record("ok", reply=written.entry.id)
        writer.add(written)
        step = next_step(self._conversation.entries, {}, by_caller=self._conversation.by_caller)
        is_last = isinstance(step, Finished)
        ended = writer.now() if is_last else None
        writer.row = states.answered(writer.row, reply=record.entry, stop_reason=reason, ended=ended)
        after = self._runtime.forecaster.due(self._conversation, writer.calls[-1])
        # The last commit gives the lease back with it: a turn needs one transaction less.
        await writer.commit(turn=writer.row, calls=(record,), tend_after=after, release=is_last)
        # After the commit: which session is due stands in the store.
        self._runtime.schedule.wake(after)
        return writer.calls[-1]

    async def _end_without(self, content: list[dict[str, Any]], reason: str) -> tuple[Call, Outcome]:
        """A refusal or an empty answer is never appended, and ends the turn where it stands.

        The words leave the chain (they stay readable) where the model declines them: in the first request.
        """
        writer = self._writer
        is_declined = reason == "refusal" and writer.row.reply is None
        record = writer.record("ok")
        writer.row = states.ended(writer.row, reason, writer.now(), reply=None, result=self._conversation.head)
        if is_declined:
            await writer.withdraw((record,))
        else:
            await writer.commit(turn=writer.row, calls=(record,))
        return writer.calls[-1], writer.outcome(reason, content)

    def _unfinished(self, name: str, reason: str) -> str:
        if reason == "max_tokens":
            limit = self._conversation.settings.max_tokens
            return (
                f"max_tokens ({limit}) was reached inside the call of tool {name!r}: "
                "raise it with update(max_tokens=…), then resume()"
            )
        return f"the model's call of tool {name!r} came without a readable input object; resume() asks again"

    def _made(self, incoming: Incoming, content: list[dict[str, Any]], reason: str, **facts: Any) -> Written:
        """The entry of a reply whose call is still under way. Raises `ModelError` for what is no JSON text."""
        assert self._writer.request is not None
        facts |= {
            "stop_reason": reason,
            "prompt_tokens": incoming.prompt_tokens or None,
            "model": self._conversation.settings.model,
            "message_id": incoming.message_id,
            "call": self._writer.request.id,
        }
        try:
            return self._writer.made("assistant", content, **facts)
        except Malformed as error:  # half of a surrogate pair
            text = f"the answer cannot be stored ({error}); resume() asks again"
            raise ModelError(text, retryable=True, request_id=incoming.request_id) from error


def _unique_ids(content: list[dict[str, Any]], earlier: Collection[str]) -> list[dict[str, Any]]:
    """Some servers repeat tool ids, which the API refuses to take back: a repeated one gets a suffix."""
    if not tool_calls(content):
        return content
    seen: set[Any] = set()
    blocks = []
    for block in content:
        if block.get("type") == "tool_use":
            number = 1
            given = block.get("id")
            while block.get("id") in seen or block.get("id") in earlier:
                number += 1
                block = {**block, "id": f"{given}_{number}"}
            seen.add(block.get("id"))
        blocks.append(block)
    return blocks
