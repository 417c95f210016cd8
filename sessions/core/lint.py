"""What in a prompt silently breaks its cache: it changes from call to call, or is a little too short to be kept.

A prefix is read again only while every character of it is the same (prompt-caching page, September 2026). So a date, a
time, an id or a user's name in `system` or in a tool's description makes each day, call or user write a prefix of its
own. A date that is long past or still to come is a fact, not a clock: it counts only where the words say "today".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from sessions.core.cache import text_of
from sessions.core.prices import prices_for
from sessions.core.profiles import Profile
from sessions.core.prompt import Prompt, estimate
from sessions.core.settings import Settings

Kind = Literal["date", "time", "id", "name", "order", "short"]

NEAR = timedelta(days=2)
"""A date this close to now was most likely put there by a clock."""
JUST_BELOW = 0.85
"""From this share of the model's minimum on, a prefix is worth lengthening."""


@dataclass(frozen=True, slots=True)
class Hint:
    """One thing to change. `place`: such as `system[1]`. `start`, `end`: characters of that text, end excluded."""

    kind: Kind
    place: str
    sentence: str
    found: str = ""
    start: int = 0
    end: int = 0

    @property
    def message(self) -> str:
        """Where it is, what it is, and the cure."""
        where = f"{self.place}, characters {self.start} to {self.end}: " if self.found else f"{self.place}: "
        return where + self.sentence


_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_WEEKDAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:\s?(?:[ap]m\b|[ap]\.m\.))?(?:\s?(?:z|utc|gmt|[+-]\d{2}:?\d{2})\b)?"
_AND_CLOCK = rf"(?:(?:t|,?\s+(?:at\s+)?){_CLOCK})?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"

_DATES = tuple(
    re.compile(rf"(?<![\w.-]){pattern}(?![\w-])", re.IGNORECASE)
    for pattern in (
        rf"(?P<year>\d{{4}})(?P<cut>[-/.])(?P<month>\d{{2}})(?P=cut)(?P<day>\d{{2}}){_AND_CLOCK}",
        rf"(?P<day>\d{{1,2}})(?P<cut>[-/.])(?P<month>\d{{1,2}})(?P=cut)(?P<year>\d{{4}}){_AND_CLOCK}",
        rf"{_DAY}(?:\s+of)?[\s-]+(?P<name>{_MONTH})\.?,?[\s-]+(?P<year>\d{{4}}){_AND_CLOCK}",
        rf"(?P<name>{_MONTH})\.?\s+{_DAY},?\s+(?:{_CLOCK}\s+)?(?P<year>\d{{4}}){_AND_CLOCK}",
    )
)
_LOOSE = (
    re.compile(rf"\b{_WEEKDAY}\b", re.IGNORECASE),
    re.compile(rf"\b{_MONTH}\s+\d{{4}}\b", re.IGNORECASE),
)
"""Dates only where the words before them say "today"."""
_TIME = re.compile(rf"(?<![\w:.]){_CLOCK}(?![\w:])", re.IGNORECASE)
_EPOCH = re.compile(r"(?<![\w.-])\d{10}(?:\d{3})?(?:\.\d+)?(?![\w-])")
_UUID = re.compile(r"(?<![\w-])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?![\w-])", re.IGNORECASE)
_LABELLED = re.compile(
    r"\b(?:session|request|trace|conversation|chat|run|correlation|thread)[ _-]?(?:id|identifier|number|key)\b"
    r"[\"'*`]*\s*(?:[:=#]|is)\s*[\"'*`]*(?P<id>(?=[\w-]*\d)[\w-]{6,})",
    re.IGNORECASE,
)
_SAMPLES = frozenset(
    {
        "00000000-0000-0000-0000-000000000000",
        "123e4567-e89b-12d3-a456-426614174000",
        "550e8400-e29b-41d4-a716-446655440000",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    }
)
"""The UUIDs that documentation gives as examples."""

_NOW = re.compile(
    r"(?:\b(?:today|tonight|now)\b(?:['’]s\s+date)?(?:\s*[:=,(]|['’]s|\s+is)?(?:\s+(?:\w+day,?|the|on|at))*"
    r"|\b(?:current|present|today['’]s|system|local|server|this)\W+(?:local\s|utc\s|system\s)?"
    r"(?:date|time|day|datetime|timestamp|month)\b[^.;\n]{0,30}?"
    r"|\bit\s+is\s+(?:now|currently|already)\b(?:\s+\w+day,?)?"
    r"|\bthe\s+(?:date|time|day)\s+is(?:\s+(?:now|\w+day,?))*)\W*$",
    re.IGNORECASE,
)
"""Words before a date that make it the present one."""
_LABEL = re.compile(r"^(?:date|time|datetime|timestamp|now)\W*(?:\w{3,9},?\s*)?$", re.IGNORECASE)
_EXAMPLE = re.compile(
    r"(?:\be\.\s?g\.?|\bi\.\s?e\.?|\b(?:for\s+(?:example|instance)|examples?|such\s+as|like|format(?:ted)?|samples?"
    r"|placeholders?|iso\s?8601|rfc\s?\d+|if|when(?:ever)?)\b)[^\n]{0,50}$",
    re.IGNORECASE,
)
_FRAME = " \t.,;#*_-[](){}<>"
"""What may stand around a stamp."""
_TELL = "tell the model with session.instruct(…), which goes behind the newest words, or in the user's message"


def lint(settings: Settings, profile: Profile, *, now: float) -> list[Hint]:
    """What to change in these settings, in prompt order. `now`: seconds since the epoch."""
    found = [hint for place, text in _texts(settings) for hint in _in_text(place, text, now)]
    short = too_short(settings, profile)
    return [*found, short] if short else found


def named(settings: Settings, owner: str | None, metadata: Mapping[str, Any]) -> list[Hint]:
    """Where the prefix names the user whose session it is: the owner, or metadata that names somebody."""
    found = []
    for source, name in [*_names("owner", owner), *_metadata_names(metadata)]:
        whole = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
        for place, match in ((place, whole.search(text)) for place, text in _texts(settings)):
            if match:
                sentence = (
                    f"{match.group()!r} is this session's {source}, so each user writes a prefix of their own: give it "
                    "as context=, which opens the first message and leaves the shared prefix alone, or in the message"
                )
                found.append(Hint("name", place, sentence, match.group(), *match.span()))
    return found


def reordered(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Hint | None:
    """The hint for the same tools in another order: their order is part of the prefix (September 2026)."""
    old, new = [text_of(tool) for tool in before], [text_of(tool) for tool in after]
    if old == new or sorted(old) != sorted(new):
        return None
    at = next(index for index, (one, other) in enumerate(zip(old, new, strict=True)) if one != other)
    names = [str(tool.get("name") or tool.get("type")) for tool in (before[at], after[at])]
    return Hint(
        "order",
        f"tools[{at}]",
        f"the same tools stand in another order than before ({names[1]!r} where {names[0]!r} was), which writes the "
        "whole prompt to the cache again: give them as a list whose order never changes, such as sorted by name",
    )


def too_short(settings: Settings, profile: Profile) -> Hint | None:
    """The hint for tools and system just below the least that the model caches, with what that costs.

    Sizes are estimates. Without a system prompt there is none: the calls of tools soon make such a prompt longer.
    """
    if not settings.system or not profile.markers:
        return None
    pinned = sum(estimate(block, profile.characters_per_token) for block in settings.context)
    prompt = Prompt(settings, profile)
    size, least = round(prompt.tokens(prompt.head_points) + pinned), profile.minimum_tokens
    if not JUST_BELOW * least <= size < least:
        return None
    missing, prices = least - size, prices_for(profile, least)
    saved = (size * prices.input - least * prices.cache_read) / 1000 if prices else None
    gain = f", and 1000 opening turns cost about ${saved:.2f} less" if saved is not None and saved > 0 else ""
    return Hint(
        "short",
        "system",
        f"what all sessions share is about {size} tokens long, {missing} below the {least} that {settings.model} needs "
        f"to cache it: add about {missing} tokens that never change (rules, examples){gain}",
    )


def _texts(settings: Settings) -> Iterator[tuple[str, str]]:
    """Every text that is part of the shared prefix, with its place, in prompt order."""
    for index, tool in enumerate(settings.tools):
        yield from _descriptions(f"tools[{index}]", tool)
    for index, block in enumerate(settings.system):
        yield f"system[{index}]", str(block.get("text") or "")


def _descriptions(place: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "description" and isinstance(inner, str):
                yield f"{place}.description", inner
            else:
                yield from _descriptions(f"{place}.{key}", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _descriptions(f"{place}[{index}]", inner)


def _in_text(place: str, text: str, now: float) -> Iterator[Hint]:
    """At most one hint of each kind, the first in the text."""
    for kind, spans in (
        ("date", _dates(text, now)),
        ("time", _times(text, now)),
        ("id", _ids(text)),
    ):
        if span := min(spans, default=None):
            yield _hint(kind, place, text, span)  # type: ignore[arg-type]  # the three kinds named above


_WHY = {
    "date": "is the date of a day, so the prefix is written again every day",
    "time": "is the time of a moment, so no call reads what another one wrote",
    "id": "is an id, so no session reads what another one wrote",
}
_CURE = {
    "date": _TELL,
    "time": _TELL,
    "id": "keep it in metadata= (which is not sent), or put it in the user's message",
}


def _hint(kind: Kind, place: str, text: str, span: tuple[int, int]) -> Hint:
    found = text[span[0] : span[1]]
    if kind == "date" and ":" in found:
        kind = "time"
    return Hint(kind, place, f"{found!r} {_WHY[kind]}: {_CURE[kind]}", found, *span)


def _dates(text: str, now: float) -> list[tuple[int, int]]:
    """Spans of the dates that a clock has put there."""
    found = []
    for pattern in _DATES:
        for match in pattern.finditer(text):
            days = _days(match)
            near = any(abs(day - _day_of(now)) <= NEAR for day in days)
            if days and (near or _says_now(text, match.span())):
                found.append(match.span())
    loose = [match.span() for pattern in _LOOSE for match in pattern.finditer(text)]
    return found or [span for span in loose if _follows_now(text, span[0])]


def _times(text: str, now: float) -> list[tuple[int, int]]:
    """Spans of times of day that the words make the present one, and of seconds since the epoch close to now."""
    dated = [match.span() for pattern in _DATES for match in pattern.finditer(text)]
    times = [match.span() for match in _TIME.finditer(text)]
    found = [span for span in times if not _inside(span, dated) and _follows_now(text, span[0])]
    for match in _EPOCH.finditer(text):
        seconds = float(match.group()) / (1000 if len(match.group().partition(".")[0]) == 13 else 1)
        if abs(seconds - now) <= NEAR.total_seconds() or _follows_now(text, match.start()):
            found.append(match.span())
    return found


def _ids(text: str) -> list[tuple[int, int]]:
    found = [m.span() for m in _UUID.finditer(text) if m.group().lower() not in _SAMPLES]
    found += [m.span("id") for m in _LABELLED.finditer(text) if m.group("id").lower() not in _SAMPLES]
    return [span for span in found if not _EXAMPLE.search(_before(text, span[0]))]


def _days(match: re.Match[str]) -> list[date]:
    """The days that a match can mean: both readings of 03/04/2026; none where it is no date at all."""
    parts = match.groupdict()
    name = parts.get("name")
    month = _MONTHS.index(name[:3].lower()) + 1 if name else int(parts["month"])
    readings = [(month, int(parts["day"])), *([] if name else [(int(parts["day"]), month)])]
    found = []
    for month, day in readings:
        try:
            found.append(date(int(parts["year"]), month, day))
        except ValueError:  # no such day
            continue
    return found


def _day_of(now: float) -> date:
    return datetime.fromtimestamp(now, UTC).date()


def _says_now(text: str, span: tuple[int, int]) -> bool:
    """Whether the words make this the present date, or it stands alone, as a stamp does."""
    if _follows_now(text, span[0]):
        return True
    begins, ends = text.rfind("\n", 0, span[0]) + 1, text.find("\n", span[1])
    before, after = text[begins : span[0]].strip(_FRAME), text[span[1] : ends if ends >= 0 else None].strip(_FRAME)
    if begins > 0 and ends >= 0:
        return False
    return bool(_LABEL.match(before)) or (not before and (begins == 0 or not after))


def _follows_now(text: str, start: int) -> bool:
    before = _before(text, start)
    return bool(_NOW.search(before)) and not _EXAMPLE.search(before)


def _before(text: str, start: int) -> str:
    """The words of the same line before a place, the last eighty characters."""
    return text[max(0, start - 80) : start].rpartition("\n")[2]


def _inside(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    return any(start <= span[0] and span[1] <= end for start, end in others)


_COMMON = frozenset(
    re.findall(
        r"\w+",
        "admin administrator agent analyst anonymous api app assistant bot chat claude client coach coder company "
        "customer data default demo desk dev developer editor employee english expert external french friend german "
        "group guest help helper human internal local manager member model none null operator organization owner "
        "patient person player private production project prod public reader research researcher reviewer root sales "
        "service session shop spanish staff student support system teacher team tenant test tester tool travel true "
        "false tutor unknown user users visitor web website worker writer",
    )
)
"""Words that name a role, not a person: an owner called "support" may well be in a support desk's prompt."""
_NAMING = re.compile(
    r"(?:^|_)(?:name|user|username|login|email|mail|phone|customer|account|member|person)(?:_|$)", re.IGNORECASE
)


def _names(source: str, value: str | None) -> list[tuple[str, str]]:
    """The value, if it is distinctive enough that its appearance in a prompt is no accident."""
    name = (value or "").strip()
    least = 5 if name.isdigit() else 3
    return [] if len(name) < least or name.lower() in _COMMON else [(f"{source}", name)]


def _metadata_names(metadata: Mapping[str, Any], prefix: str = "metadata") -> Iterator[tuple[str, str]]:
    """Values whose key says that they name somebody, or that can hardly be anything else (an address)."""
    for key, value in metadata.items():
        place = f"{prefix}[{key!r}]"
        if isinstance(value, Mapping):
            yield from _metadata_names(value, place)
        elif isinstance(value, str) and (_NAMING.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(key))) or "@" in value):
            yield from _names(place, value)
