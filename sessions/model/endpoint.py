"""Where requests go, and what holds there: each model's profile, given, measured or from the tables."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace

from sessions.core.acceptable import check_acceptable
from sessions.core.profiles import Profile, nearest_models, profile_for
from sessions.core.settings import Settings
from sessions.model.client import ModelClient
from sessions.model.profile_file import SIMULATOR, read_profile
from sessions.translate import caller_errors


class Endpoint:
    """The endpoint of one manager. `profile`: as `SessionManager` takes it. Raises `ConfigurationError` for a file
    that cannot be read."""

    def __init__(self, client: ModelClient, profile: Profile | str | os.PathLike[str] | None) -> None:
        self._client = client
        self._profile = profile if isinstance(profile, Profile) else None
        self._measured = read_profile(profile) if isinstance(profile, str | os.PathLike) else None
        self._warned: set[str] = set()

    @property
    def url(self) -> str:
        """Where requests go; empty for the SDK's default while it has not been asked."""
        return self._client.base_url or ""

    def profile_of(self, model: str) -> Profile:
        """What the model charges and supports at this endpoint."""
        if self._measured is not None:
            return self._measured.profile_of(model, self._client.base_url)
        if self._profile is not None:
            return replace(self._profile, name=model)
        return profile_for(model, self._client.base_url)

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
                "pass SessionManager(profile=…) if you know better",
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
