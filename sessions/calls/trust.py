"""Whether a 1-hour entry behind a 5-minute prefix outlives it: what workers have found out, kept in the store.

It is an inference about the API (docs/provider.md, 8), so it is settled or unlearnt by what requests show. What one
worker has found out about an endpoint and a model holds for all that share the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import anyio

from sessions.background import Background, log
from sessions.clock import Clock
from sessions.core.evidence import FORGOTTEN, MOST, START, Trust
from sessions.model.endpoint import Endpoint
from storage import StorageError, Store, TrustRecord

TrustMode: TypeAlias = Literal["probe", "assume", "never"]
"""What is believed while nobody has found out: "probe": nothing, until a probe of our own has; "assume": that it
outlives it, until requests show otherwise. "never": nothing, whatever is found."""

LOOK_EVERY = 600.0
"""Seconds after which what other workers have found out meanwhile is read again."""


@dataclass(slots=True)
class _Known:
    """What was last read of a model, or learnt here: `points` (`None`: nobody has found out), and when it was read."""

    points: int | None
    read: float

    @property
    def is_gone(self) -> bool:
        return self.points is not None and self.points <= 0


class StoredTrust:
    """How far one manager relies on that rule at its endpoint, by model."""

    def __init__(self, store: Store, clock: Clock, background: Background, endpoint: Endpoint, mode: TrustMode) -> None:
        self._store, self._clock, self._background, self._endpoint = store, clock, background, endpoint
        self.mode = mode
        self._known: dict[tuple[str, str], _Known] = {}
        self._said: set[tuple[str, str]] = set()

    async def learn(self, model: str) -> None:
        """Reads what is known of the model: the first time at once, later in the background, so that nobody waits."""
        if self.mode == "never":
            return
        place, now = (self._endpoint.name, model), self._clock.now()
        known = self._known.get(place)
        if known is None:
            await self._read(place)
        elif now - known.read >= LOOK_EVERY:
            known.read = now  # of those who come at the same time one reads
            self._background.start(partial(self._read_again, place))

    def lasts(self, model: str) -> bool:
        """Whether a 1-hour entry behind a 5-minute prefix is believed to outlive it."""
        if self.mode == "never":
            return False
        known = self._find(model)
        return self.mode == "assume" if known is None or known.points is None else not known.is_gone

    def is_unsettled(self, model: str) -> bool:
        """Whether nobody has found out yet, as far as is known here, and somebody should before it is relied on."""
        known = self._find(model)
        return self.mode == "probe" and known is not None and known.points is None

    def judge(self, model: str, *, alive: bool) -> None:
        """An entry that only this rule can have kept was found, or was not. Written down in the background."""
        if self.mode == "never":
            return
        place = self._endpoint.name, model
        known = self._known.setdefault(place, _Known(None, self._clock.now()))
        trust = Trust(START if known.points is None else known.points)
        trust.saw(alive=alive)
        if trust.points != known.points:
            known.points = trust.points
            self._background.start(partial(self._write, place, 1 if alive else -1, trust.points))

    async def settle(self, model: str, *, alive: bool) -> None:
        """A probe has found out. Raises `storage.StorageError`."""
        await self._weigh((self._endpoint.name, model), 0, START if alive else 0)

    async def claim(self, model: str, seconds: float) -> bool:
        """Whether this worker is to find out, for so many seconds. Raises `storage.StorageError`."""
        place = self._endpoint.name, model
        claimed = await self._store.claim_trust(*place, seconds=seconds, now=self._clock.now(), forget=FORGOTTEN)
        if not claimed:
            await self._read(place)  # another one may have found out since
        return claimed

    # -- the store --

    def _find(self, model: str) -> _Known | None:
        return self._known.get((self._endpoint.name, model))

    async def _read(self, place: tuple[str, str]) -> None:
        record, now = await self._store.trust(*place), self._clock.now()
        is_old = record is not None and (record.points or 0) <= 0 and now - record.at > FORGOTTEN
        points = None if record is None or is_old else record.points
        self._known.setdefault(place, _Known(points, now)).read = now
        self._known[place].points = points

    async def _read_again(self, place: tuple[str, str]) -> None:
        try:
            await self._read(place)
        except StorageError as error:
            log.warning("what others know of %s at %s cannot be read now: %s", place[1], place[0], error)

    async def _write(self, place: tuple[str, str], by: int, first: int) -> None:
        # What was seen cost money to see: a manager that is closed right behind it still writes it down.
        with anyio.CancelScope(shield=True):
            try:
                await self._weigh(place, by, first)
            except StorageError as error:
                log.warning("what was seen of %s at %s cannot be kept: %s", place[1], place[0], error)

    async def _weigh(self, place: tuple[str, str], by: int, first: int) -> None:
        record: TrustRecord = await self._store.weigh_trust(
            *place, by, first=first, most=MOST, now=self._clock.now(), forget=FORGOTTEN
        )
        known = self._known.setdefault(place, _Known(None, self._clock.now()))
        known.points = record.points
        if not known.is_gone:
            self._said.discard(place)
        elif place not in self._said:
            self._said.add(place)
            log.warning(
                "parked entries of %s do not live as they should: no more are made, lifetimes are chosen when writing",
                place[1],
            )
