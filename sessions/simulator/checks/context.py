"""What besides the body decides whether a request is in order: the API's version, its betas, what was said before."""

from __future__ import annotations

from dataclasses import dataclass, field

NEW_VERSION = "2026-10-21"
"""From this `anthropic-version` on, sampling parameters are refused on every model."""


@dataclass(frozen=True, slots=True)
class Context:
    """What besides the body decides: the `anthropic-version`, the betas, whether this is `count_tokens`, further block
    types let through, and the digests of assistant turns that ended with `pause_turn`."""

    version: str = "2026-10-21"
    betas: frozenset[str] = frozenset()
    counting: bool = False
    blocks: frozenset[str] = frozenset()
    paused: frozenset[str] | set[str] = field(default_factory=frozenset)

    def beta(self, *prefixes: str) -> bool:
        """Whether any beta header of that name (dates aside) was sent."""
        return any(beta.startswith(prefixes) for beta in self.betas)
