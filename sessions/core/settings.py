"""What a session sends with every call: model, system prompt, tools and the rest, in one canonical shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sessions.core.cache import content_blocks
from sessions.core.transcript import Malformed, canonical, encode, fault_of, is_blank, lift_marks, plain, shown
from sessions.core.usage import MOST_TOKENS

PREFIX_FIELDS = frozenset({"model", "system", "tools", "tool_choice", "thinking", "output_config", "context"})
"""Settings that are part of the cached prefix."""

PREFIX_PARAMS = frozenset({"speed", "context_management", "betas", "mcp_servers", "inference_geo"})
"""Fields of `params` that are part of the cached prefix, or that change which cache is asked (September 2026)."""

MOST_CHARACTERS = 1000
"""Of a model's name: a platform's longest ids have some 200."""

COMPACT = ("auto", "cheapest")
"""When a session compacts by itself: before the window is full; or, besides, when that is cheaper than going on."""

_RESERVED = frozenset(
    {
        "model", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "stream",
        "cache_control", "diagnostics", "thread", "timeout", "compaction",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """`system` and `context`: content blocks. `tools`: definitions as sent. `local_tools`: names that we run ourselves.

    `params`: any other request field, sent as given. `marks`: the user's own `cache_control`, lifted out of system,
    tools and context, as ("system" | "tools" | "context", index).

    `instructions`: the operator's, which go out with the next call. `unbound`: the thinking of that many first entries
    is bound to a prefix that the user has changed since. `foreign`: the history holds imported thinking, of which
    nobody knows what prefix it is bound to. `cleared`: what has been decided with `clear_tool_results`, as (the reply
    before it, how many of the oldest tool uses have their results cleared behind it), the oldest first.
    """

    model: str
    max_tokens: int
    system: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    context: tuple[dict[str, Any], ...] = ()
    thinking: dict[str, Any] | None = None
    tool_choice: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    params: dict[str, Any] | None = None
    compact: str | None = None
    clear_tool_results: bool = False
    local_tools: tuple[str, ...] = ()
    marks: tuple[tuple[str, int], ...] = ()
    instructions: tuple[str, ...] = ()
    unbound: int = 0
    foreign: bool = False
    cleared: tuple[tuple[str, int], ...] = ()

    def request(self) -> dict[str, Any]:
        """The request body without `messages` and without markers."""
        body: dict[str, Any] = {"model": self.model, "max_tokens": self.max_tokens}
        for name in ("system", "tools"):
            if value := getattr(self, name):
                body[name] = list(value)
        for name in ("thinking", "tool_choice", "output_config"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        return {**body, **(self.params or {})}

    @property
    def by_caller(self) -> frozenset[str]:
        """Names of the tools whose calls the caller answers."""
        names = (str(definition["name"]) for definition in self.tools if "name" in definition)
        return frozenset(names) - set(self.local_tools)

    def to_json(self) -> str:
        """The text that is stored."""
        return json.dumps(
            {f.name: getattr(self, f.name) for f in fields(self)}, ensure_ascii=False, separators=(",", ":")
        )

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Reads what `to_json` wrote; fields that a newer version added are left out."""
        stored = json.loads(text)
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in stored.items() if key in known}
        for name in ("system", "tools", "context", "local_tools", "instructions"):
            values[name] = tuple(values.get(name) or ())
        values["cleared"] = tuple((str(reply), int(count)) for reply, count in values.get("cleared") or ())
        values["marks"] = tuple((str(place), int(index)) for place, index in values.get("marks") or ())
        return cls(**values)


def make_settings(
    *,
    model: str,
    max_tokens: int,
    system: Any = None,
    tools: Sequence[Mapping[str, Any]] = (),
    context: Any = (),
    thinking: Mapping[str, Any] | None = None,
    tool_choice: Mapping[str, Any] | None = None,
    output_config: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    compact: str | None = None,
    clear_tool_results: bool = False,
    local_tools: Sequence[str] = (),
) -> Settings:
    """Settings in canonical shape, checked; raises `Malformed` saying which setting is wrong and how to mend it."""
    if not isinstance(model, str) or not model.strip() or fault_of(model) or len(model) > MOST_CHARACTERS:
        raise Malformed(f"model must be a model name, such as 'claude-sonnet-5-5', not {shown(model)}")
    if type(max_tokens) is not int or not 1 <= max_tokens <= MOST_TOKENS:
        raise Malformed(f"max_tokens must be a positive int, not {shown(max_tokens)}")
    if compact is not None and compact not in COMPACT:
        raise Malformed(f"compact must be None, 'auto' or 'cheapest', not {shown(compact)}")
    _check_clearing(clear_tool_results, compact, params)
    made = Settings(
        model, max_tokens, compact=compact, clear_tool_results=clear_tool_results, local_tools=tuple(local_tools)
    )
    made = _with_blocks(made, "system", _system(system))
    made = _with_blocks(made, "context", canonical(context, where="context") if context else [])
    made = _with_blocks(made, "tools", [_tool(tool, index) for index, tool in enumerate(tools)])
    return replace(
        made,
        thinking=_mapping("thinking", thinking, "type"),
        tool_choice=_mapping("tool_choice", tool_choice, "type"),
        output_config=_mapping("output_config", output_config),
        params=_params(params),
    )


def _check_clearing(clears: Any, compact: str | None, params: Any) -> None:
    """Raises `Malformed` where tool results cannot be cleared beside the rest (docs/provider.md, 13)."""
    if not isinstance(clears, bool):
        raise Malformed(f"clear_tool_results must be True or False, not {shown(clears)}")
    if clears and compact is not None:
        raise Malformed("clear_tool_results does not go with compact: the API takes one or the other")
    if clears and isinstance(params, Mapping) and "context_management" in params:
        raise Malformed("clear_tool_results does not go with params['context_management']: the session sets that field")


def _with_blocks(settings: Settings, name: str, given: Sequence[Mapping[str, Any]]) -> Settings:
    bare, marked = lift_marks(given)
    encode(bare, where=name)
    marks = (*settings.marks, *((name, index) for index in marked))
    return replace(settings, marks=marks, **{name: tuple(bare)})  # type: ignore[arg-type]


def _system(system: Any) -> list[dict[str, Any]]:
    if system is None or system == "" or system == []:
        return []
    if not isinstance(system, Sequence) or isinstance(system, bytes | bytearray):
        raise Malformed(f"system must be a str or a list of text blocks, not {type(system).__name__}")
    found = [plain(block, where=f"system[{index}]") for index, block in enumerate(content_blocks(system))]
    for index, block in enumerate(found):
        if block.get("type") != "text" or is_blank(block):
            raise Malformed(f"system[{index}] must be a text block that is not blank")
    return found


def _tool(given: Any, index: int) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise Malformed(f"tools[{index}] must be a function, an SDK tool or a dict, not {type(given).__name__}")
    if not given.get("type") and "input_schema" not in given:
        raise Malformed(f"tools[{index}] needs an 'input_schema' (your own tool) or a 'type' (a server tool)")
    if "input_schema" in given and not isinstance(given.get("name"), str):
        raise Malformed(f"tools[{index}] needs a 'name' that is a str")
    if (name := given.get("name")) is not None and (not isinstance(name, str) or fault_of(name)):
        raise Malformed(f"tools[{index}].name must be a str that can be stored, not {shown(name)}")
    return dict(given)


def _mapping(name: str, given: Mapping[str, Any] | None, *needs: str) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or any(not isinstance(given.get(key), str) for key in needs):
        wanted = f" with {', '.join(map(repr, needs))}" if needs else ""
        raise Malformed(f"{name} must be a dict{wanted}, not {shown(given)}")
    return _fields(name, given)


def _params(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is not None and not isinstance(given, Mapping):
        raise Malformed(f"params must be a dict of request fields, not {shown(given)}")
    if not given:
        return None
    found = _fields("params", given)
    if taken := sorted(_RESERVED & set(found)):
        raise Malformed(f"params may not hold {', '.join(taken)}: the session sets what it sends there")
    betas = found.get("betas", [])
    if not isinstance(betas, list) or not all(isinstance(one, str) for one in betas):
        raise Malformed(f"params['betas'] must be a list of str, not {shown(betas)}")
    return found


def _fields(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if odd := [key for key in given if not isinstance(key, str)]:
        raise Malformed(f"the keys of {name} must be str, not {shown(odd[0])}")
    found = dict(given)
    encode([found], where=name)
    return found
