"""The commands that read what is stored, and what they say when they cannot."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import anyio
import pytest

from sessions import tool
from sessions.testing import simulated_manager
from tests.cli.conftest import Run

DATA = Path(__file__).parent.parent / "data"


@tool
def weather(city: str) -> str:
    """Today's weather in a city.

    Args:
        city: The name of the city.
    """
    return f"{city}: sunny [really]"


async def conversation(path: Path) -> str:
    """Two turns, one with a tool; the second session is empty."""
    async with simulated_manager(f"sqlite:///{path}") as manager:
        session = await manager.create(
            id="one",
            model="claude-sonnet-5-5",
            max_tokens=500,
            system="You are a travel desk. " * 120,
            tools=[weather],
            owner="ada",
            title="A [bold] trip",
        )
        await session.send("What is the weather in Paris and in Rome?")
        await session.send("Thank you.")
        await manager.create(id="two", model="claude-sonnet-5-5", max_tokens=500)
        return session.id


@pytest.fixture
def stored(tmp_path: Path) -> str:
    path = tmp_path / "sessions.db"
    anyio.run(conversation, path)
    return f"sqlite:///{path}"


def test_list_tells_sessions_and_what_they_cost(warmline: Run, stored: str) -> None:
    ran = warmline("list")
    assert ran.code == 0
    assert "one" in ran.out
    assert "A [bold] trip, ada" in ran.out
    assert "nothing sent" in ran.out


def test_list_as_json(warmline: Run, stored: str) -> None:
    found = json.loads(warmline("list", "--json", "--owner", "ada").out)
    assert [one["id"] for one in found] == ["one"]
    assert found[0]["turns"] == 2
    assert found[0]["usage"]["cache_read"] > 0
    assert float(found[0]["cost"]) > 0


def test_list_of_an_owner_without_sessions(warmline: Run, stored: str) -> None:
    assert warmline("list", "--owner", "bob").out == "No such sessions.\n"


def test_show_is_a_readable_transcript(warmline: Run, stored: str) -> None:
    shown = warmline("show", "one").out
    assert "you     What is the weather in Paris and in Rome?" in shown
    assert "→ weather(city='Paris')" in shown
    assert "← Rome: sunny [really]" in shown
    assert "█" in shown
    assert "uncached" in shown


def test_show_as_json(warmline: Run, stored: str) -> None:
    found = json.loads(warmline("show", "one", "--json").out)
    assert found["settings"]["model"] == "claude-sonnet-5-5"
    assert [entry["role"] for entry in found["entries"]] == ["user", "assistant"] * 3
    assert len(found["calls"]) == 3


def test_cost_of_a_session_is_its_ledger(warmline: Run, stored: str) -> None:
    total = json.loads(warmline("cost", "one", "--json").out)
    listed = json.loads(warmline("list", "--json", "--owner", "ada").out)[0]
    assert float(total["total"]) == float(listed["cost"])
    assert "3 calls: read" in warmline("cost", "one").out


def test_cost_of_all_sessions(warmline: Run, stored: str) -> None:
    assert "In all $0.0" in warmline("cost").out
    assert len(json.loads(warmline("cost", "--json").out)) == 2


def test_the_schema_of_a_database_can_be_upgraded(warmline: Run, stored: str) -> None:
    assert "The schema is at revision" in warmline("db", "upgrade").out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "nope"), 3, "SessionNotFound: "),
        (("show", "one", "--owner", "bob"), 3, "SessionNotFound: "),
        (("list", "--store", "sqlite:///absent.db"), 2, "no database at absent.db"),
        (("list", "--store", "mysql://x"), 2, "ConfigurationError: "),
        (("db", "upgrade", "--store", "nonsense"), 2, "ConfigurationError: "),
        (("replay", "absent.jsonl"), 2, "InvalidImport: "),
        (("chat", "nope"), 3, "SessionNotFound: "),
        (("demo", "--live"), 2, "set ANTHROPIC_API_KEY"),
        (("simulate", "--host", "203.0.113.1"), 2, "choose another --port"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    warmline: Run, stored: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = warmline(*arguments)
    assert ran.code == code
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_reading_commands_make_no_database(warmline: Run, tmp_path: Path) -> None:
    assert warmline("list").code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(warmline: Run, tmp_path: Path) -> None:
    (tmp_path / "sessions.db").write_text("not a database, but long enough to be read as the head of one" * 20)
    ran = warmline("list")
    assert ran.code == 2
    assert ran.err.startswith("ConfigurationError: ")


def test_a_recording_is_replayed_beside_two_other_bills(warmline: Run) -> None:
    ran = warmline("replay", str(DATA / "parallel_tools.jsonl.gz"))
    assert ran.code == 0, ran.out
    assert "uncached" in ran.out
    assert "top-level cache_control" in ran.out
    assert " 0 refused." in ran.out


def test_a_replay_as_json(warmline: Run) -> None:
    found = json.loads(warmline("replay", str(DATA / "conversation.json"), "--json", "--ttl", "1h").out)
    assert all(one["totals"]["refused"] == 0 for one in found)
    assert sum(turn["totals"]["usage"]["cache_write_5m"] for one in found for turn in one["turns"]) == 0


def test_a_corrupt_line_is_told_and_skipped_or_refused(warmline: Run, tmp_path: Path) -> None:
    lines = gzip.decompress((DATA / "parallel_tools.jsonl.gz").read_bytes()).splitlines()
    file = tmp_path / "corrupt.jsonl"
    file.write_bytes(b"\n".join([*lines, b'{"type": "user", "mess']))
    skipped = warmline("replay", str(file), "--brief")
    assert skipped.code == 0
    assert f"line {len(lines) + 1}" in skipped.err
    refused = warmline("replay", str(file), "--strict")
    assert refused.code == 2
    assert f"line {len(lines) + 1}" in refused.err


def test_help_tells_the_exit_codes(warmline: Run) -> None:
    ran = warmline("--help")
    assert ran.code == 0
    assert "Exit codes: 0 done, 1 the run failed" in " ".join(ran.out.split())
