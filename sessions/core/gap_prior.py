"""The gap forecast's prior: written by `python -m tests.benchmarks.fit_gaps --write`, not by hand.

Fitted to 272 recorded agent sessions of 2026 (entireio/cli, MIT): 1942 gaps after a turn,
17264 within turns.
"""

EDGES = (15, 30, 60, 90, 120, 180, 240, 300, 450, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
"""Seconds at which the bins end; one more bin holds what is later or never comes."""

HUMAN_SHARES = (
    0.0223,
    0.0541,
    0.1187,
    0.1069,
    0.0941,
    0.111,
    0.0689,
    0.0489,
    0.071,
    0.0341,
    0.0361,
    0.0402,
    0.0274,
    0.0085,
    0.0054,
    0.0033,
    0.0085,
    0.1406,
)
"""The share of gaps after a turn's last request that falls into each bin."""

TOOL_SHARES = (
    0.8241,
    0.0844,
    0.0405,
    0.017,
    0.0082,
    0.0079,
    0.0054,
    0.0022,
    0.0032,
    0.0016,
    0.0018,
    0.0015,
    0.0008,
    0.0005,
    0.0003,
    0.0,
    0.0003,
    0.0003,
)
"""The share of gaps between two requests of one turn."""

LAST_OF_TURN = 0.101
"""The chance that a request of a session with tools is its turn's last."""

SESSION_WEIGHT = 30
"""How many gaps of a session weigh as much as what was known before it."""

OWNER_WEIGHT = 10
"""How many gaps of an owner's other sessions weigh as much as the prior."""
