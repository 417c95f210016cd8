"""A conversation as a person reads it: words, tool calls and results in short lines, and what each turn cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.text import Text

from sessions import Call, Entry
from sessions.cli.terminal import bar, console, figures
from sessions.cli.visible import visible
from sessions.core.usage import Usage

VOICES = {"user": ("you", "bold cyan"), "assistant": ("claude", "bold magenta")}
SHORT = 160
"""Characters of a tool's input or result that are shown."""
INDENT = 10


@dataclass(frozen=True, slots=True)
class Turn:
    """The entries from one user message with words to the next, and the calls that made its replies."""

    entries: tuple[Entry, ...]
    calls: tuple[Call, ...]

    @property
    def usage(self) -> Usage:
        """All calls of the turn together."""
        return sum((call.usage for call in self.calls), start=Usage())


def turns(entries: Sequence[Entry], calls: Iterable[Call]) -> Iterator[Turn]:
    """Cuts a chain into turns. Calls belong to the turn of the entry that they made."""
    by_entry: dict[str, list[Call]] = {}
    for call in calls:
        by_entry.setdefault(call.entry or "", []).append(call)
    starts = [n for n, entry in enumerate(entries) if n == 0 or has_words(entry)]
    for start, end in zip(starts, [*starts[1:], len(entries)], strict=True):
        part = tuple(entries[start:end])
        yield Turn(part, tuple(call for entry in part for call in by_entry.get(entry.id, ())))


def has_words(entry: Entry) -> bool:
    """Whether this is a user message that says something, not only tool results."""
    return entry.role == "user" and any(block.get("type") != "tool_result" for block in entry.content)


def lines(entry: Entry) -> Iterator[Text]:
    """One entry, a line or a paragraph for each of its blocks."""
    who, style = VOICES.get(entry.role, (entry.role, "bold"))
    for block in entry.content:
        yield from line(block, who, style)


def line(block: Mapping[str, Any], who: str, style: str) -> Iterator[Text]:
    """One content block; unknown types are named, never hidden."""
    kind = block.get("type")
    if kind == "text":
        yield said(who, str(block["text"]), style)
    elif kind == "tool_use" or kind == "server_tool_use":
        arguments = ", ".join(f"{name}={value!r}" for name, value in dict(block.get("input") or {}).items())
        yield aside(f"→ {block.get('name')}({short(arguments)})", "blue")
    elif kind == "tool_result":
        yield aside(f"← {short(text_of(block.get('content')))}", "red" if block.get("is_error") else "green")
    elif kind == "thinking":
        text = str(block.get("thinking") or "")
        if text:  # the newest models leave it out
            yield aside(f"thought: {short(text)}", "dim")
    else:
        yield aside(f"[{kind}]", "dim")


def said(who: str, text: str, style: str = "bold") -> Text:
    """Somebody's words beside their name."""
    return Text.assemble("  ", (f"{who:8}", style), indented(Text(visible(text))))


def aside(text: str, style: str) -> Text:
    """A line that is not said by anybody."""
    return Text.assemble(" " * INDENT, indented(Text(visible(text), style=style)))


def below(usage: Usage, note: str = "") -> Text:
    """The cache bar of a call or a turn."""
    shown = f"{bar(usage)}  {figures(usage)}" + (f"  [dim]{escape(note)}[/]" if note else "")
    return Text.assemble(" " * INDENT, Text.from_markup(shown))


def indented(text: Text) -> Text:
    """Wraps `text` to the console's width, all lines but the first indented."""
    wrapped = text.wrap(console, max(20, console.width - INDENT))
    for line in wrapped:
        line.rstrip()
    return Text("\n" + " " * INDENT).join(wrapped)


def text_of(content: Any) -> str:
    """The text in a tool result's content; other blocks are named."""
    if isinstance(content, str):
        return content
    return " ".join(str(block.get("text") or f"[{block.get('type')}]") for block in content or ())


def short(text: str) -> str:
    """One line of at most `SHORT` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= SHORT else f"{flat[: SHORT - 1]}…"
