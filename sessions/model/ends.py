"""Models whose last day has been announced: whoever uses one is told once in a process."""

from __future__ import annotations

from datetime import date

from sessions.background import log
from sessions.core.profiles import Profile, bare_name

_told: set[str] = set()


def tell_of_end(profile: Profile, now: float) -> None:
    """`now`: when the model is used (seconds since the epoch)."""
    if profile.ends is None or (name := bare_name(profile.name)) in _told:
        return
    _told.add(name)
    day = date.fromisoformat(profile.ends)
    last = f"{day.day} {day:%B %Y}"
    if profile.has_ended(now):
        what = f"has ended on {last}: requests to it are refused, or will be"
    else:
        what = f"is deprecated: it ends on {last}"
    log.warning("the model %s %s; go on with another one, by update(model=…)", profile.name, what)
