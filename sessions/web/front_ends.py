"""What front ends of other projects have in common: they name messages by ids of their own, and hold a history.

Of what they send, the newest words of the user and decisions on open calls are taken. An id of a message that is sent
again with the same words is the same turn; with other words it is that message, edited.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote_to_bytes

from sessions import Conflict, Entry, Session, Turn, TurnInfo
from sessions.web.chats import Chats
from sessions.web.files import bytes_of_block
from sessions.web.limits import Limits
from sessions.web.models import Decision, File, Part
from sessions.web.problems import Refused
from sessions.web.variants import are_words
from sessions.web.words import blocks_of, is_storable

_KEY = re.compile(r"(?P<id>.+)#[0-9a-f]{32}", re.DOTALL)
"""An idempotency key of a front end's message: its id, and a digest of its words and of the turn they replaced."""
_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?:;[^;,]+?)*?(?P<base64>;base64)?,(?P<data>.*)", re.DOTALL)
UNDER_WAY = frozenset({"queued", "running"})


# -- files --


def file_of(url: str, media_type: str | None, name: str | None) -> File:
    """The file in a `data:` URL. Raises `Refused`: what lies elsewhere is not fetched for anybody."""
    found = _DATA_URL.fullmatch(url)
    if found is None:
        raise Refused(422, "files must come with the message, as data: URLs: other URLs are not fetched")
    plain = found["base64"] is None
    data = base64.b64encode(unquote_to_bytes(found["data"])).decode() if plain else _standard(found["data"])
    # A media type may be given as its first half only, such as "image".
    kind = media_type if media_type and "/" in media_type else found["type"] or "text/plain"
    return File(type="file", name=name or "file", media_type=kind, data=data)


def stored_file(session: Session, url: str) -> File | None:
    """The file of this conversation that a URL of ours names; `None` for any other URL."""
    found = re.fullmatch(rf".*/api/sessions/{re.escape(session.id)}/files/(?P<entry>\w+)/(?P<place>\d{{1,9}})", url)
    if found is None:
        return None
    entry = next((entry for entry in session.entries if entry.id == found["entry"]), None)
    if entry is None or int(found["place"]) >= len(entry.content):
        return None
    block = entry.content[int(found["place"])]
    if (held := bytes_of_block(block)) is None:
        return None
    data, media_type = held
    name = str(block.get("title") or "file")
    return File(type="file", name=name, media_type=media_type, data=base64.b64encode(data).decode())


def _standard(data: str) -> str:
    """Base64 in its standard form; in a URL it may come percent-encoded."""
    try:
        return base64.b64encode(base64.b64decode(unquote_to_bytes(data), validate=True)).decode()
    except binascii.Error:
        raise Refused(422, "the data of a file is no base64") from None


# -- words --


def check_message(id: str, content: Sequence[Part], limits: Limits) -> None:
    """Raises `Refused` for a message that no turn can begin with, so that no conversation is opened for it."""
    if not is_storable(id):
        raise Refused(422, "the message's id holds characters that no store takes")
    blocks_of(content, limits)


async def say(chats: Chats, session: Session, id: str, content: Sequence[Part]) -> Turn:
    """The turn of a message: begun now, or before, or in the place of what the message said until now."""
    turns = await session.turns()
    named = [turn for turn in turns if _is_named(turn, id)]
    if not named:
        if any(entry.id == id for entry in session.entries):  # of a branch, which has no turns of its own
            return await chats.edit(session, id, content, _key(id, content, None))
        return await chats.begin(session, content, _key(id, content, None))
    newest, before = named[-1], named[-2].id if len(named) > 1 else None
    if newest.key == _key(id, content, before):
        return await chats.begin(session, content, newest.key)
    key = _key(id, content, newest.id)
    has_left = newest is turns[-1] and all(entry.id != newest.entry for entry in session.entries)
    if newest.entry is None or has_left:  # its words were refused, or taken back
        return await chats.begin(session, content, key)
    return await chats.edit(session, newest.entry, content, key)


async def again(chats: Chats, session: Session, *ids: str | None) -> Turn:
    """Another answer to the words that the first of these ids names which names any. Raises `Refused`."""
    turns = await session.turns()
    for id in ids:
        named = next((turn for turn in reversed(turns) if id in (turn.id, turn.entry) or _is_named(turn, id)), None)
        if named is not None and named.entry is not None:
            newest = next(turn for turn in reversed(turns) if turn.entry == named.entry)
            return await chats.regenerate(session, newest.id)
    words = next((entry.id for entry in reversed(session.entries) if are_words(entry)), None)
    if words is not None and words in ids:  # of a branch, which has its words from where it comes from
        return await chats.regenerate(session)
    raise Refused(409, "there is no such answer to ask for again: load the conversation again")


def _key(id: str, content: Sequence[Part], instead: str | None) -> str:
    """The idempotency key of a message. `instead`: the turn that it takes the place of."""
    said = json.dumps([[part.model_dump() for part in content], instead])
    return f"{id}#{blake2b(said.encode('utf-8', 'replace'), digest_size=16).hexdigest()}"


def _name_of(turn: TurnInfo) -> str | None:
    """The front end's id of the message that a turn began with."""
    if turn.key is None:
        return None
    found = _KEY.fullmatch(turn.key)
    return found["id"] if found else turn.key


def turn_named(turns: Sequence[TurnInfo], id: str) -> TurnInfo | None:
    """The newest turn that began with the message of this id."""
    return next((turn for turn in reversed(turns) if _is_named(turn, id)), None)


def _is_named(turn: TurnInfo, id: str | None) -> bool:
    return id is not None and id in (turn.entry, _name_of(turn))


# -- decisions --


async def decide(chats: Chats, session: Session, decisions: Sequence[Decision]) -> tuple[Turn, str]:
    """Decides on calls that are open in the store; the turn that goes on, and the entry that asked for them.

    Decisions on other calls say nothing. Raises `Refused` where all of them are on others.
    """
    waiting = {call.call_id for call in session.pending if not call.by_caller}
    chosen = [decision for decision in decisions if decision.call_id in waiting]
    if not chosen:
        raise Refused(409, "none of these calls waits for a decision: load the conversation again")
    asked = session.entries[-1].id
    late: Conflict | None = None
    for decision in chosen:
        try:
            await chats.decide(session, decision.call_id, decision.approve, decision.input, decision.reason)
        except Conflict as error:  # another page was faster: what it decided stands
            late = error
    turn = await chats.turn(session.id)
    if turn is None or (late is not None and turn.state == "waiting"):
        raise late or Conflict("this conversation has no turn any more: load it again")
    return turn, asked


# -- what is there --


@dataclass(frozen=True, slots=True)
class Exchange:
    """The user's words and what was answered. `id`: of the answer; `name`: of the words, as the front end calls them.

    `turn`: `None` in a branch, whose turns are the other conversation's. `answer`: replies and results of tools.
    """

    id: str
    name: str
    words: Entry | None
    answer: tuple[Entry, ...]
    turn: TurnInfo | None


def exchanges(session: Session, turns: Sequence[TurnInfo]) -> list[Exchange]:
    """A conversation as front ends see it: one message of the user's, one answer."""
    newest = {turn.entry: turn for turn in turns if turn.entry is not None}
    names: dict[str, str] = {}
    for turn in turns:
        # The first one has the id: another answer to the same words has a key of ours.
        if turn.entry is not None:
            names.setdefault(turn.entry, _name_of(turn) or turn.entry)
    grouped: list[tuple[Entry | None, list[Entry]]] = []
    for entry in session.entries:
        if are_words(entry):
            grouped.append((entry, []))
        elif not grouped:
            grouped.append((None, [entry]))
        else:
            grouped[-1][1].append(entry)
    found: list[Exchange] = []
    for words, answer in grouped:
        begun = newest.get(words.id) if words is not None else None
        id = begun.id if begun is not None else next((entry.id for entry in answer), "")
        name = names.get(words.id, words.id) if words is not None else ""
        found.append(Exchange(id=id, name=name, words=words, answer=tuple(answer), turn=begun))
    return found


def words_in(entry: Entry) -> list[tuple[int, Mapping[str, Any]]]:
    """The blocks that the user has said, with their places in the entry."""
    return [(place, block) for place, block in enumerate(entry.content) if block.get("type") != "tool_result"]


async def under_way(chats: Chats, session: Session) -> Turn | None:
    """The turn that runs, or the first one that is queued; `None` where all are at rest."""
    newest = await chats.turn(session.id)
    if newest is None or newest.state == "running":
        return newest
    for state in ("running", "queued"):
        found = next((turn for turn in await session.turns() if turn.state == state), None)
        if found is not None:
            return await chats.turn(session.id, found.id)
    return None
