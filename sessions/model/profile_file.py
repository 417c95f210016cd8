"""A profile that was measured: the file that `warmline probe` writes and `SessionManager(profile=…)` takes.

JSON, one object: `warmline_profile` (the version of the format), `measured_at`, `endpoint`, `model`, `complete`, the
`profile` itself, and the `evidence`, rule by rule, with the usage that each request showed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sessions.core.cache import SECONDS
from sessions.core.profiles import Profile, bare_name, profile_for
from sessions.errors import ConfigurationError

VERSION = 1
SIMULATOR = "simulator"
"""The endpoint of what was measured on the simulator in the same process."""

_ADAPTER = TypeAdapter(Profile)
_FIELDS = frozenset(field.name for field in fields(Profile))
_OF_THE_ENDPOINT = (
    "lookback",
    "collapses_tools",
    "counts_thinking",
    "markers",
    "ttls",
    "parks",
    "automatic",
    "counters",
    "prewarms",
    "prewarm_max_tokens",
    "diagnostics",
)
"""What holds for every model at the endpoint; the rest is the model's own."""
_AT_LEAST = {"minimum_tokens": 0, "lookback": 1, "prewarm_max_tokens": 0, "window": 1, "max_output": 1}


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of `profile.name` at `endpoint`. `measured_at`: ISO 8601. `complete`: no rule left out.

    `evidence`: one object a rule, for people and for later versions; nothing here reads it.
    """

    profile: Profile
    endpoint: str
    measured_at: str
    complete: bool = True
    evidence: Sequence[Mapping[str, Any]] = ()

    def profile_of(self, model: str, endpoint: str | None) -> Profile:
        """The measured profile for its own model; for others the tables', with what the endpoint was found to do."""
        if bare_name(model) == bare_name(self.profile.name):
            return replace(self.profile, name=model)
        found = {name: getattr(self.profile, name) for name in _OF_THE_ENDPOINT}
        return replace(profile_for(model, endpoint), **found)

    def to_json(self) -> str:
        """The text of the file."""
        values = {
            "warmline_profile": VERSION,
            "measured_at": self.measured_at,
            "endpoint": self.endpoint,
            "model": self.profile.name,
            "complete": self.complete,
            "profile": asdict(self.profile),
            "evidence": list(self.evidence),
        }
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all. Raises `ConfigurationError` where it cannot be written."""
        with _written(path) as beside:
            beside.write_text(self.to_json(), encoding="utf-8")
            beside.replace(path)


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """The file beside it that takes its place when it is whole."""
    try:
        yield path.with_name(f".{path.name}.{os.getpid()}")
    except OSError as error:
        raise ConfigurationError(f"the profile cannot be written to {path}: {error.strerror or error}") from error


def read_profile(path: str | os.PathLike[str]) -> Measured:
    """Reads a file that `warmline probe` wrote. Raises `ConfigurationError` saying what is wrong with it."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the profile {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the profile {path} is no JSON ({error}): {_MAKE_ONE}") from error
    if not isinstance(found, dict) or "warmline_profile" not in found or not isinstance(found.get("profile"), dict):
        raise ConfigurationError(f"{path} is no profile of warmline: {_MAKE_ONE}")
    if found["warmline_profile"] != VERSION:
        version = f"{found['warmline_profile']!r}, not {VERSION}"
        raise ConfigurationError(f"the profile {path} is of format {version}: install the warmline that wrote it")
    return Measured(
        _profile(found["profile"], path),
        str(found.get("endpoint") or ""),
        str(found.get("measured_at") or ""),
        bool(found.get("complete", True)),
        tuple(one for one in found.get("evidence") or () if isinstance(one, dict)),
    )


_MAKE_ONE = "`warmline probe` writes one"


def _profile(values: dict[str, Any], path: object) -> Profile:
    """The profile of these values; what is left out is as the tables say. A misspelt name is not passed over."""
    if unknown := sorted(set(values) - _FIELDS):
        raise ConfigurationError(f"the profile {path} has {unknown[0]!r}, which is no field of a Profile")
    name = values.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"the profile {path} needs the 'name' of its model")
    try:
        made = _ADAPTER.validate_json(json.dumps({**asdict(profile_for(name)), **values}), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"the profile {path} has a wrong {where!r}: {first['msg']}") from error
    wrong = [field for field, least in _AT_LEAST.items() if getattr(made, field) < least]
    wrong += ["characters_per_token"] if not made.characters_per_token > 0 else []
    wrong += ["ttls"] if not made.ttls or not set(made.ttls) <= set(SECONDS) else []
    if wrong:
        raise ConfigurationError(f"the profile {path} has a wrong {wrong[0]!r}: {getattr(made, wrong[0])!r}")
    return made
