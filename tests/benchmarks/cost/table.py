"""The table of a run, as text for the terminal and as Markdown for docs/cost.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.cost.ours import BOUND, POLICIES, TOP_1H, TOP_5M, UNCACHED
from tests.benchmarks.cost.spent import MODELS, Spent

OURS = "warmline "
ENOUGH = 8
"""Sessions that a user must have for a comparison of his own."""


@dataclass(slots=True)
class Results:
    """Rows by name, read price and user; `sessions`: how many each user has in the run."""

    sessions: dict[str, int]
    rows: dict[str, dict[float, dict[str, Spent]]] = field(default_factory=dict)

    def add(self, name: str, read: float, user: str, spent: Spent) -> None:
        """Takes in what some of a user's recordings cost."""
        users = self.rows.setdefault(name, {}).setdefault(read, {})
        users[user] = users.get(user, Spent()) + spent

    def total(self, name: str, read: float) -> Spent:
        """One row over all users."""
        return sum(self.rows[name][read].values(), start=Spent())

    def share(self, name: str, read: float) -> float:
        """Its cost as a share of sending everything uncached."""
        return self.total(name, read).price(read) / self.total(UNCACHED, read).price(read)

    def peers(self) -> list[str]:
        """The rows that a user could pick instead of us."""
        return [name for name in self.rows if not name.startswith(OURS) and name not in (UNCACHED, BOUND)]

    def ours(self) -> list[str]:
        """Our rows."""
        return [name for name in self.rows if name.startswith(OURS)]

    def best_peer(self, read: float) -> str:
        """The cheapest of the others."""
        return min(self.peers(), key=lambda name: self.share(name, read))

    def names(self) -> list[str]:
        """All rows, dearest kinds first, the bound last."""
        peers = [name for name in self.peers() if name not in (TOP_5M, TOP_1H)]
        return [UNCACHED, TOP_5M, TOP_1H, *sorted(peers), *self.ours(), BOUND]

    def problems(self) -> Iterator[str]:
        """What went wrong anywhere; each row's at one price."""
        for name, by_price in self.rows.items():
            for problem in self.total(name, next(iter(by_price))).problems:
                yield f"{name}: {problem}"

    def by_user(self, read: float) -> Iterator[tuple[str, float]]:
        """For each user with enough sessions: our best row over the better one of our fixed lifetimes."""
        fixed = [OURS + name for name in POLICIES if name.startswith("Fixed") and OURS + name in self.rows]
        chosen = [name for name in self.ours() if name not in fixed]
        if len(fixed) < 2 or not chosen:
            return
        for user, count in self.sessions.items():
            if count >= ENOUGH:
                least = min(self.rows[name][read][user].price(read) for name in fixed)
                yield user, self.rows[chosen[-1]][read][user].price(read) / least

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "sessions": self.sessions,
            "rows": {
                name: {
                    str(read): {"share": self.share(name, read), **self.total(name, read).to_json()}
                    for read in by_price
                }
                for name, by_price in self.rows.items()
            },
        }


def text(results: Results) -> Iterator[str]:
    """Lines for the terminal."""
    yield f"{'input cost / uncached, × the bound':38}" + "".join(f"  read {read:<12}" for read in MODELS)
    for name in results.names():
        cells = (f"{results.share(name, read):8.4f} ×{_times(results, name, read):<8.3f}" for read in MODELS)
        yield f"{name:38}" + " ".join(cells)
    if results.peers() and results.ours():
        best = results.ours()[-1]
        for read in MODELS:
            peer = results.best_peer(read)
            saved = 1 - results.share(best, read) / results.share(peer, read)
            yield f"at {read}: {best} costs {saved:.1%} less than the best of the others ({peer})"
    sizes = {name: results.total(name, 0.1).sent / results.total(UNCACHED, 0.1).sent for name in results.peers()}
    if sizes:
        yield f"prompt tokens of the others beside ours: {min(sizes.values()):.4f} to {max(sizes.values()):.4f}"
    yield from _idle(results)
    yield from _users(results)


def markdown(results: Results) -> Iterator[str]:
    """Lines for docs/cost.md."""
    yield "| input cost / uncached | " + " | ".join(f"reads at {read}" for read in MODELS) + " |"
    yield "|---|" + "---:|" * len(MODELS)
    for name in results.names():
        cells = (f"{results.share(name, read):.3f}" for read in MODELS)
        bold = "**" if name == results.ours()[-1] else ""
        yield f"| {bold}{name}{bold} | " + " | ".join(f"{bold}{cell}{bold}" for cell in cells) + " |"


def _times(results: Results, name: str, read: float) -> float:
    return results.share(name, read) / results.share(BOUND, read)


def _idle(results: Results) -> Iterator[str]:
    for name in results.ours():
        spent = {read: results.total(name, read) for read in MODELS}
        if any(one.idle_requests for one in spent.values()):
            parts = (
                f"{one.idle_requests} ({Spent(one.idle).price(read) / one.sent:.4f})" for read, one in spent.items()
            )
            yield f"while idle, {name}: requests (share of uncached) {', '.join(parts)}"


def _users(results: Results) -> Iterator[str]:
    for read in MODELS:
        found = [f"{user} {ratio:.3f}" for user, ratio in results.by_user(read)]
        if found:
            yield f"by user at {read}, ours / the better fixed lifetime: {', '.join(found)}"
