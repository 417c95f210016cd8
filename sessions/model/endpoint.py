"""Where requests go, and what holds there: each model's profile, given, measured or from the tables, with what this
process has learnt of it since."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from sessions.background import log
from sessions.core.acceptable import check_acceptable
from sessions.core.incoming import Incoming
from sessions.core.plan import Plan
from sessions.core.profiles import Profile, endpoint_name, nearest_models, profile_for
from sessions.core.settings import Settings
from sessions.errors import ConfigurationError, ModelError
from sessions.model.client import ModelClient
from sessions.model.learnt import (
    Feature,
    Learnt,
    clears_otherwise,
    is_like_the_api,
    loses_what_is_cleared,
    named_feature,
    refused_feature,
    shows_hours,
)
from sessions.model.profile_file import SIMULATOR, read_profile
from sessions.translate import caller_errors

ANTHROPIC = "https://api.anthropic.com"
"""Where the SDK's default leads."""
_SAID: dict[Feature, str] = {
    "ttl": "does not take a lifetime of an hour: from now on it is asked for five minutes",
    "diagnostics": "does not take the field diagnostics: from now on it is left out",
    "zero tokens": "refuses requests for no tokens: from now on nothing is pre-warmed, parked or refreshed there",
    "compaction": "refuses compaction: from now on it is not asked for",
    "clearing": "does not clear tool results as it is asked to, or caches nothing then: from now on it is not asked to",
    "tool runs": "looks back less far than the API: from now on each tool block is counted there",
}


@dataclass(slots=True)
class _Known:
    """One model there: its `profile`, the `base_url` that this was made for, and what has been learnt."""

    profile: Profile
    base_url: str | None
    learnt: Learnt = field(default_factory=Learnt)


class Endpoint:
    """The endpoint of one manager. `profile`, `names`: as `SessionManager` takes them. Raises `ConfigurationError` for
    a file that cannot be read, and for a name of which nothing is known."""

    def __init__(
        self,
        client: ModelClient,
        profile: Profile | str | os.PathLike[str] | None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._client, self._names = client, dict(names or {})
        for given, name in self._names.items():
            if not profile_for(name).known:
                hint = " or ".join(nearest_models(name)) or "a model of Anthropic's"
                raise ConfigurationError(f"model_names[{given!r}] is {name!r}, of which nothing is known: name {hint}")
        self._profile = profile if isinstance(profile, Profile) else None
        self._measured = read_profile(profile) if isinstance(profile, str | os.PathLike) else None
        self._warned: set[str] = set()
        self._known: dict[str, _Known] = {}

    @property
    def url(self) -> str:
        """Where requests go; empty for the SDK's default while it has not been asked."""
        return self._client.base_url or ""

    @property
    def name(self) -> str:
        """What is learnt of it is kept under this name: its address, without what may be secret in that."""
        if self._client.is_simulated:
            return SIMULATOR
        address = urlsplit(self.url or ANTHROPIC)
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}".rstrip("/")

    @property
    def is_measured(self) -> bool:
        """Whether all of its rules were measured, those that must wait too."""
        return self._measured is not None and self._measured.complete

    def profile_of(self, model: str) -> Profile:
        """What the model charges and supports at this endpoint, as far as is known now.

        The same object until something else is known: who keeps what was made of it sees by that whether it still
        holds.
        """
        known = self._known.get(model) or self._new(model)
        # A client of the SDK's own is made at the first request: only then is it known where requests go.
        if known.base_url != self._client.base_url:
            self._renew(model, known)
        return known.profile

    def _new(self, model: str) -> _Known:
        return self._known.setdefault(model, _Known(self._told(model), self._client.base_url))

    def _renew(self, model: str, known: _Known) -> None:
        profile = known.learnt.profile(self._told(model), self._at_the_api(model))
        known.base_url = self._client.base_url
        if profile != known.profile:
            known.profile = profile

    def _told(self, model: str) -> Profile:
        """What was known before anything was asked."""
        named, base_url = self._names.get(model, model), self._client.base_url
        if self._measured is not None:
            found = self._measured.profile_of(named, base_url)
        else:
            found = self._profile or profile_for(named, base_url)
        return replace(found, name=model)

    def _at_the_api(self, model: str) -> Profile:
        return replace(profile_for(self._names.get(model, model)), name=model)

    # -- what is learnt --

    def learn_refusal(self, error: ModelError, kind: str, body: Mapping[str, Any], plan: Plan) -> Feature | None:
        """Takes in a refused request of this `kind`; what of it was refused, or `None`. Says it once.

        From then on the profile is without it.
        """
        feature, model = refused_feature(error, kind, body, plan), str(body["model"])
        # The API itself may refuse to compact one conversation: only of who is taken for it this says anything.
        if feature is not None and (feature != "compaction" or self._is_taken_for_the_api(model)):
            self._without(model, feature)
        return feature

    def learn_refused_item(self, reason: str, body: Mapping[str, Any], plan: Plan) -> bool:
        """Takes in that a request of a batch was refused with these words; whether it can be sent again without what
        they name."""
        feature = named_feature(reason, body, plan)
        if feature is not None:
            self._without(str(body["model"]), feature)
        return feature is not None

    def learn_answer(self, kind: str, model: str, plan: Plan, incoming: Incoming, miss: str | None) -> None:
        """Takes in an answer that came whole. `miss`: the cause of what it lost of the cache, if it did."""
        known = self._known.get(model) or self._new(model)
        learnt = known.learnt.told_of_hours(shows_hours(plan, incoming))
        # What is not streamed comes without its headers.
        if kind in ("turn", "compact") and self._may_be_the_api():
            learnt = learnt.compared(is_like_the_api=is_like_the_api(incoming))
        if learnt != known.learnt:
            self._tell(model, known.learnt, learnt)
            known.learnt = learnt
            self._renew(model, known)
        if kind == "turn" and (clears_otherwise(plan, incoming) or loses_what_is_cleared(plan, miss)):
            self._without(model, "clearing")
        if miss == "lookback" and learnt.is_taken_for_the_api:
            self._without(model, "tool runs")

    def _may_be_the_api(self) -> bool:
        """Whether its answers may tell what it is: nothing is known of it, and nobody has given or measured it."""
        given = self._measured is not None or self._profile is not None
        return not given and endpoint_name(self._client.base_url) == "compatible"

    def _is_taken_for_the_api(self, model: str) -> bool:
        return model in self._known and self._known[model].learnt.is_taken_for_the_api

    def _without(self, model: str, feature: Feature) -> None:
        known = self._known.get(model) or self._new(model)
        if feature in known.learnt.refused:
            return
        known.learnt = known.learnt.without(feature)
        self._renew(model, known)
        log.warning("%s at %s %s", model, self.url or "the API", _SAID[feature])

    def _tell(self, model: str, before: Learnt, now: Learnt) -> None:
        if now.differed and not before.differed:
            log.info("%s at %s answers otherwise than the Claude API now: it is treated with care", model, self.url)
        elif now.agreed and not before.agreed:
            log.info("%s at %s answers as the Claude API does, and is treated as that", model, self.url)
        if now.hour is False and before.hour is not False:
            log.info("%s at %s writes for five minutes what was asked for an hour", model, self.url or "the API")

    # -- what is checked --

    def check(self, settings: Settings) -> None:
        """Raises `ConfigurationError` for what every request would be refused for; warns once of what is not known.

        The user's own call must call the one that calls this, so that the warning names its line.
        """
        self._client.check_params(settings.params or {})
        with caller_errors():
            check_acceptable(settings, self._client.base_url)
        self._check_measured()
        profile = self.profile_of(settings.model)
        if not profile.known and settings.model not in self._warned:
            self._warned.add(settings.model)
            near = nearest_models(settings.model)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            warnings.warn(
                f"nothing is known about the model {settings.model!r}{hint}: its name is sent as it is, with cautious "
                f"assumptions (minimum prefix {profile.minimum_tokens} tokens, no pre-warming); "
                "say which model it is with SessionManager(model_names={…}), or pass profile=… if you know better",
                stacklevel=3,
            )

    def _check_measured(self) -> None:
        """Warns once where the profile was measured at another endpoint than the one that is talked to."""
        measured, ours = self._measured, self._client.base_url
        if measured is None or ours is None or self._client.characters_per_token is not None:
            return
        if measured.endpoint.rstrip("/") != ours.rstrip("/") and measured.endpoint not in self._warned:
            self._warned.add(measured.endpoint)
            where = "on the simulator" if measured.endpoint == SIMULATOR else f"at {measured.endpoint}"
            warnings.warn(
                f"the profile was measured {where} on {measured.measured_at}, and this client talks to {ours}: "
                "measure that with `warmline probe --base-url`",
                stacklevel=4,
            )
