"""What a model charges for and supports, and what the endpoint that serves it adds or takes away.

Facts are from Anthropic's documentation of August to November 2026 and the types of the `anthropic` package 2.11; each
row names the page's month. A fact that could not be settled is set to the value that costs least when wrong.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Literal
from urllib.parse import urlsplit

Ttl = Literal["5m", "1h"]

LEAST_MINIMUM = 512
"""Tokens: the least prefix that any documented model caches (September 2026)."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One model at one endpoint. Make your own with `dataclasses.replace(profile_for(model), …)`.

    `minimum_tokens`: shorter prefixes are silently not cached. `keeps_thinking`: thinking of earlier turns stays in the
    prompt; otherwise the API strips it at the next plain user message. `lookback`: positions searched behind a
    breakpoint, its own included. `collapses_tools`: a run of `tool_use` (or of `tool_result`) blocks is one position.
    `counts_thinking`: a thinking block is a position.
    `markers`: block-level `cache_control` is honoured (`False`: none is sent, and points are planned all the same, so
    that requests still wait for one that writes what they share). `ttls`: lifetimes that may be asked for;
    the `ttl` field is only ever sent for "1h". `parks`: a 1h entry written on top of a live 5m entry outlives it
    (inferred, not documented). `automatic`: the endpoint caches prefixes by itself. `counters`: it reports cache reads
    and writes. `prewarm_max_tokens`: what a warm-up request asks for (0, or 1 where 0 is refused).
    `context_editing`: old tool results can be cleared by `context_management`.
    `window`, `max_output`: tokens. `characters_per_token` is only the first guess: measured sizes replace it.
    `price_as`: the name to look prices up by; `None`: no price is known. `ends`: the last day of the model at this
    endpoint ("2026-11-30"), where one has been announced.
    """

    name: str
    minimum_tokens: int
    keeps_thinking: bool = True
    lookback: int = 20
    collapses_tools: bool = True
    counts_thinking: bool = False
    markers: bool = True
    ttls: tuple[Ttl, ...] = ("5m", "1h")
    parks: bool = True
    automatic: bool = False
    counters: bool = True
    prewarms: bool = True
    prewarm_max_tokens: int = 0
    diagnostics: bool = True
    system_messages: bool = False
    binds_thinking: bool = False
    drops_bound_thinking: bool = False
    compaction: bool = True
    context_editing: bool = True
    prefill: bool = False
    thinking_types: tuple[str, ...] = ("adaptive",)
    thinking_default: str | None = "adaptive"
    default_effort: str = "high"
    forced_tool_choice: bool = True
    window: int = 1_000_000
    max_output: int = 128_000
    characters_per_token: float = 2.75
    price_as: str | None = None
    known: bool = True
    source: str = ""
    ends: str | None = None

    def has_ended(self, now: float) -> bool:
        """Whether its last day is over (`now`: seconds since the epoch; days are UTC)."""
        return self.ends is not None and datetime.fromtimestamp(now, UTC).date().isoformat() > self.ends

    @property
    def caches_unasked(self) -> bool:
        """Whether the endpoint caches prefixes by itself, and marks are none of its business."""
        return self.automatic and not self.markers

    @property
    def worth_waiting_for(self) -> int:
        """Cold tokens for which a request waits until another one has written them."""
        return max(self.minimum_tokens, LEAST_MINIMUM)


_OFF = ("adaptive", "disabled")


def _model(name: str, minimum: int, source: str, **facts: object) -> Profile:
    return replace(Profile(name, minimum, price_as=name, source=source), **facts)  # type: ignore[arg-type]


def _bound(name: str, source: str, **facts: object) -> Profile:
    """A model whose thinking signatures are bound to the exact prefix (preserved-thinking page, September 2026)."""
    return _model(name, 512, source, **{"binds_thinking": True, "drops_bound_thinking": True, **facts})


_OLD_TOKENIZER = 3.6
_SMALL = {"window": 200_000, "max_output": 64_000, "characters_per_token": _OLD_TOKENIZER}
_ENABLED = {"thinking_types": ("enabled", "disabled"), "thinking_default": None, "prefill": True, **_SMALL}
_ALWAYS = {"system_messages": True, "forced_tool_choice": False}
_OPUS_45 = {"keeps_thinking": True, "ends": "2027-01-22", **_ENABLED}
_STRIPS = {"keeps_thinking": False, **_ENABLED}
_SONNET_45 = {**_STRIPS, "ends": "2026-11-30"}
_46 = {"thinking_types": ("adaptive", "enabled", "disabled"), "thinking_default": None, "characters_per_token": 3.6}

_ROWS = (
    _bound("claude-fable-5-2", "minimum: probable (page of November 2026 lists the model)", **_ALWAYS),
    _bound("claude-mythos-5-2", "minimum and binding: probable (page of November 2026 lists the model)", **_ALWAYS),
    _bound("claude-haiku-5-5", "model page, October 2026", thinking_types=_OFF, default_effort="medium"),
    _bound(
        "claude-sonnet-5-5",
        "model page, October 2026",
        thinking_types=("adaptive", "between_tools"),
        **_ALWAYS,
    ),
    _bound("claude-fable-5-1", "prompt-caching page, September 2026", **_ALWAYS),
    _bound("claude-opus-5-5", "prompt-caching page, September 2026", default_effort="medium", **_ALWAYS),
    _model("claude-mythos-5-1", 512, "prompt-caching page, September 2026", price_as="claude-fable-5-1", **_ALWAYS),
    _model("claude-sonnet-5", 1024, "prompt-caching page, September 2026", thinking_types=_OFF),
    _model("claude-fable-5", 512, "prompt-caching page, September 2026", system_messages=True),
    _model(
        "claude-mythos-5",
        512,
        "prompt-caching page, September 2026",
        system_messages=True,
        price_as="claude-fable-5",
    ),
    _model("claude-opus-5", 512, "prompt-caching page, September 2026", thinking_types=_OFF, system_messages=True),
    _model(
        "claude-opus-4-8",
        1024,
        "prompt-caching page, September 2026",
        thinking_types=_OFF,
        thinking_default=None,
        system_messages=True,
    ),
    _model(
        "claude-opus-4-7",
        2048,
        "prompt-caching page, September 2026",
        thinking_types=_OFF,
        thinking_default=None,
    ),
    _model(
        "claude-mythos-preview",
        2048,
        "prompt-caching page, September 2026; no price published",
        thinking_types=("adaptive", "enabled"),
        price_as=None,
        window=200_000,
        max_output=64_000,
    ),
    _model("claude-opus-4-6", 4096, "prompt-caching page, September 2026", **_46),
    _model("claude-sonnet-4-6", 1024, "prompt-caching page, September 2026", **_46),
    _model("claude-haiku-4-5", 4096, "prompt-caching page, September 2026", **_STRIPS),
    _model("claude-haiku-4-5-20251001", 4096, "prompt-caching page, September 2026", **_STRIPS),
    _model("claude-opus-4-5", 4096, "prompt-caching page, September 2026", **_OPUS_45),
    _model("claude-opus-4-5-20251101", 4096, "prompt-caching page, September 2026", **_OPUS_45),
    _model("claude-sonnet-4-5", 1024, "prompt-caching page, September 2026", **_SONNET_45),
    _model("claude-sonnet-4-5-20250929", 1024, "prompt-caching page, September 2026", **_SONNET_45),
)

MODELS: dict[str, Profile] = {row.name: row for row in _ROWS}
"""Every model of the installed SDK's `Model` type, by name."""


def unknown_model(model: str) -> Profile:
    """A cautious profile: the highest minimum, no zero-token requests, no ttl beyond the default, nothing assumed."""
    return Profile(
        name=model,
        minimum_tokens=4096,
        collapses_tools=False,
        counts_thinking=True,
        ttls=("5m",),
        parks=False,
        prewarms=False,
        compaction=False,
        context_editing=False,
        thinking_types=("adaptive", "enabled", "disabled"),
        thinking_default=None,
        window=200_000,
        max_output=64_000,
        price_as=model,
        known=False,
        source="assumed: no facts are known about this model",
    )


def nearest_models(model: str) -> list[str]:
    """The known models whose names are most like this one, at most three."""
    return get_close_matches(bare_name(model), MODELS)


_PLATFORM: dict[str, object] = {"collapses_tools": False, "counts_thinking": True, "diagnostics": False, "ends": None}
_NO_EDITS: dict[str, object] = {"compaction": False, "context_editing": False}
_SELF_CACHING: dict[str, object] = {
    "ends": None,
    "markers": False,
    "automatic": True,
    "ttls": ("5m",),
    "parks": False,
    "prewarms": True,
    "prewarm_max_tokens": 1,
    "diagnostics": False,
    "compaction": False,
    "context_editing": False,
    "system_messages": False,
    "minimum_tokens": 0,
    "collapses_tools": False,
}

ENDPOINTS: dict[str, dict[str, object]] = {
    "anthropic": {},
    "aws": {"diagnostics": False},
    "bedrock": {**_PLATFORM, "compaction": False, "ttls": ("5m",)},
    "google": _PLATFORM,
    "foundry": _PLATFORM,
    "openrouter": {**_PLATFORM, **_NO_EDITS, "parks": False, "prewarms": False},
    "minimax": {**_PLATFORM, **_NO_EDITS, "ttls": ("5m",), "parks": False, "prewarms": False},
    "deepseek": {**_SELF_CACHING, "counters": False},
    "moonshot": _SELF_CACHING,
    "zai": {**_SELF_CACHING, "counters": False},
    "vllm": {**_SELF_CACHING, "counters": False},
    "llama.cpp": _SELF_CACHING,
    "compatible": {
        **_PLATFORM,
        **_NO_EDITS,
        "ttls": ("5m",),
        "parks": False,
        "prewarms": False,
        "counters": False,
    },
}
"""What an endpoint changes in a model's profile, by the endpoint's name (vendor tables, 2026)."""

_HOUR_ON_BEDROCK = ("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5")
"""Models for which AWS has documented a lifetime of an hour; of later ones its pages contradict each other, and the
field was refused or answered with 5 minutes (January to September 2026)."""
_BEDROCK_ID = re.compile(r"(?:(?P<region>[a-z-]+)\.)?anthropic\.claude-")

_HOSTS = (
    ("aws-external-anthropic.", "aws"),
    ("api.anthropic.com", "anthropic"),
    ("amazonaws.com", "bedrock"),
    ("api.aws", "bedrock"),
    ("googleapis.com", "google"),
    ("azure.com", "foundry"),
    ("openrouter.ai", "openrouter"),
    ("deepseek.com", "deepseek"),
    ("moonshot.ai", "moonshot"),
    ("moonshot.cn", "moonshot"),
    ("z.ai", "zai"),
    ("bigmodel.cn", "zai"),
    ("minimax.io", "minimax"),
    ("minimaxi.com", "minimax"),
)


def endpoint_name(endpoint: str | None) -> str:
    """The row of `ENDPOINTS` for a base URL (or for a row's own name); "compatible" for a server nobody knows."""
    if not endpoint:
        return "anthropic"
    if endpoint in ENDPOINTS:
        return endpoint
    host = (urlsplit(endpoint).hostname or "").lower()
    for part, name in _HOSTS:
        if host == part or host.endswith("." + part) or (part.endswith(".") and host.startswith(part)):
            return name
    return "compatible"


@functools.lru_cache(256)
def bare_name(model: str) -> str:
    """The first-party name inside a platform's id: `us.anthropic.claude-opus-4-5-20251101-v1:0`, `claude-opus-4.5`."""
    match = re.search(r"claude-[a-z0-9.-]+", model.lower().replace("@", "-"))
    name = re.sub(r"-v\d+$", "", match.group().replace(".", "-")) if match else model
    while name not in MODELS and "-" in name:
        shorter = re.sub(r"-(\d{8}|latest|fast)$", "", name)
        if shorter == name:
            return name
        name = shorter
    return name


def profile_for(model: str, endpoint: str | None = None) -> Profile:
    """The profile of a model at an endpoint: a base URL, a name of `ENDPOINTS`, or `None` for the Claude API itself.

    An unknown model gets a cautious profile whose `known` is False.
    """
    name = endpoint_name(endpoint)
    found = MODELS.get(model) or MODELS.get(bare_name(model)) or unknown_model(model)
    changes = dict(ENDPOINTS[name])
    if not found.known and name not in ("anthropic", "bedrock", "google", "foundry", "aws", "openrouter"):
        changes |= {"known": True, "source": f"endpoint {name}"}
    if name == "bedrock" and found.name.startswith(_HOUR_ON_BEDROCK):
        changes["ttls"] = found.ttls
    if found.price_as is not None and (platform := _BEDROCK_ID.search(model)):
        changes["price_as"] = model[platform.start() :]
    return replace(found, name=model, **changes)  # type: ignore[arg-type]


def is_of_bedrock(name: str) -> bool:
    """Whether this is Bedrock's name of a model, such as `us.anthropic.claude-opus-5`."""
    return _BEDROCK_ID.match(name) is not None


def is_regional(name: str) -> bool:
    """Whether Bedrock's model of that name answers in one region, or in those of one continent: that costs more."""
    platform = _BEDROCK_ID.match(name)
    return platform is not None and platform["region"] != "global"
