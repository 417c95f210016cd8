"""Traces: sizes and times become conversations of filler."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sessions.errors import InvalidImport
from sessions.importers import read, read_traces
from sessions.importers.messages_json import ORIGIN
from sessions.importers.traces import filler
from tests.importers.referee import DATA, refusal

STEP: dict[str, Any] = {
    "at_s": 0,
    "model": "m",
    "text_chars": 9,
    "tool_calls": [],
    "usage": {"input": 1, "cw": 0, "cr": 0},
}


def traced(folder: Path, *turns: Any) -> Path:
    path = folder / "traces.jsonl"
    path.write_text(json.dumps({"id": "t", "turns": turns}))
    return path


def test_the_sample_is_taken_by_the_api_and_keeps_sizes_and_times() -> None:
    found = read(DATA / "traces.jsonl.gz", strict=True).conversations
    rows = [json.loads(line) for line in gzip.decompress((DATA / "traces.jsonl.gz").read_bytes()).splitlines()]
    assert [refusal(one) for one in found] == [None] * len(found)
    assert {(one.source, one.license, one.filler) for one in found} == {("traces", "MIT", True)}
    recorded = [step for row in rows for turn in row["turns"] for step in turn["steps"]]
    steps = [step for one in found for step in one.steps]
    assert len(steps) == len(recorded)
    for step, row in zip(steps, recorded, strict=True):
        usage = row["usage"]
        assert step.usage is not None
        assert step.usage.total_input == usage["input"] + usage["cw"] + usage["cr"]
        assert step.at == ORIGIN + row["at_s"]
        assert [len(result["content"]) for result in step.results if "is_error" not in result] == [
            call["result_chars"] for call in row["tool_calls"] if "result_chars" in call and not call.get("is_error")
        ]


def test_compactions_begin_segments() -> None:
    found = {one.id: one for one in read(DATA / "traces.jsonl.gz").conversations}
    assert found["entireio/cli/0163#2"].session == "entireio/cli/0163"
    assert found["entireio/cli/0163#2"].turns[0].trigger == "compact"


@pytest.mark.parametrize("size", [1, 2, 7, 80, 81, 10_000])
def test_filler_has_the_length_asked_for_and_is_never_blank(size: int) -> None:
    for salt in range(100):
        text = filler(size, salt)
        assert (len(text), text.strip() != "", text[-1].isspace()) == (size, True, False)


@pytest.mark.parametrize(
    "turn",
    [
        5,
        {"steps": 5},
        {"steps": [5]},
        {"user_chars": -1, "steps": [STEP]},
        {"user_chars": "many", "steps": [STEP]},
        {"user_chars": 10**300, "steps": [STEP]},
        {"at_s": True, "steps": [STEP]},
        {"steps": [{**STEP, "tool_calls": {"name": "x"}}]},
        {"steps": [{**STEP, "tool_calls": [{"result_chars": []}]}]},
    ],
)
def test_a_wrong_value_skips_the_trace(tmp_path: Path, turn: Any) -> None:
    path = traced(tmp_path, turn)
    with pytest.raises(InvalidImport, match="holds no conversation"):
        read(path)
    with pytest.raises(InvalidImport, match="line 1: has "):
        read_traces(path, strict=True)


def test_odd_but_usable_traces(tmp_path: Path) -> None:
    odd = {**STEP, "model": 5, "usage": 5, "tool_calls": [{"name": "a b", "is_error": True, "result_chars": 0}]}
    path = traced(
        tmp_path, {"trigger": "auto:hook", "user_images": 1, "steps": [odd]}, {"steps": []}, {"steps": [STEP]}
    )
    (conversation,) = read(path, strict=True).conversations
    assert refusal(conversation) is None
    assert [turn.trigger for turn in conversation.turns] == ["auto", "human"]
    assert conversation.steps[0].usage is None
