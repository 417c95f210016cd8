"""What somebody types or pastes at the terminal, message by message; from a pipe or a file, a message is a line."""

from __future__ import annotations

import contextlib
import select
import sys

from sessions.errors import ConfigurationError

FIRST, FURTHER = "you> ", "...> "
PASTE = 0.05
"""Seconds that the next line of a pasted text may take to arrive. Nobody types a line as quickly."""


class Typed:
    """The messages on standard input.

    At a terminal, pasted lines are one message: readline's bracketed paste puts them into the line that is edited;
    where there is none (libedit, no readline), or where the text was pasted before the prompt stood there, the lines
    that wait behind the first one belong to it. A line that ends in a backslash goes on in the next one.
    """

    def __init__(self) -> None:
        self._ended = False
        self.is_terminal = sys.stdin.isatty()
        if self.is_terminal:
            with contextlib.suppress(ImportError):  # line editing, where the platform has it
                import readline

                readline.parse_and_bind("set enable-bracketed-paste on")

    def message(self) -> str | None:
        """The next one that is not blank, `None` at the end. Raises `ConfigurationError` for bytes that are no text."""
        while not self._ended:
            try:
                text = self._typed() if self.is_terminal else self._line("")
                text.encode()
            except UnicodeError:
                encoding = sys.stdin.encoding or "utf-8"
                raise ConfigurationError(f"what was typed is no {encoding} text: nothing of it was sent") from None
            if text.strip():
                return text.strip("\n").rstrip() if "\n" in text else text.strip()
        return None

    def _typed(self) -> str:
        before: list[str] = []
        while True:
            try:
                text = self._pasted(FURTHER if before else FIRST)
            except KeyboardInterrupt:
                if not before:
                    raise
                before.clear()
                sys.stdout.write("\n")
                continue
            if self._ended or "\n" in text or not text.endswith("\\"):
                return "\n".join([*before, text])
            before.append(text[:-1])

    def _pasted(self, prompt: str) -> str:
        lines = [self._line(prompt)]
        while not self._ended and _waits():
            lines.append(self._line(""))
        return "\n".join(lines)

    def _line(self, prompt: str) -> str:
        """One line, or several that readline took for one paste; nothing at the end."""
        try:
            return input(prompt)
        except EOFError:
            self._ended = True
            return ""


def _waits() -> bool:
    """Whether more has been typed, or pasted, than was read."""
    try:
        return bool(select.select([sys.stdin], [], [], PASTE)[0])
    except (OSError, ValueError):  # a terminal that cannot be asked (Windows)
        return False
