"""The travel desk of the demo: its handbook, its tools, and the model they are for. One set for all its processes."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from sessions import Tool, tool

CITIES = ("Paris", "Rome", "Vienna", "Oslo", "Lisbon", "Prague", "Madrid", "Athens")
SKIES = ("clear", "light rain", "overcast", "windy", "fog", "sunny")


def departures(origin: str, destination: str) -> list[str]:
    """The trains of a day between two cities, one line each."""
    first = (CITIES.index(origin) * 7 + CITIES.index(destination) * 3) % 6 + 5
    hours = (CITIES.index(origin) - CITIES.index(destination)) % 7 + 3
    return [
        f"{origin} to {destination}: leaves {hour:02}:{first * 7 % 60:02}, takes {hours} h {hour * 11 % 60:02} min, "
        f"platform {hour % 9 + 1}, {hours * 19 + hour} EUR, {'reservation needed' if hour % 2 else 'no reservation'}"
        for hour in (first, first + 8)
    ]


HANDBOOK = "\n".join(
    (
        "You are the travel desk of a small company. Answer in one or two short sentences.",
        "Look things up with your tools instead of guessing, several at once where the question asks for several.",
        "Never reserve a seat that nobody asked for. The timetable:",
        *itertools.chain.from_iterable(departures(a, b) for a, b in itertools.permutations(CITIES, 2)),
    )
)
"""The system prompt: long enough for every current model to cache it."""


def tools(bookings: Path, slow: float = 0.0) -> list[Tool]:
    """The desk's tools. Reservations are lines of the file `bookings`; `seat_map` takes `slow` seconds."""

    @tool(idempotent=True)
    def weather(city: str) -> str:
        """Today's weather in a city.

        Args:
            city: The name of the city, such as Paris.
        """
        n = sum(city.encode())
        return f"{city}: {SKIES[n % len(SKIES)]}, {n % 19 + 9} degrees"

    @tool(idempotent=True)
    def seat_map(city: str) -> str:
        """The free seats on today's train to a city. Slow: it asks the railway.

        Args:
            city: Where the train goes, such as Rome.
        """
        time.sleep(slow)
        return f"{city}: {sum(city.encode()) % 40 + 3} seats free, mostly in coach {len(city)}"

    @tool
    def reserve(city: str) -> str:
        """Reserves one seat on today's train to a city.

        Args:
            city: Where the train goes, such as Rome.
        """
        with bookings.open("a", encoding="utf-8") as file:
            file.write(f"{city}\n")
        return f"Reserved: one seat to {city}, booking {1000 + sum(city.encode())}"

    return [weather, reserve, seat_map]
