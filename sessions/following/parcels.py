"""What a row of the store holds of a turn: a few of its events, and where they belong.

A row goes on behind an event that its readers have seen, or shows all there is to readers that it names. So a reader
knows, by no clock, whether it has missed a row.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sessions.following.events import TurnEvent, event_of


@dataclass(frozen=True, slots=True)
class Parcel:
    """`events` that come behind the event `after`, or that begin with a snapshot for these `readers`."""

    events: tuple[TurnEvent, ...]
    after: str | None = None
    readers: tuple[str, ...] = ()


def packed(events: Sequence[TurnEvent], *, after: str | None = None, readers: Sequence[str] = ()) -> str:
    """The text of a row."""
    place = f'"after":{json.dumps(after)}' if after is not None else f'"readers":{json.dumps(readers)}'
    text = f'{{{place},"events":[{",".join(event.to_json() for event in events)}]}}'
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as deltas may have it: a store takes no such text
        return json.dumps(json.loads(text))
    return text


def unpacked(text: str) -> Parcel:
    """What `packed` wrote. An event that this version cannot read, which a newer one wrote, is left out."""
    stored = json.loads(text)
    events = []
    for event in stored["events"]:
        try:
            events.append(event_of(event))
        except (ArithmeticError, LookupError, TypeError, ValueError):
            continue
    return Parcel(tuple(events), stored.get("after"), tuple(stored.get("readers", ())))


def new_reader(turn: str) -> str:
    """A name for somebody who begins to follow that turn: a session's rows name no turn, so their readers do."""
    return f"{turn}.{uuid.uuid4().hex}"


def turn_of(reader: str) -> str:
    """The turn that a reader follows."""
    return reader.rpartition(".")[0]
