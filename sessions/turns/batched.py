"""A branch's place in a fan-out that goes out in Message Batches, as its turn's row keeps it until the reply comes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sessions.core.cache import text_of
from storage import TurnRecord


@dataclass(frozen=True, slots=True)
class Part:
    """One request of a fan-out of `of` branches; `index` counts them from 0.

    `sending` names the batch that was being made from `asked` on (seconds since the epoch), with `size` requests at
    most; `batch` is that batch's id once it is known. Neither: the request waits. `head` is the entry it was asked
    from, `flight` the facts of its call; its `id` is the request's custom id.
    """

    group: str
    index: int
    of: int
    sending: str | None = None
    size: int = 0
    asked: float = 0.0
    batch: str | None = None
    head: str | None = None
    flight: dict[str, Any] | None = None

    @property
    def stored(self) -> str:
        """What the row keeps."""
        part = asdict(self)
        flight = part.pop("flight")
        # The flight's facts stand where those of a turn's own request do: `TurnWriter.settle` reads both.
        return text_of({"batch": part, **(flight or {})})

    @property
    def custom_id(self) -> str | None:
        """The request's name within its batch."""
        return self.flight["id"] if self.flight else None

    @property
    def waits(self) -> bool:
        """Whether it has not been sent, or is known not to have arrived."""
        return self.sending is None

    @property
    def is_lost(self) -> bool:
        """Whether it was being sent when the process ended: a batch may hold it."""
        return self.sending is not None and self.batch is None

    def held_back(self) -> Part:
        """The same request, waiting again."""
        return replace(self, sending=None, size=0, asked=0.0, batch=None, flight=None)

    @classmethod
    def of_row(cls, row: TurnRecord | None) -> Part | None:
        """The part that a turn waits for; `None` where it waits for none."""
        if row is None or row.call is None:
            return None
        stored = json.loads(row.call)
        if "batch" not in stored:
            return None  # a request of the turn's own, under way
        # A row may have been written by another version, with fields that are not known here.
        known = {field.name for field in fields(cls)}
        part = {name: value for name, value in stored.pop("batch").items() if name in known}
        return cls(**part, flight=stored or None)


def key_of(group: str, of: int) -> str:
    """The idempotency key of the turns of a fan-out of that many branches."""
    return f"batch {group} of {of}"


def branch_id(group: str, index: int) -> str:
    """The session id of a branch: any one of them tells the names of all."""
    return f"{group}-{index}"
