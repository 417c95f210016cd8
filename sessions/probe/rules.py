"""All rules of the probe, in the order in which they begin."""

from __future__ import annotations

from sessions.probe.apart import APART
from sessions.probe.basics import FIRST, MIXED
from sessions.probe.bench import Rule
from sessions.probe.lifetimes import LIFETIMES
from sessions.probe.places import PLACES

RULES: tuple[Rule, ...] = (*FIRST, *LIFETIMES, MIXED, *PLACES, *APART)
"""What the others need comes first; then what must wait, so that the rest fills the waiting."""
