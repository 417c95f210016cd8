"""`map`: one turn on each of several branches, at the same time; what they share is written to the cache once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from sessions.arguments import listed
from sessions.background import each
from sessions.conversation.conversation import Conversation
from sessions.core.transcript import canonical
from sessions.errors import BatchIncomplete, ModelError
from sessions.runtime import Runtime
from sessions.translate import caller_errors, storage_errors
from sessions.turns.beginning import Options
from sessions.turns.driver import Collect, Driver
from sessions.turns.loop import Loop
from sessions.turns.outcome import Outcome

R = TypeVar("R")


async def fan_out(
    runtime: Runtime, collect: Collect, source: Conversation, words: Sequence[Any], limit: int | None
) -> list[tuple[Conversation, Outcome]]:
    """One branch of the source's head for each of these words, with what its turn gave.

    `limit` turns run at the same time; whoever comes first to the gate writes what is shared. If some fail, the others
    still finish; then the error of the first branch that failed is raised.
    """
    with storage_errors():
        branches = [await runtime.conversations.fork(source, source.head) for _ in words]
    outcomes: dict[int, Outcome] = {}
    errors: dict[int, Exception] = {}

    async def run(number: int) -> None:
        try:
            turn = Loop(runtime, branches[number], words[number], Options(branches=True))
            outcome = await Driver(runtime, turn, collect).outcome()
            assert outcome is not None
            outcomes[number] = outcome
        except Exception as error:
            errors[number] = error

    await each(range(len(branches)), run, limit or max(1, len(branches)))
    if errors:
        raise errors[min(errors)]
    return [(branches[number], outcomes[number]) for number in sorted(outcomes)]


def words_of(contents: Iterable[Any]) -> list[list[dict[str, Any]]]:
    """The words of each branch. Raises `ConfigurationError` naming the content that is none."""
    with caller_errors():
        return [
            canonical(content, where=f"contents[{number}]")
            for number, content in enumerate(listed("contents", contents, "contents"))
        ]


def all_replied(results: Sequence[R | ModelError]) -> list[R]:
    """The replies. Raises `BatchIncomplete`, which holds all results, where one is missing."""
    errors = [result for result in results if isinstance(result, ModelError)]
    if not errors:
        return [result for result in results if not isinstance(result, ModelError)]
    text = f"{len(errors)} of {len(results)} requests of the batch have no reply; the first: {errors[0]}"
    raise BatchIncomplete(text, results=list(results), retryable=any(error.retryable for error in errors))
