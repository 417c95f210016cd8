"""Every error a caller can meet, in one tree. Each message says what is wrong and who should do what.

SessionsError
├── ConfigurationError     a setting, a key, a path or some content is not usable: change it and call again
├── SessionNotFound        no such session, or it belongs to another owner
├── SessionBusy            somebody else holds the session: wait, or raise busy_timeout
├── LeaseLost              this worker was too slow and another one took over: reload and go on
├── Conflict               the named entry is no longer on the chain: reload
├── InvalidHistory         messages that the API would refuse: nothing was written
├── InvalidImport          a file that is no transcript, or (strict) has a corrupt line
├── PrefixChange           a setting that would re-bill the cached prefix: pass rebase=True to accept the price
├── ToolsChanged           the tools given differ from those the session was made with
├── InDoubtToolCalls       resume(in_doubt="raise") found calls that may or may not have taken effect
├── StepLimitReached       the turn used all its model calls: resume() or send() goes on
├── BudgetExceeded         the next request would cost more than max_cost or a budget leaves: resume() or send() goes on
├── ModelError             the API or the connection failed; what was raised is in __cause__
│   ├── ContextFull        the prompt does not fit the model's window: compact(), or go back with rewind() or fork()
│   └── BatchIncomplete    some requests of a batch have no reply; `results` holds the others
└── SchemaOutOfDate        the database needs `warmline db upgrade`, or a newer warmline

PromptWarning is no error but a warning: the prompt works, and costs more than it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any


class SessionsError(Exception):
    """Something in this library failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((self.__doc__ or "").split()))


class ConfigurationError(SessionsError, ValueError):
    """A setting is not usable. Change it and call again; nothing was stored."""


class SessionNotFound(SessionsError):
    """There is no such session, or it belongs to another owner. Check the id and the owner."""


class SessionBusy(SessionsError):
    """Another worker holds this session. Try again later, or raise busy_timeout.

    `holder` says who (host, process) held it when waiting was given up.
    """

    def __init__(self, message: str | None = None, *, holder: str | None = None) -> None:
        super().__init__(message)
        self.holder = holder


class LeaseLost(SessionsError):
    """Another worker has taken this session over; nothing was written. Open the session again and call resume()."""


class Conflict(SessionsError):
    """The entry named is not on this session's chain (any more), or the tool call or turn has gone on without you.

    Open the session again and look at what there is.
    """


class InvalidHistory(SessionsError):
    """The API would refuse these messages. Correct the one named; nothing was written."""


class InvalidImport(SessionsError):
    """The file is not a transcript that can be read. Give a Claude Code JSONL, a Messages JSON or a trace file."""


class PrefixChange(SessionsError):
    """The change breaks the cached prefix. Pass rebase=True to accept that it is billed again.

    `tokens`: how much of it is believed cached now and would be billed again (0 where it has lapsed).
    """

    def __init__(self, message: str | None = None, *, tokens: int = 0) -> None:
        super().__init__(message)
        self.tokens = tokens


class ToolsChanged(SessionsError):
    """The tools given differ from those stored with the session. Open it with the same tools, or update(tools=…)."""


class InDoubtToolCalls(SessionsError):
    """Some tool calls were running when the process died. Call resume() with in_doubt="report" or "rerun".

    `calls` names them as (tool name, tool id) pairs.
    """

    def __init__(self, message: str | None = None, *, calls: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.calls = tuple(calls)


class StepLimitReached(SessionsError):
    """The turn has used all its model calls. All results are stored: resume() or send() goes on."""


class BudgetExceeded(SessionsError):
    """The next request would cost more than max_cost or a budget leaves, and was not sent: resume() or send() goes on.

    `budget`: the `Budget`, `None` for `max_cost`. `left`: USD. `frees`: when there is room for the request if nothing
    else is spent meanwhile (seconds since the epoch), `None` where there never is.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        budget: Any = None,
        left: Decimal | None = None,
        frees: float | None = None,
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.left = left
        self.frees = frees


class ModelError(SessionsError):
    """The model call failed; __cause__ holds what the SDK raised.

    `retryable`: the same call may succeed later. `request_id`: the API's id of the request, for its support. `kind`:
    what failed, in words that are ours alone, where the message quotes others (the API's own may quote the prompt).
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        retryable: bool = False,
        request_id: str | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.request_id = request_id
        self.kind = kind


class ContextFull(ModelError):
    """The prompt does not fit the model's context window. Call compact(), or go back with rewind() or fork(at=…)."""


class BatchIncomplete(ModelError):
    """Some requests of a batch have no reply. The same batch() with its idempotency_key sends just those again.

    `results`: in the order of the contents, each a `Reply` or the `ModelError` that says why there is none.
    """

    def __init__(self, message: str | None = None, *, results: Sequence[Any] = (), retryable: bool = False) -> None:
        super().__init__(message, retryable=retryable)
        self.results = list(results)


class SchemaOutOfDate(SessionsError):
    """The database has another schema version. Run `warmline db upgrade`, or install a newer warmline."""


def without_words(error: BaseException) -> str:
    """What may be kept of an error and shown to operators: its kind and our own advice, no word of a conversation."""
    if isinstance(error, ModelError) and error.kind is not None:
        return error.kind
    if not isinstance(error, SessionsError):
        return type(error).__name__
    return str(error).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def named(error: BaseException) -> str:
    """The same, behind the error's name."""
    name, text = type(error).__name__, without_words(error)
    return name if text == name else f"{name}: {text}"


class PromptWarning(UserWarning):
    """Something in the prompt makes its cache useless. The message names the place and the cure."""
