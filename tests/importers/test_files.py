"""Files as such: packed or not, cut, damaged, huge, or no transcript at all."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from sessions.errors import InvalidImport
from sessions.importers import read
from tests.importers.lines import Transcript, text
from tests.importers.referee import DATA

PACKED = (DATA / "skills_and_one_hour.jsonl.gz").read_bytes()
PLAIN = gzip.decompress(PACKED)


def written(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        PACKED,
        PLAIN,
        b"\xef\xbb\xbf" + PLAIN,
        gzip.compress(PLAIN[:5000]) + gzip.compress(PLAIN[5000:]),
        PACKED + b"\0" * 9,
    ],
    ids=["gzip", "plain", "bom", "two members", "padded"],
)
def test_packing_is_told_by_content_not_by_name(tmp_path: Path, data: bytes) -> None:
    whole = read(DATA / "skills_and_one_hour.jsonl.gz")
    assert read(written(tmp_path, data), strict=True).conversations == whole.conversations


def test_a_cut_gzip_file_gives_what_it_held(tmp_path: Path) -> None:
    path = written(tmp_path, PACKED[: len(PACKED) // 2])
    imported = read(path)
    assert imported.conversations
    assert any("ends early" in problem.message for problem in imported.problems)
    with pytest.raises(InvalidImport, match=r"file, line \d+: "):
        read(path, strict=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"hello",
        b"5",
        b'"x"',
        b"{}",
        b"[]",
        b"[1, 2]",
        b'{"name": "package", "type": "module"}',
        b"\x89PNG\r\n\x1a\n\0\0",
        b"\x1f\x8b",
        b"\x1f\x8b\x08\0garbage",
        b"%PDF-1.7",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"a,b,c\n1,2,3\n",
    ],
)
def test_what_is_no_transcript_is_refused_and_told_what_was_expected(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidImport, match=r"file: .*Expected a Claude Code transcript"):
        read(written(tmp_path, data))


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, Path("\0")):
        with pytest.raises(InvalidImport, match="cannot be read"):
            read(path)


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    bomb = written(tmp_path, gzip.compress(b"\0" * (1 << 22)))
    with pytest.raises(InvalidImport, match="unpacks to more than 1 MiB: raise max_bytes"):
        read(bomb, max_bytes=1 << 20)


def test_a_file_has_a_largest_size_that_can_be_raised(tmp_path: Path) -> None:
    path = written(tmp_path, b'[{"role": "user", "content": "' + b"x" * 2000 + b'"}]')
    with pytest.raises(InvalidImport, match="is larger than 2000 bytes"):
        read(path, max_bytes=2000)
    assert read(path, max_bytes=3000).conversations


BOMBS = {"one": b"[" + b"[]," * (4 << 20) + b"[]]", "lines": b'{"a":[[],[]]}\n' * (1 << 20)}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_what_bytes_become_is_bounded(tmp_path: Path, bomb: bytes) -> None:
    """Small files whose values take many times their bytes."""
    path = written(tmp_path, gzip.compress(bomb))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidImport, match=r"holds more than [\d,]+ values"):
            read(path, max_bytes=16 << 20)
        assert tracemalloc.get_traced_memory()[1] < 3 * (16 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"type": "user"', "is not JSON"),
        (b'{"type": "user", "x": NaN}', "NaN is no JSON number"),
        (b'{"type": "user", "x": 1e999}', "a number is too large"),
        (b'{"type": "user", "x": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"type": "user", "x": ' + b"[" * 200 + b"]" * 200 + b"}", "nested too deeply"),
        (b'{"type": "user", "x": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"type": "user\xff"}', "is not UTF-8"),
        (b"[]", "is not an object with a type"),
    ],
)
def test_a_bad_line_is_skipped_with_its_number(tmp_path: Path, line: bytes, why: str) -> None:
    first, _, rest = PLAIN.partition(b"\n")
    imported = read(written(tmp_path, b"\n".join([first, line, rest])))
    (problem,) = imported.problems
    assert (problem.line, why in problem.message) == (2, True)
    assert len(imported.conversations[0].steps) > 10


def test_half_an_emoji_is_replaced_so_that_it_can_be_sent(tmp_path: Path) -> None:
    transcript = Transcript()
    transcript.user("cut \ud83d here")
    transcript.claude(text("\U0001f600 whole"))
    (conversation,) = transcript.read(tmp_path, strict=True).conversations
    assert conversation.turns[0].content == (text("cut � here"),)
    assert conversation.steps[0].blocks == (text("\U0001f600 whole"),)
    json.dumps(conversation.messages, ensure_ascii=False).encode()


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    transcript = Transcript()
    transcript.user("x" * 10_000_000)
    transcript.claude(text("Long."))
    transcript.user("y" * 10_000_000)
    path = tmp_path / "transcript.jsonl"
    assert len(transcript.read(tmp_path).conversations[0].messages) == 3
    path.write_bytes(path.read_bytes()[:-100])
    imported = read(path)
    assert (len(imported.conversations[0].messages), imported.problems[0].line) == (2, 3)
