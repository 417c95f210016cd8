"""Files of `warmline fit --write`: what a manager takes from them, and what it says of a bad one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sessions import ConfigurationError
from sessions.calls.prior_file import prior_text, read_prior
from sessions.core.experience import Kind
from sessions.core.gap_prior import EDGES
from sessions.core.gaps import Prior
from sessions.testing import simulated_manager

SHARES = (0.5, *[0.0] * (len(EDGES) - 1), 0.5)
PRIORS: dict[Kind, tuple[int, Prior]] = {
    ("", 0): (40, Prior(SHARES)),
    ("5a", 0): (30, Prior(tuple(reversed(SHARES)), last_of_turn=0.9)),
    ("5a", 2): (12, Prior((*[1 / 36] * 17, 1 - 17 / 36))),
}


def document(**other: Any) -> dict[str, Any]:
    return {**json.loads(prior_text(PRIORS, "2026-11-30T12:00:00+00:00")), **other}


def kind(**other: Any) -> dict[str, Any]:
    return document(kinds=[{"settings": "", "turns": 0, "gaps": 40, "shares": list(SHARES), **other}])


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prior.json"
    path.write_text(prior_text(PRIORS, "2026-11-30T12:00:00+00:00"))
    expected = {kind: prior for kind, (_, prior) in PRIORS.items()}
    assert read_prior(path) == expected
    assert read_prior(str(path)) == expected
    path.write_text(json.dumps(kind()))
    assert read_prior(path) == {("", 0): Prior(SHARES)}, "a file of an earlier time says nothing of requests"


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "is no JSON"),
    "a list": ([], "is no prior of warmline: `warmline fit --write FILE` makes one"),
    "a profile": ({"warmline_profile": 1}, "is no prior of warmline"),
    "no kinds": (document(kinds={}), "is no prior of warmline"),
    "a newer format": (document(warmline_prior=2), "is of format 2, not 1"),
    "other edges": (document(edges=[1, 2]), "has other edges"),
    "no object": (document(kinds=[3]), r"wrong 'settings' in kinds\[0\]"),
    "settings": (kind(settings=5), "wrong 'settings'"),
    "turns": (kind(settings="a", turns=3), r"wrong 'turns' in kinds\[0\]: 3"),
    "turns as text": (kind(turns="0"), "wrong 'turns'"),
    "turns as a list": (kind(turns=[0]), "wrong 'turns'"),
    "turns as a switch": (kind(settings="a", turns=True), "wrong 'turns'"),
    "turns of all": (kind(turns=1), "wrong 'turns'"),
    "no shares": (kind(shares=None), r"wrong 'shares' in kinds\[0\]: 18 numbers that add up to 1"),
    "no share of requests": (kind(last_of_turn="often"), r"wrong 'last_of_turn' in kinds\[0\]: a share from 0 to 1"),
    "more than all requests": (kind(last_of_turn=1.5), "wrong 'last_of_turn'"),
    "too few shares": (kind(shares=[0.5, 0.5]), "wrong 'shares'"),
    "text": (kind(shares=["0.5", *SHARES[1:]]), "wrong 'shares'"),
    "switches": (kind(shares=[True, *SHARES[1:]]), "wrong 'shares'"),
    "too much": (kind(shares=[0.6, *SHARES[1:]]), "wrong 'shares'"),
    "too large": (kind(shares=[10**400, *SHARES[1:]]), "wrong 'shares'"),
    "negative": (kind(shares=[0.6, -0.1, *SHARES[2:]]), "wrong 'shares'"),
    "not a number": (kind(shares=[math.nan, *SHARES[1:]]), "wrong 'shares'"),
    "nobody comes": (kind(shares=[0.0] * len(EDGES) + [1.0]), "wrong 'shares'"),
    "all come": (kind(shares=[1.0] + [0.0] * len(EDGES)), "wrong 'shares'"),
    "twice": (document(kinds=[document()["kinds"][0]] * 2), r"the same kind twice: kinds\[1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_with_its_path(name: str, tmp_path: Path) -> None:
    content, told = BAD[name]
    path = tmp_path / "prior.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigurationError, match=f"prior.json .*{told}"):
        simulated_manager(prior=path)


def test_no_text_no_file_and_far_too_deep(tmp_path: Path) -> None:
    path = tmp_path / "prior.json"
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_prior(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is no JSON"):
        read_prior(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ConfigurationError, match="is no JSON"):
        read_prior(path)
