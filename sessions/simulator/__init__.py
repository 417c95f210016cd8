"""A local Claude for first runs and tests: it bills, caches and refuses as the real API does."""

from sessions.simulator.client import client, engine_of, is_simulated
from sessions.simulator.delivery import Latency
from sessions.simulator.engine import Bill, Engine
from sessions.simulator.exchange import Exchange
from sessions.simulator.faults import Fault
from sessions.simulator.script import Request, Scripted
from sessions.simulator.server import serve, serving
from sessions.simulator.tokens import count, filler
from sessions.simulator.transport import Transport

__all__ = [
    "Bill",
    "Engine",
    "Exchange",
    "Fault",
    "Latency",
    "Request",
    "Scripted",
    "Transport",
    "client",
    "count",
    "engine_of",
    "filler",
    "is_simulated",
    "serve",
    "serving",
]
