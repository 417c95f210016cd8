"""What a rule of the probe is made of: requests out, what came back in, a finding at the end. Values only.

A rule is a generator: it yields an `Ask`, is sent what was `Seen`, and returns a `Finding`. It waits for nothing and
opens nothing; who drives it (`run.py`) owns the client and the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sessions.core.profiles import Profile
from sessions.core.usage import Usage

Verdict = Literal["agrees", "differs", "cannot tell", "skipped"]
"""Against Anthropic's documentation. "skipped": it was not asked."""
Need = Literal["counters", "markers", "1h"]
"""What the endpoint must have for a rule to be asked at all."""

SHORT = 60
"""Tokens of a block that is there to be different."""
_WORD = "lorem "


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `what`: in words, for the evidence. `at`: not before that many seconds after the rule's first one.

    `during`: a second request, sent at the first one's first event, or `together` with it.
    """

    what: str
    body: Mapping[str, Any]
    at: float = 0.0
    during: Ask | None = None
    together: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of an `Ask`. `refused`: the endpoint's own words where it did not take the request (4xx).

    `message`: the reply without its content. `fields`: the `usage` object as received. Times are seconds since the
    epoch. `during`: what became of the second request.
    """

    ask: Ask
    started: float
    ended: float
    status: int
    refused: str | None = None
    usage: Usage = field(default_factory=Usage)
    fields: Mapping[str, Any] = field(default_factory=dict)
    message: Mapping[str, Any] = field(default_factory=dict)
    content: tuple[Mapping[str, Any], ...] = ()
    request_id: str | None = None
    during: Seen | None = None

    @property
    def cached(self) -> bool:
        """Whether the prompt was written to the cache, or read from it."""
        return self.usage.cache_write > 0 or self.usage.cache_read > 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found. `sentence`: for a person. `changes`: fields of the `Profile`, by name.

    `scale`: characters a token, and tokens that a block costs beside its text.
    """

    verdict: Verdict
    sentence: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    scale: tuple[float, float] | None = None


class Unclear(Exception):
    """What was seen does not settle the rule. The message says why."""


Steps = Generator[Ask, Seen, Finding]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the API. `says`: the rule as documented. `waits`: it must wait for a lifetime to pass.

    `cautious`: what the profile gets where it was asked and cannot be told; unasked, it keeps what it has.
    """

    name: str
    says: str
    steps: Callable[[Bench], Steps]
    needs: tuple[Need, ...] = ()
    waits: bool = False
    cautious: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a rule may know when it begins.

    `documented`: what Anthropic says of this model. `known`: what is known of the endpoint so far. `other`: another
    model, for what must be apart. `label`: unlike that of any other rule and run, so that nothing cached before is met.
    `scale`: as in `Finding`.
    """

    model: str
    documented: Profile
    known: Profile
    label: str
    scale: tuple[float, float]
    other: str | None = None

    @property
    def size(self) -> int:
        """Tokens of a prefix that is surely long enough to be cached."""
        return round(self.known.minimum_tokens * 1.15) + 64

    def text(self, tokens: float, word: str = "", ttl: str | None = None) -> dict[str, Any]:
        """A text block of about that many tokens, `word` telling it from others; marked if `ttl` is given."""
        per_token, overhead = self.scale
        head = f"{self.label} {word} "
        length = max(len(head), round((tokens - overhead) * per_token))
        text = (head + _WORD * (length // len(_WORD) + 1))[: length - 1] + "."
        return {"type": "text", "text": text, **({"cache_control": mark(ttl)} if ttl else {})}

    def short(self, word: str, ttl: str | None = None) -> dict[str, Any]:
        """A block of a few tokens."""
        return {"type": "text", "text": f"{word}.", **({"cache_control": mark(ttl)} if ttl else {})}

    def ask(self, what: str, *content: Mapping[str, Any], at: float = 0.0, **fields: Any) -> Ask:
        """A request of one user message; `fields` replace or add fields of the body."""
        body = {"model": self.model, "max_tokens": 1, "messages": [user(*content)], **fields}
        return Ask(what, body, at)


def mark(ttl: str) -> dict[str, str]:
    """A `cache_control`; the field `ttl` is left out for five minutes, as our own requests do."""
    return {"type": "ephemeral"} if ttl == "5m" else {"type": "ephemeral", "ttl": ttl}


def user(*content: Mapping[str, Any]) -> dict[str, Any]:
    """A user message."""
    return {"role": "user", "content": list(content)}


def accepted(ask: Ask) -> Generator[Ask, Seen, Seen]:
    """Asks what must not be refused. Raises `Unclear` where it is."""
    seen = yield ask
    if seen.refused is not None:
        raise Unclear(f"{ask.what}: refused ({seen.refused})")
    return seen


def written(ask: Ask) -> Generator[Ask, Seen, Seen]:
    """Asks what must write a new prefix to the cache. Raises `Unclear` where it does not."""
    seen = yield from accepted(ask)
    if not seen.usage.cache_write or seen.usage.cache_read:
        raise Unclear(f"{ask.what}: read {seen.usage.cache_read}, written {seen.usage.cache_write} tokens")
    return seen


def near(tokens: int, expected: float) -> bool:
    """Whether a figure is the expected one, give or take what a template or a tokenizer adds."""
    return abs(tokens - expected) <= max(16, 0.1 * expected)


def reads(seen: Seen, prefix: Seen) -> bool:
    """Whether a request read the prefix that another one had written (or read)."""
    return seen.usage.cache_read >= 0.9 * (prefix.usage.cache_write + prefix.usage.cache_read) > 0
