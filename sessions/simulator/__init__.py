"""A local Claude for first runs and tests: it bills, caches and refuses as the real API does."""

from sessions.simulator.answers.script import Request, Scripted
from sessions.simulator.bill import Bill
from sessions.simulator.doors.client import client, engine_of, is_simulated
from sessions.simulator.doors.delivery import Latency
from sessions.simulator.doors.server import serve, serving
from sessions.simulator.doors.transport import Transport
from sessions.simulator.engine import Engine
from sessions.simulator.exchange import Exchange
from sessions.simulator.faults import Fault
from sessions.simulator.tokens import count, filler

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
