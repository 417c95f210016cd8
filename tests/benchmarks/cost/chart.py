"""The chart of a run: one bar for each way at each read price, drawn from the run's figures as plain SVG."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from tests.benchmarks.cost.ours import BOUND, UNCACHED
from tests.benchmarks.cost.spent import MODELS
from tests.benchmarks.cost.table import OURS, Results

_LABELS, _PANEL, _GAP, _BAR, _TOP = 250, 210, 28, 21, 58
_OTHER, _OURS, _BEST, _LINE = "#9aa5b1", "#d9a066", "#c8553d", "#3d405b"
_STYLE = "text{font:12px system-ui,sans-serif;fill:#3d405b}.h{font-weight:600}.v{font-size:11px}"


def draw(results: Results, which: str) -> str:
    """The picture: shares of what sending everything uncached costs; the line is the bound."""
    names = [name for name in results.names() if name not in (UNCACHED, BOUND)]
    height = _TOP + _BAR * len(names) + 30
    width = _LABELS + (_PANEL + _GAP) * len(MODELS)
    title = f"Input cost of {sum(results.sessions.values())} recorded agent sessions, as a share of no caching"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text class="h" x="8" y="20">{title}</text>',
        *_names(results, names),
    ]
    for number, read in enumerate(MODELS):
        lines += _panel(results, names, read, _LABELS + number * (_PANEL + _GAP), height)
    lines += [f'<text class="v" x="8" y="{height - 8}">{escape(which)}</text>', "</svg>"]
    return "\n".join(lines) + "\n"


def _names(results: Results, names: list[str]) -> Iterator[str]:
    best = results.ours()[-1]
    for at, name in enumerate(names):
        kind = ' class="h"' if name == best else ""
        yield f'<text{kind} x="{_LABELS - 8}" y="{_TOP + at * _BAR + 14}" text-anchor="end">{escape(name)}</text>'


def _panel(results: Results, names: list[str], read: float, x: int, height: int) -> Iterator[str]:
    most = max(results.share(name, read) for name in names) * 1.25
    yield f'<text class="h" x="{x}" y="{_TOP - 14}">reads at {read} of the input price</text>'
    for at, name in enumerate(names):
        share = results.share(name, read)
        color = _BEST if name == results.ours()[-1] else _OURS if name.startswith(OURS) else _OTHER
        y, long = _TOP + at * _BAR, round(_PANEL * share / most, 1)
        yield f'<rect x="{x}" y="{y + 2}" width="{long}" height="{_BAR - 6}" rx="2" fill="{color}"/>'
        yield f'<text class="v" x="{x + long + 4}" y="{y + 14}">{share:.3f}</text>'
    line = round(x + _PANEL * results.share(BOUND, read) / most, 1)
    end = height - 26
    yield f'<line x1="{line}" x2="{line}" y1="{_TOP - 4}" y2="{end}" stroke="{_LINE}" stroke-dasharray="3 3"/>'
    yield f'<text class="v" x="{line + 3}" y="{end}">bound {results.share(BOUND, read):.3f}</text>'
