"""Every argument of every public method against values that nobody should give: it works, or an error of ours names it.

And whatever was given, the session goes on afterwards. On both kinds of store: what one holds, the other may refuse.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sessions import ConfigurationError, InvalidHistory, Session, SessionManager, SessionsError
from tests.sessions.world import MODEL, SYSTEM, World, create

DEEP = 930


def deep(kind: str) -> Any:
    value: Any = "x"
    for _ in range(DEEP):
        value = [value] if kind == "list" else {"a": value}
    return value


def generated() -> Iterator[Any]:
    yield from (1, "two", None)


class Odd:
    """An object whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


_BLOCK = {"type": "text", "text": "x"}
_VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "1.5": lambda: 1.5,
    "2**63": lambda: 2**63,
    "10**400": lambda: 10**400,
    "10**5000": lambda: 10**5000,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "bytes": lambda: b"\xff\x00",
    "empty": lambda: "",
    "blank": lambda: " \n",
    "surrogate": lambda: "a \ud800 b",
    "nul": lambda: "a \0 b",
    "8 kB": lambda: "x" * 8_000,
    "1 MB": lambda: "x" * 1_000_000,
    "object": lambda: object(),
    "odd": lambda: Odd(),
    "class": lambda: dict,
    "generator": generated,
    "list": list,
    "odd list": lambda: [None, 1, "x", [], {}, object()],
    "deep list": lambda: [deep("list")],
    "dict": dict,
    "deep dict": lambda: {"type": "x", "a": deep("dict")},
    "key of int": lambda: {1: 2, "type": "x"},
    "key of none": lambda: {None: None},
    "key of tuple": lambda: {(1, 2): 3, "type": "x"},
    "key of surrogate": lambda: {"\ud800": 1, "type": "x"},
    "type of NUL": lambda: {"type": "a\0b", "name": "a\0b"},
    "type of dict": lambda: {"type": {}},
    "nan inside": lambda: {"type": "x", "a": float("nan")},
    "set inside": lambda: {"type": "x", "a": {1, 2}},
    "digits inside": lambda: {"type": "x", "a": 10**5000},
    "block of surrogate": lambda: [{"type": "text", "text": "\ud800"}],
    "block of NUL": lambda: [{"type": "text", "text": "a\0b"}],
    "deep block": lambda: [{"type": "document", "source": deep("dict")}],
    "block with odd keys": lambda: [{**_BLOCK, 1: 2}],
    "schema half made": lambda: [{"name": "a\0b", "input_schema": 7}],
    "schema of nothing": lambda: [{"name": "x", "input_schema": None}],
    "deep schema": lambda: [{"name": "x", "input_schema": {"type": "object", "properties": deep("dict")}}],
    "message of surrogate": lambda: [{"role": "user", "content": "\ud800"}],
    "deep message": lambda: [{"role": "user", "content": [{"type": "document", "source": deep("list")}]}],
    "message of nothing": lambda: [{"role": "user"}],
}


@dataclass(frozen=True)
class Place:
    """A manager with a session that has spoken."""

    world: World
    manager: SessionManager
    session: Session


Use = Callable[[Place, Any], Awaitable[Any]]
_GOOD = {
    "model": MODEL, "max_tokens": 4000, "system": SYSTEM, "tools": [], "thinking": None, "tool_choice": None,
    "output_config": None, "params": None, "compact": None, "metadata": {}, "title": "t",
}  # fmt: skip


def _create(name: str) -> Use:
    return lambda place, value: create(place.manager, **{name: value})


def _prewarm(name: str) -> Use:
    return lambda place, value: place.manager.prewarm(
        **{"model": MODEL, "max_tokens": 100, "system": SYSTEM, name: value}
    )


def _update(name: str) -> Use:
    async def use(place: Place, value: Any) -> None:
        await place.session.update(**{"rebase": True, name: value})
        await place.session.update(rebase=True, **_GOOD)

    return use


def _turn(name: str) -> Use:
    return lambda place, value: place.session.send(**{"content": "Hello", name: value})


def _stream(name: str) -> Use:
    async def use(place: Place, value: Any) -> None:
        async with place.session.stream(**{"content": "Hello", name: value}) as stream:
            await stream.get_final_reply()

    return use


def _run(name: str) -> Use:
    async def use(place: Place, value: Any) -> None:
        async for _ in place.session.run(**{"content": "Hello", name: value}):
            pass

    return use


def _batch(name: str) -> Use:
    return lambda place, value: place.session.batch(**{"contents": ["a"], name: value})


def _manager(name: str) -> Use:
    async def use(place: Place, value: Any) -> None:
        async with place.world.manager(**{"store": "sqlite://", name: value}) as manager:
            session = await create(manager)
            await session.send("Hello")

    return use


_USES: dict[str, Use] = {
    **{f"create.{name}": _create(name) for name in (*_GOOD, "context", "owner", "id")},
    **{f"prewarm.{name}": _prewarm(name) for name in ("model", "max_tokens", "tools", "owner", "title", "metadata")},
    **{f"update.{name}": _update(name) for name in (*_GOOD, "rebase")},
    **{f"send.{name}": _turn(name) for name in ("content", "expected_gap", "idempotency_key", "timeout")},
    **{f"stream.{name}": _stream(name) for name in ("content", "expected_gap", "idempotency_key", "timeout")},
    **{f"run.{name}": _run(name) for name in ("content", "expected_gap", "idempotency_key", "timeout")},
    **{f"batch.{name}": _batch(name) for name in ("contents", "idempotency_key", "poll", "timeout")},
    **{
        f"SessionManager.{name}": _manager(name)
        for name in (
            "profile", "ttl", "tend", "warmup", "warmup_timeout", "recover", "diagnostics", "max_steps", "busy_timeout",
            "transcript_bytes", "tools",
        )
    },
    "SessionManager.store": lambda place, value: _opened(SessionManager(value)),
    "SessionManager.client": lambda place, value: _opened(SessionManager("sqlite://", client=value)),
    "SessionManager.clock": lambda place, value: _opened(SessionManager("sqlite://", clock=value)),
    "open.id": lambda place, value: place.manager.open(value),
    "open.owner": lambda place, value: place.manager.open(place.session.id, owner=value),
    "open.tools": lambda place, value: place.manager.open(place.session.id, tools=value),
    "open.rebase": lambda place, value: place.manager.open(place.session.id, rebase=value),
    "list.owner": lambda place, value: place.manager.list(owner=value),
    "costs.by": lambda place, value: place.manager.costs(value),
    "costs.session": lambda place, value: place.manager.costs("day", session=value),
    "costs.owner": lambda place, value: place.manager.costs("day", owner=value),
    "costs.since": lambda place, value: place.manager.costs("day", since=value),
    "costs.until": lambda place, value: place.manager.costs("day", until=value),
    "delete.id": lambda place, value: place.manager.delete(value),
    "delete.owner": lambda place, value: place.manager.delete("nowhere", owner=value),
    "recover.in_doubt": lambda place, value: place.manager.recover(in_doubt=value),
    "resume.in_doubt": lambda place, value: place.session.resume(in_doubt=value),
    "map.contents": lambda place, value: place.session.map(value),
    "map.contents[0]": lambda place, value: place.session.map([value]),
    "map.limit": lambda place, value: place.session.map(["a"], limit=value),
    "append.messages": lambda place, value: place.session.append(value),
    "append.messages[0]": lambda place, value: place.session.append([value]),
    "fork.at": lambda place, value: place.session.fork(value),
    "rewind.to": lambda place, value: place.session.rewind(value),
    "instruct.text": lambda place, value: place.session.instruct(value),
}  # fmt: skip


async def _opened(manager: SessionManager) -> None:
    async with manager:
        await manager.list()


@pytest.fixture(params=["sqlite", "postgresql"])
def place_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of each kind."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("empty_store")
        return url
    return f"sqlite:///{tmp_path}/hostile.db"


@pytest.mark.parametrize("use", _USES)
async def test_a_hostile_argument_is_named_or_works(use: str, place_url: str) -> None:
    world, name = World(url=place_url), use.partition(".")[2].partition("[")[0].removesuffix("s")
    wrong: list[str] = []
    async with world.manager(tend=False) as manager:
        session = await create(manager, id="speaker")
        await session.send("Hello")
        for label, value in _VALUES.items():
            said = await _outcome(_USES[use], Place(world, manager, session), value())
            if said is not None and (said.startswith("RAW") or name not in said):
                wrong.append(f"{use} = {label}: {said[:300]}")
        assert not wrong, "\n".join(wrong)
        await session.update(rebase=True, **_GOOD)  # what was taken may be nothing that the API takes
        again = await manager.open("speaker")
        await again.rewind(None)
        assert (await again.send("And now?")).stop_reason == "end_turn"
        assert await again.export()


async def _outcome(use: Use, place: Place, value: Any) -> str | None:
    """`None` where it worked or ended as it should; else what was said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            await use(place, value)
        except (ConfigurationError, InvalidHistory) as error:
            return str(error)
        except (SessionsError, TimeoutError):
            return None  # a session that is not there, an entry that is on no chain, the API's own no
        except Exception as error:
            return f"RAW {type(error).__name__}: {str(error)[:200]}"
    return None
