"""A conversation is a chain of entries, each named by the digest of all before it; entries are never edited."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

from pydantic_core import from_json

from sessions.core.cache import THINKING, Block, mark_of, without_marks

Role = Literal["user", "assistant", "system"]
_ROLES = ("user", "assistant", "system")
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
MAX_MESSAGES = 100_000
"""Messages per request that the API takes (docstring of the SDK 2.11)."""
MAX_DEPTH = 100
"""The deepest nesting taken. Deeper values could not be written again by Python's own JSON encoder in every frame."""


class Malformed(ValueError):
    """Content or history that the API would refuse; the message says where and what."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of the history. `content` is a list of blocks, as stored: treat it as read-only.

    `created_at`: seconds since the epoch. `stop_reason`: of assistant entries. `prompt_tokens`: the measured size of
    the prompt that made this reply, `output_tokens` its own (`None` where not known). `message_id`: the API's.
    """

    id: str
    parent: str | None
    role: Role
    content: list[dict[str, Any]]
    created_at: float
    stop_reason: str | None = None
    depth: int = field(default=1, kw_only=True)
    prompt_tokens: int | None = field(default=None, kw_only=True)
    output_tokens: int | None = field(default=None, kw_only=True)
    model: str | None = field(default=None, kw_only=True)
    message_id: str | None = field(default=None, kw_only=True)
    call: str | None = field(default=None, kw_only=True)

    @property
    def message(self) -> dict[str, Any]:
        """The entry as the API takes it: `{"role", "content"}`, a fresh copy."""
        return {"role": self.role, "content": copied(self.content)}


def encode(content: Sequence[Mapping[str, Any]], *, where: str = "content") -> str:
    """The exact text that is stored and hashed. Keys keep their order: another order is another cache entry.

    Raises `Malformed` for what is no JSON, and for what is nested so deep that it could not be read back everywhere.
    """
    try:
        text = _ENCODE(content)
        text.encode()
    except RecursionError as error:
        raise Malformed(f"{where} is nested deeper than {MAX_DEPTH} levels: make it flatter") from error
    except (TypeError, ValueError) as error:
        raise Malformed(f"{where} is not valid JSON text: {error}") from error
    if text.count("[") + text.count("{") > MAX_DEPTH and is_too_deep(content):
        raise Malformed(f"{where} is nested deeper than {MAX_DEPTH} levels: make it flatter")
    return text


def is_too_deep(value: Any) -> bool:
    """Whether JSON data holds anything more than `MAX_DEPTH` levels down."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level if (held := _inside(outer)) for inner in held]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def fault_of(text: str) -> str | None:
    """What keeps a text from being stored everywhere, or `None`."""
    if "\0" in text:
        return "holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    return None


def shown(value: Any) -> str:
    """A value that was given, in the sentence that refuses it."""
    try:
        return f"{value!r:.80}"
    except Exception:  # too deep, too many digits, or a repr of its own that fails
        return f"a value of type {type(value).__name__}"


def decode(text: str) -> list[dict[str, Any]]:
    """The blocks of a stored entry. Raises `ValueError` for what is no JSON."""
    content: list[dict[str, Any]]
    try:
        content = from_json(text)
    except ValueError:  # it takes 200 levels, and no half of a surrogate pair
        content = json.loads(text)
    return content


def decode_all(texts: Sequence[str]) -> list[list[dict[str, Any]]]:
    """As `decode` of each, with fewer steps of Python for each: a conversation has thousands."""
    try:
        return list(map(from_json, texts))
    except ValueError:
        return list(map(decode, texts))


def copied(value: Any) -> Any:
    """A copy of decoded JSON that shares nothing that can be changed."""
    if isinstance(value, dict):
        return {key: copied(one) if isinstance(one, (dict, list)) else one for key, one in value.items()}
    if isinstance(value, list):
        return [copied(one) if isinstance(one, (dict, list)) else one for one in value]
    return value


def entry_id(parent: str | None, role: str, text: str) -> str:
    """`H(parent, role, content verbatim)`, 32 hex digits."""
    return blake2b(f"{parent or ''}\n{role}\n{text}".encode(), digest_size=16).hexdigest()


def is_blank(block: Block) -> bool:
    """An empty or white-space text block."""
    return block.get("type") == "text" and not str(block.get("text") or "").strip()


def plain(block: Any, *, where: str = "a content block") -> dict[str, Any]:
    """A block as a plain dict: SDK objects are taken too, with unknown fields kept and unset ones left out."""
    if hasattr(type(block), "model_dump"):
        return dict(block.model_dump(mode="json", exclude_unset=True, by_alias=True))
    if not isinstance(block, Mapping):
        raise Malformed(f"{where} must be a dict with a 'type', not {type(block).__name__}: {shown(block)}")
    return dict(block)


def canonical(content: Any, *, where: str = "content") -> list[dict[str, Any]]:
    """User content in its one stored shape: a list of blocks. Raises `Malformed` for what the API would refuse.

    Markers stay in: `lift_marks` takes them out.
    """
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if isinstance(content, Mapping) or not isinstance(content, Iterable):
        raise Malformed(f"{where} must be a str or a list of content blocks, not {type(content).__name__}")
    found = [plain(block, where=f"{where}[{index}]") for index, block in enumerate(content)]
    for index, block in enumerate(found):
        _check_block(block, f"{where}[{index}]")
    if not found:
        raise Malformed(f"{where} is blank: give some text, or leave the message out")
    encode(found, where=where)
    return found


def _check_block(block: Mapping[str, Any], where: str) -> None:
    kind = block.get("type")
    if not isinstance(kind, str) or not kind:
        raise Malformed(f"{where} is no content block: it needs a 'type', such as 'text'")
    if kind == "text" and not isinstance(block.get("text"), str):
        raise Malformed(f"{where}.text must be a str")
    if is_blank(block):
        raise Malformed(f"{where} is a blank text block, which the API refuses: leave it out")
    if kind == "tool_use" and not isinstance(block.get("input"), Mapping):
        raise Malformed(f"{where}.input of a tool_use must be an object")
    for key in ("id", "name") if kind == "tool_use" else ("tool_use_id",) if kind == "tool_result" else ():
        if not isinstance(block.get(key), str) or not block[key]:
            raise Malformed(f"{where}.{key} of a {kind} must be a non-empty str")
        if key != "name" and not _ID.fullmatch(block[key]):
            raise Malformed(f"{where}.{key} {block[key]!r:.60} may hold only letters, digits, _ and -")


def lift_marks(content: Sequence[Block]) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """Content without `cache_control`, and the indexes of the blocks that carried one."""
    marked = tuple(index for index, block in enumerate(content) if mark_of(block))
    return [dict(without_marks(block)) for block in content], marked


def tool_calls(content: Sequence[Block]) -> list[Block]:
    """The client tool calls of an assistant message, in call order."""
    return [block for block in content if block.get("type") == "tool_use"]


def sendable_reply(content: Sequence[Block]) -> list[dict[str, Any]]:
    """A reply as it may be sent back: all blocks as received, but for blank text, which the API refuses."""
    return [dict(block) for block in content if not is_blank(block)]


def is_empty_reply(content: Sequence[Block]) -> bool:
    """Nothing to append: no block at all, thinking alone, or blank text alone."""
    return all(block.get("type") in THINKING or is_blank(block) for block in content)


def check_history(
    messages: Iterable[Any],
    previous: Sequence[Mapping[str, Any]] = (),
    *,
    count: int | None = None,
    ids: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Messages in canonical form, validated as the API would behind `previous`; raises `Malformed` naming the first.

    Where the caller knows how many messages stand before (`count`) and the ids of all their tool calls (`ids`), the
    last one of them is enough. Rules: the Messages API's of October 2026 (sequence, tool pairing, non-empty content).
    """
    found: list[dict[str, Any]] = []
    for number, given in enumerate(messages):
        found.append(_check_message(given, f"messages[{number}]"))
    if (len(previous) if count is None else count) + len(found) > MAX_MESSAGES:
        raise Malformed(f"a conversation holds at most {MAX_MESSAGES} messages")
    if ids is None:
        ids = {str(block["id"]) for message in previous for block in tool_calls(message["content"])}
    _check_sequence(previous, found, ids)
    return found


def _check_message(given: Any, where: str) -> dict[str, Any]:
    message = plain(given) if hasattr(type(given), "model_dump") or isinstance(given, Mapping) else None
    if message is None or message.get("role") not in _ROLES:
        raise Malformed(f"{where} must be a dict with a role of {', '.join(_ROLES)} and a content")
    content = canonical(message.get("content"), where=f"{where}.content")
    if message["role"] == "assistant" and is_empty_reply(content):
        raise Malformed(f"{where} has nothing but thinking or blank text: leave it out")
    for index, block in enumerate(content):
        _check_role(str(message["role"]), str(block["type"]), f"{where}.content[{index}]")
    if extra := sorted({"clear_at", "output_config"} & set(message)):
        raise Malformed(f"{where}: {extra[0]} of a message is not kept by a session: leave it out")
    return {"role": message["role"], "content": content}


def _check_role(role: str, kind: str, where: str) -> None:
    if role != "assistant" and kind in {"tool_use", "server_tool_use", *THINKING}:
        raise Malformed(f"{where}: a {kind} block belongs in an assistant message")
    if role != "user" and kind == "tool_result":
        raise Malformed(f"{where}: a tool_result belongs in a user message")
    if role == "assistant" and kind == "document":
        raise Malformed(f"{where}: a document may not stand in an assistant message")
    if role == "system" and kind != "text":
        raise Malformed(f"{where}: a system message holds text only")


def _check_sequence(
    previous: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], earlier: Collection[str]
) -> None:
    if not previous and found and found[0]["role"] != "user" and not is_summary(found[0]):
        raise Malformed("messages[0]: the first message must have the role user")
    for number, message in enumerate(found[0 if previous else 1 :], 0 if previous else 1):
        if any(block["type"] == "compaction" for block in message["content"]):
            raise Malformed(f"messages[{number}]: a compaction block may only open the first message")
    _check_unique(found, earlier)
    last = previous[-1] if previous else None
    pending = _open_calls(last["content"]) if last and last["role"] == "assistant" else []
    for number, message in enumerate(found):
        where, role, content = f"messages[{number}]", message["role"], message["content"]
        answered = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
        _check_place(where, role, last)
        if role == "user":
            _check_results(where, content, answered, pending)
            pending = []
        elif pending:
            raise Malformed(f"{where}: tool_use {pending[0]} of the message before has no tool_result yet")
        if role == "assistant":
            pending = _open_calls(content)
        last = message


def _check_place(where: str, role: str, last: Mapping[str, Any] | None) -> None:
    """A system message follows the user or a server tool's result, and only the assistant follows it."""
    if last is None:
        return
    if role == "system" and last["role"] == "assistant" and not last["content"][-1]["type"].endswith("_tool_result"):
        raise Malformed(f"{where}: a system message must follow a user message")
    if role == "user" and last["role"] == "system":
        raise Malformed(f"{where}: a system message must be last or be followed by an assistant message")


def is_summary(message: Mapping[str, Any]) -> bool:
    """Whether this is the API's summary of an earlier conversation, which may stand first (September 2026)."""
    content = message["content"]
    return message["role"] == "assistant" and bool(content) and content[0].get("type") == "compaction"


def _check_unique(found: Sequence[Mapping[str, Any]], earlier: Collection[str]) -> None:
    """Tool ids may stand only once in a conversation: two calls of one message are told apart elsewhere."""
    seen: set[str] = set()
    for number, message in enumerate(found):
        ids = {str(block["id"]) for block in tool_calls(message["content"])}
        if repeated := sorted(one for one in ids if one in seen or one in earlier):
            raise Malformed(
                f"messages[{number}]: tool_use id {repeated[0]} stands in an earlier message: must be unique"
            )
        seen |= ids


def _open_calls(content: Sequence[Block]) -> list[str]:
    ids = [str(block["id"]) for block in tool_calls(content)]
    if len(set(ids)) < len(ids):
        repeated = next(one for one in ids if ids.count(one) > 1)
        raise Malformed(f"tool_use id {repeated} stands twice in one message: ids must be unique")
    return ids


def _check_results(where: str, content: Sequence[Block], answered: Sequence[str], pending: Sequence[str]) -> None:
    unknown = [one for one in answered if one not in pending]
    if unknown:
        raise Malformed(f"{where}: tool_result {unknown[0]} answers no tool_use of the assistant message before it")
    missing = [one for one in pending if one not in answered]
    if missing:
        raise Malformed(f"{where}: tool_use {missing[0]} of the message before has no tool_result here")
    if len(set(answered)) < len(answered):
        raise Malformed(f"{where}: two tool_results answer the same tool_use")
    kinds = [block["type"] == "tool_result" for block in content]
    if kinds != sorted(kinds, reverse=True):
        raise Malformed(f"{where}: tool_results must come first in the message")
