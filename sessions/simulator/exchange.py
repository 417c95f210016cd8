"""One request to the simulator and everything that became of it: the row that tests read and the bill adds up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from sessions.core.usage import Usage
from sessions.simulator.answers.reply import Reply
from sessions.simulator.answers.script import Request
from sessions.simulator.answers.wire import Event
from sessions.simulator.faults import Fault
from sessions.simulator.prompt import Prompt


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request, whatever door it came in by. `path` and `query` are those of the URL, without the `?`;
    `headers` by their names in small letters; `base_url`: where the door is, for addresses that an answer names."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes
    query: str = ""
    base_url: str = ""


State = Literal["open", "complete", "cut", "refused", "failed"]


@dataclass(slots=True, eq=False)
class Exchange:
    """`state`: `open`, then `complete`, `cut` (the client left or the stream broke), `refused` (4xx, our words) or
    `failed` (a planned fault before any event). `usage` and `cost` are what is billed: None before the response begins.

    Times are seconds since the epoch. `body` is forgotten first when the engine keeps many exchanges.
    """

    index: int
    request_id: str
    started: float
    body: Mapping[str, Any] | None = field(repr=False)
    path: str = "/v1/messages"
    model: str = ""
    organization: str = ""
    workspace: str = ""
    betas: frozenset[str] = frozenset()
    status: int = 200
    error: dict[str, Any] | None = None
    usage: Usage | None = None
    cost: Decimal | None = None
    state: State = "open"
    began: float | None = None
    ended: float | None = None
    message_id: str | None = None
    stop_reason: str | None = None
    fault: Fault | None = None
    prompt: Prompt | None = field(default=None, repr=False)
    request: Request | None = field(default=None, repr=False)
    reply: Reply | None = field(default=None, repr=False)
    events: list[Event] = field(default_factory=list, repr=False)
    result: dict[str, Any] | None = field(default=None, repr=False)
    lines: list[dict[str, Any]] | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the request was accepted (its stream may break all the same)."""
        return self.status == 200

    @property
    def stream(self) -> bool:
        return bool(self.body and self.body.get("stream"))

    @property
    def headers(self) -> dict[str, str]:
        """The response headers."""
        headers = {"request-id": self.request_id, "anthropic-organization-id": self.organization}
        if self.workspace:
            headers["anthropic-workspace-id"] = self.workspace
        if self.fault is not None and self.status != 200 and self.fault.retry_after is not None:
            headers["retry-after"] = f"{self.fault.retry_after:g}"
        return headers

    def forget(self) -> None:
        """Drops what is large; the figures stay."""
        self.body = self.prompt = self.request = self.reply = self.result = self.lines = None
        self.events = []
