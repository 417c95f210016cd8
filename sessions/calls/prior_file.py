"""What a deployment has learnt of its users' gaps: the file of `warmline fit --write` and `SessionManager(prior=…)`.

JSON, one object: `warmline_prior` (the version of the format), `fitted_at`, `edges` (seconds at which the bins end) and
`kinds`. Each of these has the digest of its `settings` ("": all sessions), the number of `turns` from which on it holds
(0: any), the `gaps` that it was fitted to, the `shares` of gaps that fall into each bin, the last one for none, and
`last_of_turn`, the share of requests that were their turn's last (where that is missing, the shipped one).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sessions.core.experience import STEPS, Kind
from sessions.core.gap_prior import EDGES
from sessions.core.gaps import FITTED, Prior
from sessions.errors import ConfigurationError

VERSION = 1
_MAKE_ONE = "`warmline fit --write FILE` makes one"


def prior_text(priors: Mapping[Kind, tuple[int, Prior]], fitted_at: str) -> str:
    """The text of the file. `priors`: of each kind of sessions its number of gaps and what is known beforehand of it.

    `fitted_at`: ISO 8601.
    """
    kinds = [
        {"settings": settings, "turns": turns, "gaps": gaps, "shares": prior.shares, "last_of_turn": prior.last_of_turn}
        for (settings, turns), (gaps, prior) in priors.items()
    ]
    values = {"warmline_prior": VERSION, "fitted_at": fitted_at, "edges": EDGES, "kinds": kinds}
    return json.dumps(values, indent=2) + "\n"


def read_prior(path: str | os.PathLike[str]) -> dict[Kind, Prior]:
    """What is known beforehand of each kind of sessions in a file. Raises `ConfigurationError`: what is wrong."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the prior {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the prior {path} is no JSON ({error}): {_MAKE_ONE}") from error
    if not isinstance(found, dict) or "warmline_prior" not in found or not isinstance(found.get("kinds"), list):
        raise ConfigurationError(f"{path} is no prior of warmline: {_MAKE_ONE}")
    if found["warmline_prior"] != VERSION:
        version = f"{found['warmline_prior']!r:.40}, not {VERSION}"
        raise ConfigurationError(f"the prior {path} is of format {version}: install the warmline that wrote it")
    if found.get("edges") != list(EDGES):
        raise ConfigurationError(f"the prior {path} has other edges than this version counts by: {_MAKE_ONE}")
    priors: dict[Kind, Prior] = {}
    for number, one in enumerate(found["kinds"]):
        kind, prior = _read(one, f"kinds[{number}]", path)
        if kind in priors:
            raise ConfigurationError(f"the prior {path} has the same kind twice: kinds[{number}]")
        priors[kind] = prior
    return priors


def _read(one: Any, where: str, path: object) -> tuple[Kind, Prior]:
    values = one if isinstance(one, dict) else {}
    settings, turns, shares = (values.get(name) for name in ("settings", "turns", "shares"))
    if not isinstance(settings, str):
        raise ConfigurationError(f"the prior {path} has a wrong 'settings' in {where}: it must be text")
    if not isinstance(turns, int) or isinstance(turns, bool) or turns not in ((0, *STEPS) if settings else (0,)):
        raise ConfigurationError(f"the prior {path} has a wrong 'turns' in {where}: {turns!r:.40}")
    if not isinstance(shares, list) or not _are_shares(shares):
        raise ConfigurationError(
            f"the prior {path} has wrong 'shares' in {where}: {len(EDGES) + 1} numbers that add up to 1 are needed, "
            "of which the last one is neither 0 nor 1"
        )
    last = values.get("last_of_turn", FITTED.last_of_turn)
    if not _is_share(last):
        raise ConfigurationError(
            f"the prior {path} has a wrong 'last_of_turn' in {where}: a share from 0 to 1 is needed"
        )
    return (settings, turns), Prior(tuple(float(share) for share in shares), last_of_turn=float(last))


def _are_shares(values: Sequence[Any]) -> bool:
    if len(values) != len(EDGES) + 1:
        return False
    if not all(map(_is_share, values)):
        return False
    return abs(sum(map(float, values)) - 1.0) < 1e-6 and 0.0 < float(values[-1]) < 1.0


def _is_share(value: Any) -> bool:
    # No number that is none (NaN) either.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0
