"""The commands that read what is stored, and what they say when they cannot."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import re
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from sessions import tool
from sessions.cli import terminal
from sessions.testing import simulated_manager
from tests.cli.conftest import Ran, Run

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


def test_list_of_what_waits(warmline: Run, tmp_path: Path) -> None:
    @tool(needs_approval=True)
    def pay(amount: int) -> str:
        """Pays an amount in euros."""
        raise AssertionError

    async def waits() -> None:
        async with simulated_manager(f"sqlite:///{tmp_path / 'sessions.db'}") as manager:
            session = await manager.create(id="asks", model="claude-sonnet-5-5", max_tokens=500, tools=[pay])
            await session.send("Please pay 30 euros.")
            await manager.create(id="new", model="claude-sonnet-5-5", max_tokens=500)

    anyio.run(waits)
    assert [one["id"] for one in json.loads(warmline("list", "--state", "waiting", "--json").out)] == ["asks"]
    assert [one["state"] for one in json.loads(warmline("list", "--state", "idle", "--json").out)] == ["idle"]
    assert warmline("list", "--state", "running").out == "No such sessions.\n"
    assert warmline("list").out.count("waiting") == 1
    assert json.loads(warmline("show", "asks", "--json").out)["state"] == "waiting"
    assert warmline("list", "--state", "asleep").code == 2


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


def test_cost_says_what_a_compaction_has_saved(warmline: Run, stored: str) -> None:
    assert "compaction" not in warmline("cost", "one").out
    assert warmline("compact", "one").code == 0
    assert " tokens out of 0 requests since, and saved $-0.0" in warmline("cost", "one").out
    (found,) = json.loads(warmline("cost", "one", "--json").out)["compactions"]
    assert found["requests"] == 0
    assert found["left_out"] > 0
    assert float(found["saved"]) == -float(found["call"]["cost"])


def test_cost_of_all_sessions(warmline: Run, stored: str) -> None:
    assert "In all $0.0" in warmline("cost").out
    assert len(json.loads(warmline("cost", "--json").out)) == 2


def test_cost_foretells_the_next_turn(warmline: Run, stored: str) -> None:
    ran = warmline("cost", "one", "--forecast")
    assert ran.code == 0
    for told in ("now", "in five minutes", "in an hour", "Kept warm since the last turn for $0.0", "claude-opus-5"):
        assert told in ran.out
    found = json.loads(warmline("cost", "on", "--forecast", "--json").out)
    now, later = found["now"], found["in_an_hour"]
    assert now["usage"]["cache_read"] > 0
    waiting = float(later["cost"]) + float(later["kept"]) - float(now["cost"])
    assert float(found["waiting_an_hour"]) == pytest.approx(waiting)
    assert found["models"][0]["model"] == "claude-haiku-5-5"
    for wrong in (["cost", "--forecast"], ["cost", "one", "--forecast", "--by", "kind"]):
        assert warmline(*wrong).code == 2


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


# -- a session by the beginning of its id --


async def alike(path: Path) -> None:
    async with simulated_manager(f"sqlite:///{path}") as manager:
        for id in ("abc", *(f"abc-{n}" for n in range(7)), "other"):
            session = await manager.create(id=id, model="claude-sonnet-5-5", max_tokens=500, owner=id[0])
            await session.append([{"role": "user", "content": id}, {"role": "assistant", "content": "Yes."}])


@pytest.fixture
def many(tmp_path: Path) -> None:
    anyio.run(alike, tmp_path / "sessions.db")


def named(warmline: Run, *arguments: str) -> str:
    ran = warmline(*arguments, "--json")
    assert ran.code == 0, ran.err
    found: str = json.loads(ran.out)["id"]
    return found


def test_a_session_may_be_named_by_its_beginning(warmline: Run, many: None) -> None:
    assert named(warmline, "show", "o") == "other"
    assert named(warmline, "show", "abc-3") == "abc-3"
    assert named(warmline, "show", "abc") == "abc", "an exact id wins"
    assert named(warmline, "verify", "oth") == named(warmline, "why", "oth") == "other"
    assert "other" in warmline("export", "oth").out
    assert "0 calls" in warmline("cost", "oth").out
    assert [one["session"] for one in json.loads(warmline("cost", "oth", "--by", "session", "--json").out)] == []
    assert json.loads(warmline("fork", "oth", "--json").out)["forked_from"] == "other"
    assert json.loads(warmline("list", "--before", "oth", "--owner", "o", "--json").out) == []
    assert named(warmline, "rewind", "oth", "start") == "other"


def test_of_several_sessions_some_are_told(warmline: Run, many: None) -> None:
    for command in (("show", "abc-"), ("rewind", "abc-", "start"), ("chat", "abc-")):
        ran = warmline(*command)
        assert ran.code == 2
        assert ran.err == (
            "ConfigurationError: several sessions begin with 'abc-': abc-6, abc-5, abc-4, abc-3, abc-2, …; "
            "give more of the id\n"
        )


@pytest.mark.parametrize("name", ["nope", "ther", "a%c", ""])
def test_where_nothing_begins_so_it_is_not_found(warmline: Run, many: None, name: str) -> None:
    ran = warmline("show", name)
    assert ran.code == 3
    assert ran.err.startswith(f"SessionNotFound: there is no session '{name}'")
    assert warmline("show", "oth", "--owner", "a").code == 3, "the sessions of others are not looked at"


# -- wide tables --


def at_a_terminal(columns: int, folder: Path, *arguments: str) -> list[str]:
    """What a terminal of that many columns is sent, line by line, without colours."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-W", "error", "-m", "sessions", *arguments]
    ran = subprocess.run(command, cwd=folder, env={**environment, "TERM": "xterm"}, stdout=theirs, check=True)
    os.close(theirs)
    assert ran.returncode == 0
    shown = b""
    with contextlib.suppress(OSError), open(ours, "rb", 0) as terminal:  # noqa: PTH123  # a descriptor
        while part := terminal.read(65536):
            shown += part
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()


async def dear(path: Path) -> list[str]:
    """Two sessions with ids of their own making and large figures; gives the ids."""
    async with simulated_manager(f"sqlite:///{path}") as manager:
        made = [await manager.create(model="claude-sonnet-5-5", max_tokens=500) for _ in range(2)]
        for session in made:
            await session.send("Hello")
    raw = sqlite3.connect(path)
    raw.execute("UPDATE calls SET cache_read = 12345678, input = 1234567, cost = '1234.56789'")
    raw.commit()
    raw.close()
    return [session.id for session in made]


FIGURES = ["1", "12,345,678", "0", "1,234,567", "91%", "$1234.56789", "0", "$0.00000"]


def test_a_terminal_of_80_columns_shows_every_figure(tmp_path: Path) -> None:
    ids = anyio.run(dear, tmp_path / "sessions.db")
    shown = at_a_terminal(80, tmp_path, "cost", "--by", "session")
    rows = [line.split() for line in shown]
    assert [row[1:] for row in rows[1:3]] == [FIGURES, FIGURES]
    assert sorted(row[0][-1] for row in rows[1:3]) == ["…", "…"]
    assert {row[0][:-1] for row in rows[1:3]} == {id[:12] for id in ids}
    assert max(map(len, shown)) == 80


@pytest.mark.parametrize(("columns", "name"), [(30, "abcdefgh…"), (90, "abcdefghijk…"), (106, "abcdefghijklmnopqrst")])
def test_what_is_cut_is_the_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int, name: str
) -> None:
    monkeypatch.setattr(terminal.console, "width", columns)
    table = terminal.plain_table("name", *(f">{n:<8}" for n in range(len(FIGURES))))
    table.add_row("abcdefghijklmnopqrst", *FIGURES)
    terminal.print_table(table)
    assert capsys.readouterr().out.splitlines()[1].split() == [name, *FIGURES]


def test_what_goes_into_a_pipe_is_not_cut_and_not_wrapped(
    warmline: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ids = anyio.run(dear, tmp_path / "sessions.db")
    out = warmline("cost", "--by", "session").out
    assert all(f"\n{id} " in out for id in ids)
    assert "…" not in out
    assert len(out.splitlines()) == 4


# -- files that may not be written, or not even read, and damaged ones --


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """The database in a folder that everybody can reach."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        path = Path(directory) / "chat.db"
        anyio.run(conversation, path)
        yield path
        path.parent.chmod(0o700)


def as_nobody(warmline: Run, *arguments: str) -> Ran:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can become a user without rights")
    os.seteuid(65534)
    try:
        return warmline(*arguments)
    finally:
        os.seteuid(0)


READING = [("list",), ("show", "one"), ("verify", "on"), ("cost",), ("cost", "one", "--by", "day"), ("why", "one"),
           ("export", "one")]  # fmt: skip


@pytest.mark.parametrize("rights", [(0o444, 0o777), (0o444, 0o555)])
def test_what_may_only_be_read_is_read(warmline: Run, kept: Path, rights: tuple[int, int]) -> None:
    store = ("--store", f"sqlite:///{kept}")
    expected = [warmline(*command, *store) for command in READING]
    kept.chmod(rights[0])
    kept.parent.chmod(rights[1])
    assert [as_nobody(warmline, *command, *store) for command in READING] == expected
    assert all(ran.code == 0 for ran in expected)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    refused = as_nobody(warmline, "fork", "one", *store)
    assert refused.code == 2
    assert "cannot be written; change their rights" in refused.err


@pytest.mark.parametrize("rights", [(0, 0o777), (0o666, 0)])
def test_what_may_not_be_read_is_one_clear_line(warmline: Run, kept: Path, rights: tuple[int, int]) -> None:
    kept.chmod(rights[0])
    kept.parent.chmod(rights[1])
    for command in (*READING, ("chat",), ("db", "upgrade")):
        ran = as_nobody(warmline, *command, "--store", f"sqlite:///{kept}")
        assert ran.code == 2
        assert ran.err.startswith(f"ConfigurationError: {kept} cannot be ")
        assert "check the path" in ran.err
        assert ran.err.count("\n") == 1


def test_a_damaged_database_is_not_upgraded(warmline: Run, stored: str, tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 5 * 4096] = b"\xff" * 2 * 4096
    path.write_bytes(content)
    ran = warmline("db", "upgrade")
    assert ran.code == 2
    assert ran.err.startswith(f"ConfigurationError: {path} is damaged ")
    assert path.read_bytes() == content
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


# -- files that commands write --


@pytest.mark.parametrize("name", ["sessions.db", "sessions.db-wal", "link.json"])
def test_an_export_never_replaces_the_store(warmline: Run, stored: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "link.json").symlink_to("sessions.db")
    before = (tmp_path / "sessions.db").read_bytes()
    for force in ([], ["--force"]):
        ran = warmline("export", "one", "-o", name, *force)
        assert ran.code == 2
        assert f"ConfigurationError: {name} belongs to the store itself" in ran.err
    assert (tmp_path / "sessions.db").read_bytes() == before
    assert not (tmp_path / "sessions.db-wal").exists()


def test_an_export_replaces_what_exists_only_by_force(warmline: Run, stored: str, tmp_path: Path) -> None:
    notes = tmp_path / "notes.json"
    notes.write_text("dear to somebody")
    refused = warmline("export", "one", "-o", "notes.json")
    assert refused.code == 2
    assert refused.err.startswith("ConfigurationError: notes.json exists: ")
    assert notes.read_text() == "dear to somebody"
    assert warmline("export", "one", "-o", "notes.json", "--force").code == 0
    assert json.loads(notes.read_text()) == json.loads(warmline("export", "one").out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.json", "sessions.db"]


def test_sessions_are_deleted_for_good_after_a_yes(warmline: Run, stored: str) -> None:
    unasked = warmline("delete", "one")
    assert (unasked.code, "pass --yes" in unasked.err) == (2, True)
    assert warmline("delete", "one", "absent", "--yes").code == 3
    assert warmline("delete", "one", "--owner", "bob", "--yes").code == 3
    assert len(json.loads(warmline("list", "--json").out)) == 2, "all are there, or none goes"
    ran = warmline("delete", "on", "two", "--yes")
    assert ran.code == 0, ran.err
    assert "A [bold] trip" in ran.out
    assert ran.out.endswith("Deleted: 2.\n")
    assert json.loads(warmline("list", "--json").out) == []
