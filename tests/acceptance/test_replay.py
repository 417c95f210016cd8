"""Recorded conversations through real sessions: nothing refused, everything read that was cached, cheaper than without.

The samples of the repository always run. The full recordings run where `WARMLINE_DATA` names their folder.
"""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from anthropic.lib.tools import ToolError

from sessions import Fixed, SessionManager
from sessions.core.profiles import profile_for
from sessions.core.usage import Usage
from sessions.importers import RecordedConversation, read
from sessions.importers.records import RecordedStep, RecordedTurn
from sessions.replay import AFTERWARDS, Replay, Totals, recordings, replay, replay_series
from sessions.replay.meter import TTLS, Meter
from sessions.replay.player import Player
from sessions.simulator import Engine, Exchange, Request, client
from sessions.testing import ManualClock

DATA = Path(__file__).parent.parent / "data"
SAMPLES = sorted(DATA.glob("*.jsonl.gz"))
FULL = Path(os.environ.get("WARMLINE_DATA", ""))
needs_full_data = pytest.mark.skipif(
    "WARMLINE_DATA" not in os.environ, reason="WARMLINE_DATA is not set: the full recordings lie outside the repository"
)


def holds(played: Replay) -> Totals:
    """Asserts what every replay must show, and gives its totals. Only a request made while idle may send plain input:
    its placeholder, and a reply behind the point that it refreshes."""
    totals = played.totals
    assert played.problems == ()
    assert (totals.refused, totals.broken, totals.usage.input) == (0, 0, totals.idle.input)
    assert totals.cost is not None
    assert totals.uncached_cost is not None
    return totals


async def play_all(path: Path) -> list[Replay]:
    return [await replay(recording) for recording in recordings(read(path, strict=True).conversations)]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.split(".")[0])
async def test_samples_replay_whole(path: Path) -> None:
    played = await play_all(path)
    recorded = recordings(read(path).conversations)
    totals = sum((holds(one) for one in played), start=Totals())
    assert totals.requests == sum(len(segment.steps) for recording in recorded for segment in recording)
    assert totals.checked >= totals.requests / 2
    assert totals.cost is not None
    assert totals.uncached_cost is not None
    assert totals.cost < totals.uncached_cost


async def test_sizes_are_the_recorded_ones(unmeasured: None) -> None:
    totals = sum((one.totals for one in await play_all(DATA / "traces.jsonl.gz")), start=Totals())
    assert totals.sent == pytest.approx(totals.recorded, rel=1e-3)


async def test_requests_start_when_they_were_recorded_and_say_what_was_recorded(tmp_path: Path) -> None:
    (recording,) = recordings(read(DATA / "interrupts_and_compaction.jsonl.gz").conversations)
    store = f"sqlite:///{tmp_path / 'sessions.db'}"
    played = await replay(recording, store=store)
    async with client() as api, SessionManager(store, client=api) as manager:
        for segment, session_id in zip(recording, played.sessions, strict=True):
            session = await manager.open(session_id)
            assert [call.started for call in await session.calls()] == pytest.approx([s.at for s in segment.steps])
            answered = [turn for turn in segment.turns if turn.steps]
            wanted = RecordedConversation(segment.id, "claude-code", "", tuple(answered)).messages
            said = bare(session.messages)
            assert said == bare(wanted)[: len(said)]


async def test_the_ledger_tells_the_same_bill(tmp_path: Path) -> None:
    (recording,) = recordings(read(DATA / "skills_and_one_hour.jsonl.gz").conversations)
    store = f"sqlite:///{tmp_path / 'sessions.db'}"
    totals = holds(await replay(recording, store=store))
    async with client() as api, SessionManager(store, client=api) as manager:
        (info,) = await manager.list()
        assert (info.usage, info.cost) == (totals.usage, totals.cost)
        assert info.calls == totals.requests + totals.idle_requests


async def test_a_series_has_one_owner_and_one_clock_and_its_ledgers_are_the_bill(tmp_path: Path) -> None:
    recorded = recordings(read(DATA / "traces.jsonl.gz").conversations)[-3:]
    store = f"sqlite:///{tmp_path / 'sessions.db'}"
    series = await replay_series(recorded, store=store, owner="somebody", model="claude-opus-5")
    assert series.billed == series.ledger == series.totals.usage
    ends = [one.requests[-1].started for one in series.replays]
    starts = [one.requests[0].started for one in series.replays]
    assert all(start - end >= AFTERWARDS for end, start in zip(ends, starts[1:], strict=False))
    alone = [await replay(recording, model="claude-opus-5", ttl=Fixed("5m")) for recording in recorded]
    assert [one.totals.sent for one in series.replays] == [one.totals.sent for one in alone]
    async with client() as api, SessionManager(store, client=api) as manager:
        assert {info.owner for info in await manager.list()} == {"somebody"}


async def test_rows_that_belong_to_no_conversation_are_in_the_ledger_of_a_series(tmp_path: Path) -> None:
    """What is sent to find out whether parked entries live is on the bill; rows from an earlier series are not."""
    recorded = recordings(read(DATA / "traces.jsonl.gz").conversations)[4:5]
    store = f"sqlite:///{tmp_path / 'sessions.db'}"
    for _ in range(2):
        series = await replay_series(recorded, store=store, model="claude-opus-5", trust="probe")
        assert series.billed == series.ledger
    async with client() as api, SessionManager(store, client=api) as manager:
        assert (await manager.costs("kind"))["probe"].calls == 3, "the second one knows"


async def test_automatic_caching_is_charged_as_the_simulator_charges_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request of a replay again, with top-level `cache_control`, to a simulator of its own."""
    (recording,) = recordings(read(DATA / "interrupts_and_compaction.jsonl.gz").conversations)
    bodies: list[tuple[dict[str, Any], float]] = []
    receive = Meter.receive

    def noted(meter: Meter, body: Any, headers: Any, now: float, **rest: Any) -> Exchange:
        bodies.append((body, now))
        return receive(meter, body, headers, now, **rest)

    monkeypatch.setattr(Meter, "receive", noted)
    played = await replay(recording, ttl=Fixed("5m"), tend=False)
    for ttl in TTLS:
        engine = Engine()
        for (body, now), row in zip(bodies, played.requests, strict=True):
            sent = {**without_markers(body), "cache_control": {"type": "ephemeral", "ttl": ttl}}
            exchange = engine.receive(sent, {"x-api-key": "simulated", "anthropic-version": "2023-06-01"}, now)
            assert exchange.prompt is not None, exchange.error
            engine.begin(exchange, now)
            assert exchange.prompt.usage == row.automatic[ttl]
        assert engine.bill().usage.cache_read > 0


async def test_settings_reach_the_manager_and_progress_is_told() -> None:
    recording = recordings(read(DATA / "traces.jsonl.gz").conversations)[-1]
    told: list[tuple[int, int]] = []
    played = await replay(recording, ttl=Fixed("1h"), progress=lambda done, of: told.append((done, of)))
    assert holds(played).usage.cache_write_5m == 0
    assert told[-1] == (played.totals.requests, played.totals.requests)


async def test_messages_json_with_its_own_system_prompt_and_tools() -> None:
    (recording,) = recordings(read(DATA / "conversation.json").conversations)
    played = await replay(recording)
    assert played.problems == ()
    assert [turn.totals.requests for turn in played.turns] == [2, 1]
    assert [turn.gap for turn in played.turns] == [None, pytest.approx(played.turns[1].at - played.turns[0].at - 5)]


async def test_a_refused_request_is_told_and_the_replay_goes_on() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": "AAAA"}}
    turns = tuple(turn(60.0 * number, words) for number, words in enumerate(["One.", image, "Three."]))
    played = await replay(RecordedConversation("c", "messages", "c", turns))
    assert (played.totals.refused, played.totals.requests, len(played.turns)) == (1, 3, 3)
    (problem,) = played.problems
    assert problem.startswith("refused: messages.2.content.0.")


async def test_the_first_image_and_stripped_thinking_are_no_fault() -> None:
    data = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    words = "word " * 5000
    turns = (turn(0.0, words), turn(60.0, image), turn(120.0, "More."), turn(180.0, "Still more."))
    for model in ("claude-opus-4-6", "claude-sonnet-4-5-20250929"):
        conversation = RecordedConversation("c", "messages", "c", turns, model)
        totals = holds(await replay(conversation))
        assert totals.top_level.cache_read > 0
        assert totals.usage.cache_read > 0


async def test_where_the_recorder_shortened_its_history_a_new_session_begins() -> None:
    cleared = (tool_step(0.0, 30_000, "a"), tool_step(10.0, 40_000, "b"), tool_step(20.0, 20_000, "c"))
    went_back = (tool_step(60.0, 12_000),)
    turns = (RecordedTurn(0.0, WORDS, steps=cleared), RecordedTurn(60.0, WORDS, steps=went_back))
    played = await replay(RecordedConversation("c", "claude-code", "c", turns, "claude-opus-4-6"))
    totals = holds(played)
    assert len(played.sessions) == 3
    assert [turn.totals.requests for turn in played.turns] == [3, 1]
    assert totals.recorded == 102_000
    assert totals.sent == pytest.approx(102_000, abs=1)


async def test_a_model_without_a_price_has_no_costs() -> None:
    conversation = RecordedConversation("c", "messages", "c", (turn(0.0, "Hello."),), "claude-mythos-preview")
    totals = (await replay(conversation)).totals
    assert (totals.cost, totals.top_level_cost, totals.uncached_cost) == (None, None, None)


async def test_a_player_that_is_asked_too_much_says_so() -> None:
    player = Player(ManualClock(), profile_for("claude-opus-4-6"))
    scripted = await player.script(Request({"model": "m", "messages": []}, 0, False), 0)
    assert (scripted.content, player.unrecorded) == ("(nothing more was recorded)", 1)
    with pytest.raises(ToolError, match="no call of Bash"):
        await player.call("Bash", {})


async def test_nothing_to_replay_is_said() -> None:
    with pytest.raises(ValueError, match="no reply of a model"):
        await replay(RecordedConversation("c", "messages", "c", ()))
    assert recordings([RecordedConversation("c", "messages", "c", (RecordedTurn(0.0, ()),))]) == []


@needs_full_data
@pytest.mark.parametrize("name", ["interrupts_and_compactions", "one_hour_cache"])
async def test_both_transcripts_replay_whole(name: str, unmeasured: None) -> None:
    (played,) = await play_all(FULL / "transcripts" / f"{name}.jsonl.gz")
    totals = holds(played)
    assert totals.checked > 0.9 * totals.requests
    assert totals.cost is not None
    assert totals.top_level_cost is not None
    assert totals.cost < totals.top_level_cost


@needs_full_data
async def test_fifty_traces_replay_whole(unmeasured: None) -> None:
    """Every third recording from the median size down (the file is sorted, the largest first)."""
    recorded = recordings(read(FULL / "traces" / "agent_sessions.jsonl.gz", strict=True).conversations)[122::3]
    assert len(recorded) == 50
    totals = sum([holds(await replay(recording)) for recording in recorded], start=Totals())
    assert totals.requests == sum(len(segment.steps) for recording in recorded for segment in recording)
    assert totals.sent == pytest.approx(totals.recorded, rel=0.005)


WORDS = ({"type": "text", "text": "Go on."},)


def tool_step(at: float, prompt_tokens: int, tool_id: str = "") -> RecordedStep:
    """A step of that prompt size; with an id it calls a tool."""
    call = {"type": "tool_use", "id": tool_id, "name": "Bash", "input": {}}
    result = {"type": "tool_result", "tool_use_id": tool_id, "content": "done"}
    blocks, results = ((call,), (result,)) if tool_id else (({"type": "text", "text": "Yes."},), ())
    return RecordedStep(at, blocks, "", Usage(input=prompt_tokens), 1.0, results, (2.0,) * len(results))


def turn(at: float, words: str | dict[str, Any]) -> RecordedTurn:
    """A turn of one step."""
    content = {"type": "text", "text": words} if isinstance(words, str) else words
    thinking = {"type": "thinking", "thinking": "Let me think.", "signature": "recorded"}
    step = RecordedStep(at, (thinking, {"type": "text", "text": "Yes."}), "")
    return RecordedTurn(at, (content,), steps=(step,))


def without_markers(body: Any) -> Any:
    """A request body without `cache_control` on its blocks."""
    if isinstance(body, list):
        return [without_markers(one) for one in body]
    if isinstance(body, dict):
        return {name: without_markers(value) for name, value in body.items() if name != "cache_control"}
    return body


def bare(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What messages say, merged by role as the API does it, without what a replay makes itself: filler, signatures."""
    runs = groupby(messages, key=lambda message: message["role"])
    return [[block for message in run for block in without_filler(message["content"])] for _, run in runs]


def without_filler(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = []
    for block in blocks:
        if block.get("text", "").startswith("lorem "):
            continue
        said = {key: value for key, value in block.items() if key not in ("signature", "caller") and value is not False}
        content = said.get("content")
        if isinstance(content, list):
            said["content"] = "".join(inner["text"] for inner in without_filler(content))
        kept.append(said)
    return kept
