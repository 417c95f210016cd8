"""What a process has learnt of one model at one endpoint: a value, and the profile that it makes of the one in the
tables. It is learnt from what the endpoint refuses and from what its answers show; nothing of it outlives the process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sessions.core.cleared import applied
from sessions.core.incoming import Incoming
from sessions.core.plan import Plan
from sessions.core.profiles import Profile
from sessions.errors import ContextFull, ModelError
from sessions.model.failures import belongs_elsewhere, is_of_the_account, reason_of, status_of

Feature = Literal["ttl", "diagnostics", "zero tokens", "compaction", "tool runs", "clearing"]

_ANSWERED = ("turn", "compact", "batch")
"""Kinds of requests that want an answer; all others ask for no tokens."""
_WITHOUT: Mapping[Feature, Mapping[str, Any]] = {
    "ttl": {"ttls": ("5m",), "parks": False},
    "diagnostics": {"diagnostics": False},
    "zero tokens": {"prewarms": False},
    "compaction": {"compaction": False},
    "tool runs": {"collapses_tools": False},
    "clearing": {"context_editing": False},
}
"""What is taken out of a profile with each feature."""
_STEPS = (
    ("counters", "ttls", "prewarms", "parks"),
    ("collapses_tools", "counts_thinking", "diagnostics", "compaction", "context_editing"),
)
"""What an endpoint that answers as the API does gets of the API's profile: with the first such answer what costs one
refused request where it is wrong; with the second what may cost a miss."""

_SAYS_NOTHING = (401, 402, 403, 404, 408, 409, 413, 429)
"""The key, the account, the address, the load or the size: such a status is no word about a feature."""
_TTL, _DIAGNOSTICS = re.compile(r"\bttl\b"), re.compile(r"\bdiagnostics\b")
_CLEARING = re.compile(r"context[_-]management|clear_tool_uses")
_CONTENT = re.compile(r"messages\.\d+")
_MESSAGE_ID = re.compile(r"msg_(?!bdrk_|vrtx_)")


@dataclass(frozen=True, slots=True)
class Learnt:
    """`refused`: features that the endpoint has refused. `hour`: whether the last request for an hour was written for
    an hour. `agreed`: answers that were such as the API gives; `differed`: one was not, which nothing undoes.
    """

    refused: frozenset[Feature] = frozenset()
    hour: bool | None = None
    agreed: int = 0
    differed: bool = False

    @property
    def is_taken_for_the_api(self) -> bool:
        """Whether its answers have been such as the API gives, all since the first one."""
        return self.agreed > 0 and not self.differed

    def profile(self, base: Profile, api: Profile) -> Profile:
        """What holds there. `base`: the profile in the tables, or as given; `api`: the model's at the API itself."""
        steps = _STEPS[: self.agreed] if self.is_taken_for_the_api else ()
        changes: dict[str, Any] = {field: getattr(api, field) for step in steps for field in step}
        if self.hour:
            changes["ttls"] = ("5m", "1h")
        if self.hour is False:
            changes["parks"] = False
        for feature in self.refused:
            changes |= _WITHOUT[feature]
        return replace(base, **changes) if changes else base

    def without(self, feature: Feature) -> Learnt:
        """The endpoint has refused it."""
        return replace(self, refused=self.refused | {feature})

    def told_of_hours(self, hour: bool | None) -> Learnt:
        """An answer shows whether an hour is written (`None`: it does not)."""
        return self if hour is None else replace(self, hour=hour)

    def compared(self, *, is_like_the_api: bool) -> Learnt:
        """One answer more that is, or is not, such as the API gives."""
        if not is_like_the_api:
            return replace(self, differed=self.differed or self.agreed > 0)
        return replace(self, agreed=min(self.agreed + 1, len(_STEPS)))


def refused_feature(error: ModelError, kind: str, body: Mapping[str, Any], plan: Plan) -> Feature | None:
    """What of this request the endpoint refuses; `None` where it refuses nothing, or something else.

    `kind`: of the call, as in the ledger.
    """
    status = status_of(error)
    if status is None or not 400 <= status < 500 or status in _SAYS_NOTHING or is_of_the_account(error):
        return None
    reason = reason_of(error)
    if (named := named_feature(reason, body, plan)) is not None:
        return named
    # The content is refused to whoever sends it, and for whatever number of tokens.
    if isinstance(error, ContextFull) or belongs_elsewhere(error) or _CONTENT.match(reason):
        return None
    if kind not in _ANSWERED:
        return "zero tokens"
    return "compaction" if kind == "compact" else None


def named_feature(reason: str, body: Mapping[str, Any], plan: Plan) -> Feature | None:
    """The field of a refused request that the endpoint's own words name, where it can be left out; else `None`."""
    if _TTL.search(reason) and any(mark.ttl == "1h" for mark in plan.marks):
        return "ttl"
    # Of a session that clears nothing it is the user's own field.
    if _CLEARING.search(reason) and plan.cleared is not None:
        return "clearing"
    return "diagnostics" if _DIAGNOSTICS.search(reason) and "diagnostics" in body else None


def clears_otherwise(plan: Plan, incoming: Incoming) -> bool:
    """Whether the API says to have cleared the results of more or fewer tool uses than it was asked to."""
    return bool(plan.cleared) and applied(incoming.message)[0] != plan.cleared


def loses_what_is_cleared(plan: Plan, miss: str | None) -> bool:
    """Whether a request with the same results cleared as the one before did not find its prefix, and nothing else
    tells why. Each says in other words which are to be kept: should these words be part of what the cache is keyed by,
    which is not documented, then every request would write all anew."""
    return bool(plan.cleared) and plan.clearing is None and miss == "evicted"


def shows_hours(plan: Plan, incoming: Incoming) -> bool | None:
    """Whether the answer shows that an hour was written where it was asked for; `None` where it does not tell."""
    usage = incoming.usage
    if usage.cache_write_1h:
        return True
    if not plan.expected.cache_write_1h or not usage.cache_write_5m or not incoming.usage_fields.get("cache_creation"):
        return None
    # Where something was read, that may have been the part for an hour.
    return False if not usage.cache_read or all(mark.ttl == "1h" for mark in plan.marks) else None


def is_like_the_api(incoming: Incoming) -> bool:
    """Whether a streamed answer has what the Claude API's own have: its ids, an organization, both write counters."""
    split = incoming.usage_fields.get("cache_creation")
    counters = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
    return (
        (incoming.request_id or "").startswith("req_")
        and incoming.organization is not None
        and _MESSAGE_ID.match(incoming.message_id or "") is not None
        and isinstance(split, Mapping)
        and all(isinstance(split.get(counter), int) for counter in counters)
    )
