"""What goes over the wire of the JSON API: what a browser may send, and what it is told. OpenAPI is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
WhileRunning: TypeAlias = Literal["queue", "interrupt", "refuse"]
SessionState: TypeAlias = Literal["idle", "running", "waiting", "interrupted"]
TurnState: TypeAlias = Literal["queued", "running", "waiting", "interrupted", "finished", "cancelled", "failed"]

SpendBy: TypeAlias = Literal["day", "owner", "model", "agent", "kind"]


class Sent(BaseModel):
    """What a client sends: what is not known here is refused, so that no setting enters by a misspelt name."""

    model_config = ConfigDict(extra="forbid")


class Told(BaseModel):
    """What a client is told."""

    model_config = ConfigDict(extra="forbid")


# -- sent --


class Text(Sent):
    """Words."""

    type: Literal["text"]
    text: Annotated[str, Field(min_length=1)]


class File(Sent):
    """An image (jpeg, png, gif, webp), a PDF or a text. `data`: base64."""

    type: Literal["file"]
    name: Annotated[str, Field(min_length=1, max_length=255)]
    media_type: Name
    data: Annotated[str, Field(min_length=1)]


Part: TypeAlias = Annotated[Text | File, Field(discriminator="type")]
Parts: TypeAlias = Annotated[list[Part], Field(min_length=1, max_length=100)]


class Empty(Sent):
    """Nothing: an empty object."""


class NewSession(Sent):
    """`key`: the same key again gives the same session."""

    agent: Name
    title: Annotated[str, Field(max_length=500)] | None = None
    key: Name | None = None


class SessionChange(Sent):
    title: Annotated[str, Field(max_length=500)]


class Message(Sent):
    """The user's words. `id`: the same id again is the same turn.

    `edit`: the id of an entry with words that these take the place of: what followed it is kept as a branch.
    """

    id: Name
    content: Parts
    edit: Name | None = None
    while_running: WhileRunning = "queue"


class Regeneration(Sent):
    """Ask again: of the newest turn, or of `turn`. The answer there was is kept as a branch."""

    turn: Name | None = None


class ForkPoint(Sent):
    """`at`: the entry that the branch ends with; the newest one where it is not given."""

    at: Name | None = None


class RewindPoint(Sent):
    """`to`: the entry to go back to; `null` is the beginning."""

    to: Name | None


class Decision(Sent):
    """On a call that waits for approval. `input` takes the place of the model's; `reason` is told to the model."""

    call_id: Name
    approve: bool
    input: dict[str, Any] | None = None
    reason: Annotated[str, Field(max_length=10_000)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.reason if self.approve else self.input) is not None:
            raise ValueError("input goes with an approval, reason with a denial")
        return self


# -- told --


class Tokens(Told):
    """Tokens of the input by what became of them, and of the output."""

    input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output: int


class ShownMiss(Told):
    """Why tokens were billed that the cache should have given. `cost`: USD above what reading them costs."""

    cause: str
    message: str
    tokens: int
    cost: str | None


class AgentInfo(Told):
    name: str
    description: str
    model: str


class Config(Told):
    """Who is asking, and what there is. `simulated`: the answers are made up, no model is asked."""

    owner: str
    operator: bool
    simulated: bool
    agents: list[AgentInfo]
    file_types: list[str]
    body_bytes: int


class SessionItem(Told):
    """Times are seconds since the epoch, `cost` is USD as a decimal text."""

    id: str
    title: str | None
    agent: str | None
    state: SessionState
    parent: str | None
    model: str
    created_at: float
    updated_at: float
    turns: int
    cost: str
    usage: Tokens


class SessionPage(Told):
    """`next`: the cursor of the next page (`before`), `null` on the last one."""

    sessions: list[SessionItem]
    next: str | None


class ShownEntry(Told):
    """An entry of the conversation. `blocks` are the API's content blocks, made fit to be shown: of a text also `html`
    (Markdown made safe), of an image, a document or a text file `url`, where its bytes are, in place of its data, and
    `name`; thinking without its signature."""

    id: str
    role: Literal["user", "assistant", "system"]
    blocks: list[dict[str, Any]]


class ShownTurn(Told):
    """A turn: `entry` has its words, `replies` its answers. `miss`: the dearest one."""

    id: str
    state: TurnState
    started: float
    ended: float | None
    entry: str | None
    replies: list[str]
    stop_reason: str | None
    usage: Tokens
    cost: str | None
    miss: ShownMiss | None
    error: str | None


class ShownCall(Told):
    """A tool call that waits for a decision (or, `by_caller`, for a result that only the program can bring)."""

    call_id: str
    tool_use_id: str
    name: str
    input: Any
    by_caller: bool


class Branch(Told):
    """A session that shares entries with this one. `entry`: the last one that both have (`null`: none).

    `next`: its first entry behind that; `of`: the first entry of the session that was asked for behind it. `is_parent`,
    `is_child`: which of the two was split off the other (neither: both off a third)."""

    session: str
    entry: str | None
    next: str | None
    of: str | None
    created_at: float
    is_parent: bool
    is_child: bool


class ShownSession(Told):
    """A conversation with its entries (newest `entries` where there are more: `earlier` says how many are left out)."""

    session: SessionItem
    entries: list[ShownEntry]
    earlier: int
    turns: list[ShownTurn]
    pending: list[ShownCall]
    branches: list[Branch]


class Begun(Told):
    """The turn that was begun: follow it at `events`."""

    session: str
    turn: str
    state: TurnState
    events: str


class TurnNow(Told):
    turn: str
    state: TurnState


class Decided(Told):
    """What still waits."""

    pending: list[ShownCall]
    turn: str | None


class ShownCost(Told):
    """USD as decimal texts. `by_kind`: by kind of call; `losses`: what misses added, by cause."""

    total: str
    by_kind: dict[str, str]
    usage: Tokens
    calls: int
    unpriced: int
    losses: dict[str, Loss]


class Loss(Told):
    calls: int
    tokens: int
    cost: str


class SpendRow(ShownCost):
    """`key`: the day (UTC), owner, model, agent or kind; `null` where there is none."""

    key: str | None


class Spend(Told):
    by: SpendBy
    rows: list[SpendRow]
    total: ShownCost


class Problem(Told):
    """An error, as RFC 9457 has it (`application/problem+json`). `detail` says what to do."""

    type: str
    title: str
    status: int
    detail: str
