"""Whatever happens to a file, an import ends in conversations that the API takes, or in `InvalidImport`."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions.errors import InvalidImport
from sessions.importers import Imported, read
from tests.importers.referee import DATA, refusal

SAMPLES = {
    "claude-code": gzip.decompress((DATA / "skills_and_one_hour.jsonl.gz").read_bytes()),
    "traces": b"\n".join(gzip.decompress((DATA / "traces.jsonl.gz").read_bytes()).splitlines()[-5:]),
    "messages": json.dumps(json.loads((DATA / "conversation.json").read_bytes())).encode(),
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
modest = settings(max_examples=60, deadline=None)
formats = pytest.mark.parametrize("source", SAMPLES)


def survives(data: bytes) -> Imported | None:
    """Reads damaged data both ways and asserts the promise."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(data)
        try:
            imported = read(path)
        except InvalidImport:
            return None
        assert [refusal(one) for one in imported.conversations] == [None] * len(imported.conversations)
        for one in imported.conversations:
            starts = [step.at for step in one.steps]
            assert starts == sorted(starts)
            assert all(turn.steps for turn in one.turns[:-1])
        try:
            assert read(path, strict=True) == imported
            assert not imported.problems
        except InvalidImport:
            assert imported.problems
        return imported


@formats
@modest
@given(data=st.data())
def test_bytes_flipped(source: str, data: st.DataObject) -> None:
    damaged = bytearray(SAMPLES[source])
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=20)):
        damaged[place] = data.draw(st.integers(0, 255))
    survives(bytes(damaged))


@formats
@modest
@given(data=st.data())
def test_lines_dropped_doubled_moved(source: str, data: st.DataObject) -> None:
    lines = SAMPLES[source].splitlines()
    for _ in range(data.draw(st.integers(1, 8))):
        place, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        kind = data.draw(st.sampled_from(["drop", "double", "move"]))
        line = lines.pop(place) if kind != "double" or len(lines) == 1 else lines[place]
        if kind != "drop" or not lines:
            lines.insert(other, line)
    survives(b"\n".join(lines))


@formats
@modest
@given(data=st.data())
def test_wrong_values_anywhere(source: str, data: st.DataObject) -> None:
    lines = SAMPLES[source].splitlines()
    place = data.draw(st.integers(0, len(lines) - 1))
    value: Any = json.loads(lines[place])
    outer, key = value, next(iter(value))
    while isinstance(outer[key], (dict, list)) and outer[key] and data.draw(st.integers(0, 5)):
        outer = outer[key]
        key = data.draw(st.sampled_from(sorted(outer) if isinstance(outer, dict) else range(len(outer))))
    if outer is value:
        key = data.draw(st.sampled_from(sorted(value)))
    outer[key] = data.draw(VALUES)
    lines[place] = json.dumps(value).encode()
    survives(b"\n".join(lines))


@modest
@given(cut=st.integers(0, 16000), place=st.integers(0, 16000), byte=st.integers(0, 255))
def test_gzip_cut_and_damaged(cut: int, place: int, byte: int) -> None:
    packed = bytearray(gzip.compress(SAMPLES["claude-code"], mtime=0))
    packed[place % len(packed)] = byte
    survives(bytes(packed[: len(packed) - cut]))


@modest
@given(data=st.binary(max_size=200))
def test_anything_at_all(data: bytes) -> None:
    survives(data)
    survives(gzip.compress(data))
