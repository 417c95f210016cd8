"""Profile files: what a manager takes from them, and what it says of a bad one."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions import ConfigurationError, Profile, SessionManager, profile_for
from sessions.model.profile_file import Measured, read_profile
from sessions.simulator import Transport
from tests.sessions.world import MODEL, SYSTEM, World, create

FACTS = replace(profile_for(MODEL), lookback=10, minimum_tokens=4096, ttls=("5m",), parks=False)
HERE = "https://api.anthropic.com"


def stored(path: Path, facts: Profile = FACTS, endpoint: str = "simulator", **other: Any) -> Path:
    Measured(facts, endpoint, "2026-11-25T12:00:00+00:00").write(path)
    if other:
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, **other}))
    return path


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    whole = Measured(FACTS, HERE, "2026-11-25T12:00:00+00:00", False, ({"rule": "ttl", "requests": [{"at": 0.5}]},))
    whole.write(tmp_path / "a.json")
    assert read_profile(tmp_path / "a.json") == whole
    assert read_profile(str(tmp_path / "a.json")) == whole
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_profile_survives_its_file(tmp_path_factory: Any, data: Any) -> None:
    values: dict[str, Any] = {}
    for field in fields(Profile):
        kind = str(field.type)
        if kind == "bool":
            values[field.name] = data.draw(st.booleans())
        elif kind == "int":
            values[field.name] = data.draw(st.integers(1, 10**6))
    values["ttls"] = data.draw(st.sampled_from([("5m",), ("1h",), ("5m", "1h")]))
    values["price_as"] = data.draw(st.none() | st.text())
    profile = replace(FACTS, **values)
    path = tmp_path_factory.mktemp("any") / "a.json"
    assert read_profile(stored(path, profile)).profile == profile


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "there.json"


def test_a_file_by_hand_may_be_short(path: Path) -> None:
    path.write_text(json.dumps({"warmline_profile": 1, "profile": {"name": MODEL, "lookback": 7}}))
    assert read_profile(path).profile == replace(profile_for(MODEL), lookback=7)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"warmline_profile": 2}, "of format 2, not 1"),
    ({"profile": None}, "is no profile of warmline"),
    ({"profile": {**asdict(FACTS), "look_back": 10}}, "'look_back', which is no field"),
    ({"profile": {"lookback": 10}}, "needs the 'name'"),
    ({"profile": {**asdict(FACTS), "lookback": 0}}, "wrong 'lookback': 0"),
    ({"profile": {**asdict(FACTS), "lookback": "10"}}, "wrong 'lookback': Input should be a valid integer"),
    ({"profile": {**asdict(FACTS), "minimum_tokens": -1}}, "wrong 'minimum_tokens': -1"),
    ({"profile": {**asdict(FACTS), "ttls": []}}, "wrong 'ttls'"),
    ({"profile": {**asdict(FACTS), "ttls": ["90m"]}}, "wrong 'ttls.0'"),
    ({"profile": {**asdict(FACTS), "counters": "yes"}}, "wrong 'counters': Input should be a valid boolean"),
    ({"profile": {**asdict(FACTS), "characters_per_token": 0.0}}, "wrong 'characters_per_token': 0.0"),
]


@pytest.mark.parametrize(("values", "said"), BAD, ids=[said for _, said in BAD])
def test_a_bad_file_is_told(path: Path, values: dict[str, Any], said: str) -> None:
    stored(path, **values)
    with pytest.raises(ConfigurationError) as caught:
        SessionManager("sqlite://", profile=path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', "\udc80"])
def test_a_file_that_is_none_is_told(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError, match="warmline probe"):
        SessionManager("sqlite://", profile=str(path))


def test_a_file_that_is_not_there_is_told(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        SessionManager("sqlite://", profile=path)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Measured(FACTS, HERE, "").write(path / "deeper.json")


async def test_a_session_plans_by_the_file(path: Path) -> None:
    world = World(profile=FACTS)
    async with world.manager(profile=stored(path)) as manager:
        session = await create(manager)
        assert session.conversation.prompt.profile == replace(FACTS, name=MODEL)
        await session.send("Hello", expected_gap=600)
    world.check()


async def test_another_model_keeps_its_own_facts(path: Path) -> None:
    """What belongs to the endpoint holds for all; minimum, prices and thinking belong to the model."""
    other = "claude-haiku-4-5"
    async with World().manager(profile=str(stored(path))) as manager:
        found = manager.runtime.endpoint.profile_of(other)
        assert found == replace(profile_for(other), lookback=10, ttls=("5m",), parks=False)
        assert manager.runtime.endpoint.profile_of(f"{MODEL}-latest") == replace(FACTS, name=f"{MODEL}-latest")


async def test_a_profile_of_another_endpoint_is_told_once(path: Path) -> None:
    client = AsyncAnthropic(api_key="k", base_url="http://127.0.0.1:9/v1")
    manager = SessionManager("sqlite://", client=client, profile=stored(path, endpoint="http://127.0.0.1:8"))
    async with manager:
        with pytest.warns(
            UserWarning, match=r"measured at http://127.0.0.1:8 on 2026-11-25.*talks to http://127.0.0.1:9"
        ):
            await create(manager)
        await create(manager)
    async with SessionManager("sqlite://", client=client, profile=stored(path)) as manager:
        with pytest.warns(UserWarning, match="measured on the simulator"):
            await create(manager)
    async with SessionManager(
        "sqlite://", client=client, profile=stored(path, endpoint="http://127.0.0.1:9/v1")
    ) as same:
        await create(same)
    await client.close()


async def test_a_simulated_client_takes_any_profile(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with World().manager(profile=stored(path, endpoint="https://example.com")) as manager:
            await manager.create(model=MODEL, max_tokens=10, system=SYSTEM)
    assert issubclass(Transport, httpx2.AsyncBaseTransport)
