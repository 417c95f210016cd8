"""What a manager keeps in memory: transcripts of open sessions up to a bound, those used least recently dropped first.

A dropped transcript is read again from the store when it is next needed; what stays of an idle session is its row, its
tools and the cache points believed alive. Settings that are equal word for word are kept once for all sessions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary, ref

from sessions.core.settings import Settings

TRANSCRIPT_BYTES = 256 * 2**20
"""The usual bound: 256 MiB."""
_PER_MESSAGE = 2500
"""Bytes that a message takes beside its text: its entry, place, point and digests (measured with tracemalloc)."""


def size_of(texts: Collection[str]) -> int:
    """About how many bytes messages take in memory, given their stored texts: decoded, and encoded to be sent again."""
    return _PER_MESSAGE * len(texts) + 2 * sum(map(len, texts))


class Droppable(Protocol):
    """A transcript that can be read again."""

    size: int
    """About how many bytes it takes now; 0 when it is dropped."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody works with it."""
        ...

    def drop(self) -> None:
        """Gives the memory back."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class SharedSettings:
    """Settings and the text that they were read from."""

    text: str
    settings: Settings


class Transcripts:
    """The transcripts of one manager. `bound`: bytes, by estimate; the one used last stays whatever its size.

    `is_held`: whether this manager holds a session's lease: then somebody works with its transcript.
    """

    def __init__(self, bound: int, is_held: Callable[[str], bool]) -> None:
        self.bound, self.is_held = bound, is_held
        self.total = 0
        self._sizes: OrderedDict[ref[Droppable], int] = OrderedDict()
        self._settings: WeakValueDictionary[str, SharedSettings] = WeakValueDictionary()

    def touch(self, transcript: Droppable) -> None:
        """Somebody has used it, and its size may have changed: others go if there is no room for all."""
        # By a weak reference: a session that its user lets go of takes its transcript along.
        self._note(ref(transcript, self._forget), transcript.size)
        if self.total > self.bound:
            self._make_room()

    def _note(self, kept: ref[Droppable], size: int) -> None:
        self.total += size - self._sizes.pop(kept, 0)
        if size:
            self._sizes[kept] = size

    def _forget(self, kept: ref[Droppable]) -> None:
        self.total -= self._sizes.pop(kept, 0)

    def _make_room(self) -> None:
        excess, newest = self.total - self.bound, next(reversed(self._sizes))
        dropped = []
        for kept, size in self._sizes.items():
            transcript = kept()
            if kept is not newest and transcript is not None and transcript.is_idle:
                dropped.append((kept, transcript))
                excess -= size
            if excess <= 0:
                break
        # In a loop of its own: dropping changes what the first one goes through.
        for kept, transcript in dropped:
            transcript.drop()
            self._note(kept, 0)

    @property
    def settings_kept(self) -> int:
        """How many different settings somebody has."""
        return len(self._settings)

    def settings(self, text: str) -> SharedSettings:
        """The settings that this text says; the same value for the same text while anybody has it."""
        shared = self._settings.get(text)
        if shared is None:
            shared = self._settings[text] = SharedSettings(text, Settings.from_json(text))
        return shared
