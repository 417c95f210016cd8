"""The door to the terminal: what models, tools and users wrote is shown as characters, never obeyed as commands."""

from __future__ import annotations

import codecs
import io
import logging
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal obeys: C0 (but newline and tab), DEL, C1, Unicode's bidirectional marks and line separators."""

_BEYOND_ASCII = re.compile("[^\x00-\x7e]")
_STAND_INS = {
    "█": "#", "▓": "=", "░": ".", "…": "...", "→": "->", "←": "<-", "“": '"', "”": '"', "’": "'", "–": "-", "×": "x",
}  # fmt: skip
_ERRORS = "warmline"


def visible(text: str) -> str:
    """`text` with a visible sign for each control character but newline and tab: `␛`, `<U+202E>`."""
    return COMMANDS.sub(_sign, text.replace("\r\n", "\n"))


def _sign(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"<U+{code:04X}>"


class Door(Console):
    """A console on which only rich's own control sequences arrive."""

    def render_str(self, text: str, **options: Any) -> Text:
        """As `Console`; here too, because `Text` silently drops some control characters, and a table measures it."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As `Console`: everything that is printed passes here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def json_text(text: str) -> str:
    """The same JSON document, with `\\u` escapes for what a terminal obeys or standard output cannot express."""
    encoding = codecs.lookup(sys.stdout.encoding or "ascii").name
    return (COMMANDS if encoding == "utf-8" else _BEYOND_ASCII).sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))


class Lines(logging.Handler):
    """What libraries log where nobody has set up logging: it goes through the console too."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Prints the record."""
        self._console.print(self.format(record), markup=False, soft_wrap=True)


def express_everything() -> None:
    """Lets standard output and error express every character, in whatever encoding: by a stand-in or its number."""
    codecs.register_error(_ERRORS, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    beyond = error.object[error.start : error.end]
    return "".join(_STAND_INS.get(one, f"<U+{ord(one):04X}>") for one in beyond), error.end
