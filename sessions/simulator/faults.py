"""How a simulated response goes wrong, as values: `faults=` takes a function of the request's index, or a mapping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "status",
    "drop",
    "cut",
    "error",
    "end",
    "stall",
    "garbled",
    "json",
    "headless",
    "interleaved",
    "repeated_id",
    "unoffered",
    "not_object",
    "expired",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. `after` counts events of the stream, pings included: 0 is before `message_start`.

    | kind | what the client meets |
    |---|---|
    | `status` | an HTTP error `status` with the API's envelope, `retry-after: retry_after` where given |
    | `drop` | the connection breaks before any header |
    | `cut` | the connection breaks after `after` events |
    | `error` | an `error` event (`type`, `message`) after `after` events |
    | `end` | the stream ends cleanly after `after` events |
    | `stall` | nothing for `seconds` (for ever if None) after `after` events; the client's read timeout is honoured |
    | `garbled` | event number `after` is not JSON |
    | `json` | a JSON message where a stream was asked for |
    | `headless` | a stream without its `message_start` |
    | `interleaved` | blocks start, go on and stop in turns, as llama.cpp's server does |
    | `repeated_id` | every tool call of the reply has the same id |
    | `unoffered` | the reply calls a tool that was never offered |
    | `not_object` | a tool call's input is a list |
    | `expired` | a request of a batch is not processed within its 24 hours (only there) |

    All but the first two bill the prompt: the response has begun (inferred: entries are readable from then on). In a
    batch, those that break a connection make a request `errored`, which is not billed; on the batch routes themselves
    they lose the answer to what has been done.
    """

    kind: Kind
    after: int = 0
    status: int = 529
    retry_after: float | None = None
    type: str | None = None
    message: str = "Overloaded"
    seconds: float | None = None

    @classmethod
    def http(
        cls, status: int, message: str = "", *, retry_after: float | None = None, type: str | None = None
    ) -> Fault:
        """An HTTP error; `retry_after` in seconds."""
        text = message or MESSAGES.get(status, "Error")
        return cls("status", status=status, message=text, retry_after=retry_after, type=type)

    @classmethod
    def drop(cls) -> Fault:
        """The connection breaks before any header."""
        return cls("drop")

    @classmethod
    def cut(cls, after: int) -> Fault:
        """The connection breaks after `after` events."""
        return cls("cut", after=after)

    @classmethod
    def error(cls, after: int, type: str = "overloaded_error", message: str = "Overloaded") -> Fault:
        """An `error` event after `after` events."""
        return cls("error", after=after, type=type, message=message)

    @classmethod
    def end(cls, after: int) -> Fault:
        """The stream ends early and cleanly after `after` events."""
        return cls("end", after=after)

    @classmethod
    def stall(cls, after: int, seconds: float | None = None) -> Fault:
        """Silence of `seconds` (None: for ever) after `after` events."""
        return cls("stall", after=after, seconds=seconds)

    @classmethod
    def garbled(cls, after: int) -> Fault:
        """Event number `after` is not JSON."""
        return cls("garbled", after=after)


Faults: TypeAlias = Callable[[int], Fault | None] | Mapping[int, Fault]
"""The fault of each request, by its index from 0."""

MESSAGES = {
    400: "Error",
    401: "invalid x-api-key",
    402: "Your credit balance is too low to access the Anthropic API.",
    403: "Your API key does not have permission to use the specified resource.",
    413: "Request exceeds the maximum size",
    429: "Number of request tokens has exceeded your per-minute rate limit",
    500: "Internal server error",
    504: "Request timed out",
    529: "Overloaded",
}


def fault_for(faults: Faults | None, index: int) -> Fault | None:
    """The fault that `faults` plans for request `index`."""
    if faults is None:
        return None
    return faults.get(index) if isinstance(faults, Mapping) else faults(index)
