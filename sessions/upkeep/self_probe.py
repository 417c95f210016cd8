"""Finds out whether a 1-hour entry behind a 5-minute prefix outlives it, before idle conversations rely on that.

Three zero-token requests in six minutes, once for an endpoint and model: a prefix just above the model's minimum is
written for five minutes, then a few blocks behind it for an hour; when the five minutes are over, a third request looks
whether the deeper entry is read. Their rows in the ledger belong to an empty session of its own, `probe-…`.
"""

from __future__ import annotations

import uuid
from functools import partial
from hashlib import blake2b

from sessions.background import Background, log
from sessions.calls.trust import StoredTrust
from sessions.calls.zero_token import PLACEHOLDER, ZeroToken
from sessions.clock import Clock
from sessions.conversation.conversation import Conversation
from sessions.conversation.entries import make_entry
from sessions.conversation.opening import NAMES, Conversations
from sessions.core.cache import SECONDS, text_of
from sessions.core.evidence import ENOUGH
from sessions.core.plan import predict, readable_point
from sessions.core.profiles import Profile, Ttl
from sessions.core.settings import make_settings
from sessions.core.warmth import Slot
from sessions.errors import BudgetExceeded, ModelError
from sessions.ledger import Call
from sessions.model.endpoint import Endpoint
from sessions.runtime import Runtime
from sessions.tools import Toolbox
from storage import StorageError

CLAIM = 3600.0
"""Seconds for which one worker finds out; after that, if it could not, another one may try."""
SETTLES = 5.0
"""Seconds between the two requests that write."""
LOOK_AFTER = 355.0
"""Seconds from the start of the second request to that of the third: no five-minute entry lives so long unread."""
BEHIND = 3
"""Blocks between the end of the prefix and the end of the entry for an hour."""
_SHORT = 4
_WORD = "lorem "


class SelfProbe:
    """Finds out for one manager. `characters_per_token`: where the endpoint is known to count so."""

    def __init__(
        self,
        clock: Clock,
        background: Background,
        conversations: Conversations,
        endpoint: Endpoint,
        zero_token: ZeroToken,
        trust: StoredTrust,
        characters_per_token: float | None,
    ) -> None:
        self._clock, self._background = clock, background
        self._conversations, self._endpoint, self._zero_token = conversations, endpoint, zero_token
        self._trust, self._characters_per_token = trust, characters_per_token
        self._under_way: set[str] = set()

    def begin(self, model: str) -> None:
        """Starts it in the background, unless this manager is about it already."""
        if model not in self._under_way:
            self._under_way.add(model)
            self._background.start(partial(self._run, model))

    async def _run(self, model: str) -> None:
        try:
            if await self._trust.claim(model, CLAIM):
                alive = await self._is_kept(model)
                if alive is not None:
                    await self._trust.settle(model, alive=alive)
                    log.info("parked entries of %s %s", model, "live: it was probed" if alive else "end early")
        except (BudgetExceeded, ModelError, StorageError) as error:
            log.warning("whether parked entries of %s live could not be found out: %s", model, error)
        finally:
            self._under_way.discard(model)

    async def _is_kept(self, model: str) -> bool | None:
        """What three requests show; `None` where that says nothing, as when an entry was not there from the start."""
        conversation, prefix = await self._written(model)
        await self._clock.sleep(SETTLES)
        deeper = await self._ask(conversation, BEHIND, "1h")
        if not prefix.usage.cache_write or deeper.usage.cache_read < ENOUGH * prefix.usage.cache_write:
            return None
        if not deeper.usage.cache_write_1h:
            return False  # an hour was asked for and not written: there is nothing to rely on
        await self._clock.sleep(deeper.started + LOOK_AFTER - self._clock.now())
        last = await self._ask(conversation, BEHIND, "5m")
        if not SECONDS["5m"] < last.started - deeper.started < SECONDS["1h"]:
            return None
        return last.usage.cache_read >= ENOUGH * (deeper.usage.cache_read + deeper.usage.cache_write)

    async def _written(self, model: str) -> tuple[Conversation, Call]:
        """The prefix, written for five minutes; longer where it was too short: sizes are estimates until then."""
        profile, session = self._endpoint.profile_of(model), await self._session(model)
        wanted = least(profile)
        length = round(wanted * (self._characters_per_token or profile.characters_per_token))
        conversation = await self._opened(session, length)
        call = await self._ask(conversation, 0, "5m")
        if call.usage.cache_write or not 0 < call.usage.total_input < wanted:
            return conversation, call
        conversation = await self._opened(session, round(length * wanted / call.usage.total_input))
        return conversation, await self._ask(conversation, 0, "5m")

    async def _ask(self, conversation: Conversation, place: int, ttl: Ttl) -> Call:
        """One request, which marks that block and ends with it."""
        prompt, warmth = conversation.prompt, conversation.recent.warmth
        slots: dict[int, Slot] = {place: "user"}
        hit = readable_point(prompt, slots, warmth, self._clock.now())
        return await self._zero_token.ask(conversation, "probe", predict(prompt, slots, {place: ttl}, hit))

    async def _opened(self, session: str, length: int) -> Conversation:
        """A conversation with words that no other request has ever begun with; they are not stored."""
        conversation = await self._conversations.open(session, Toolbox())
        label = uuid.uuid4().hex
        start = (f"{label} " + _WORD * (length // len(_WORD) + 1))[: length - 1] + "."
        texts = [start, *(f"{number} {_WORD * _SHORT}" for number in range(BEHIND)), PLACEHOLDER]
        content = [{"type": "text", "text": text.strip()} for text in texts]
        conversation.stage([make_entry(None, "user", content, self._clock.now())])
        return conversation

    async def _session(self, model: str) -> str:
        """The session whose ledger has the requests, made where it is missing."""
        place = text_of([self._endpoint.name, model]).encode()
        name = NAMES["probe"] + blake2b(place, digest_size=8).hexdigest()
        await self._conversations.set_up(name, "self-probe", "probe", make_settings(model=model, max_tokens=1))
        return name


def least(profile: Profile) -> int:
    """Tokens of a prefix that is surely cached, and hardly more."""
    return round(profile.minimum_tokens * 1.05) + 16


def self_probe_of(runtime: Runtime) -> SelfProbe:
    """That of a manager."""
    return SelfProbe(
        runtime.clock,
        runtime.background,
        runtime.conversations,
        runtime.endpoint,
        runtime.zero_token,
        runtime.forecaster.trust,
        runtime.client.characters_per_token,
    )
