"""fork, rewind, verify and export as a script uses them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import anyio
import pytest

from sessions.testing import simulated_manager
from tests.cli.conftest import Run

Messages = list[dict[str, object]]


async def conversation(path: Path) -> None:
    async with simulated_manager(f"sqlite:///{path}") as manager:
        session = await manager.create(id="one", model="claude-sonnet-5-5", max_tokens=500, owner="ada")
        for words in ("My name is Ada.", "I like the sea. ü\u2028", "What is my name?"):
            await session.send(words)
        await manager.create(id="empty", model="claude-sonnet-5-5", max_tokens=500)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "sessions.db"
    anyio.run(conversation, path)
    return path


def entry_ids(warmline: Run, session: str = "one") -> list[str]:
    return [entry["id"] for entry in json.loads(warmline("show", session, "--json").out)["entries"]]


def test_branches_are_listed_when_asked_for_and_say_what_they_were_made_of(warmline: Run, stored: Path) -> None:
    made = json.loads(warmline("fork", "one", "--json").out)["id"]
    names = lambda *options: [one["id"] for one in json.loads(warmline("list", "--json", *options).out)]  # noqa: E731
    assert names() == ["empty", "one"]
    assert names("--branches") == [made, "empty", "one"]
    assert names("--parent", "on") == [made]
    assert warmline("list", "--parent", "empty").out == "No such sessions.\n"
    assert "ada, made of one" in warmline("list", "--branches").out
    assert "left out: --branches lists them" in warmline("list").out
    assert "left out" not in warmline("list", "--branches").out
    assert json.loads(warmline("show", made, "--json").out)["parent"] == "one"
    assert made in warmline("cost").out, "what branches cost is part of the bill"


def exported(warmline: Run, session: str = "one") -> Messages:
    found: Messages = json.loads(warmline("export", session).out)
    return found


def test_show_tells_the_ids_that_fork_takes(warmline: Run, stored: Path) -> None:
    shown = warmline("show", "one", "--ids").out
    assert all(one in shown for one in entry_ids(warmline))
    assert entry_ids(warmline)[0] not in warmline("show", "one").out


def test_a_fork_shares_the_history(warmline: Run, stored: Path) -> None:
    ran = warmline("fork", "one", "--json")
    assert ran.code == 0, ran.err
    made = json.loads(ran.out)
    assert entry_ids(warmline, made["id"]) == entry_ids(warmline)
    assert (made["forked_from"], made["head"]) == ("one", entry_ids(warmline)[-1])
    assert "A branch of 6 entries" in warmline("fork", "one").out


def test_a_fork_at_an_entry_ends_there(warmline: Run, stored: Path) -> None:
    ids = entry_ids(warmline)
    for name in (ids[1], ids[1][:12]):
        made = json.loads(warmline("fork", "one", "--at", name, "--json").out)
        assert entry_ids(warmline, made["id"]) == ids[:2]
    assert entry_ids(warmline) == ids


def test_a_rewind_loses_nothing(warmline: Run, stored: Path) -> None:
    ids = entry_ids(warmline)
    ran = warmline("rewind", "one", ids[1])
    assert ran.code == 0, ran.err
    assert "2 entries now" in ran.out
    assert f"warmline fork one --at {ids[-1]}" in ran.out
    assert entry_ids(warmline) == ids[:2]
    back = json.loads(warmline("fork", "one", "--at", ids[-1], "--json").out)
    assert entry_ids(warmline, back["id"]) == ids
    emptied = json.loads(warmline("rewind", "one", "start", "--json").out)
    assert emptied == {"id": "one", "head": None, "previous_head": ids[1]}
    assert entry_ids(warmline) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("fork", "nope"), 3),
        (("fork", "one", "--owner", "bob"), 3),
        (("fork", "one", "--at", "zzz"), 3),
        (("fork", "one", "--at", ""), 3),
        (("rewind", "one", "zzz"), 3),
        (("rewind", "one", ""), 3),
        (("rewind", "one"), 2),
        (("verify", "nope"), 3),
        (("verify", "one", "--owner", "bob"), 3),
        (("export", "nope"), 3),
        (("export", "one", "-o", "absent/folder.json"), 2),
        (("verify", "one", "--store", "sqlite:///absent.db"), 2),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    warmline: Run, stored: Path, arguments: tuple[str, ...], code: int
) -> None:
    before = entry_ids(warmline)
    ran = warmline(*arguments)
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    assert entry_ids(warmline) == before
    assert len(json.loads(warmline("list", "--branches", "--json").out)) == 2


@pytest.mark.parametrize("arguments", [("fork", "on", "--at", "zzz"), ("rewind", "on", "f" * 32)])
def test_a_wrong_entry_is_told_where_the_right_ones_stand(
    warmline: Run, stored: Path, arguments: tuple[str, ...]
) -> None:
    ran = warmline(*arguments)
    assert ran.err.startswith("EntryNotFound: there is no entry ")
    assert "`warmline show one --ids` lists them" in ran.err


def test_an_entry_that_several_begin_with_is_asked_for_again(warmline: Run, tmp_path: Path) -> None:
    async def long() -> list[str]:
        async with simulated_manager(f"sqlite:///{tmp_path / 'sessions.db'}") as manager:
            session = await manager.create(id="long", model="claude-sonnet-5-5", max_tokens=500)
            await session.append([{"role": role, "content": "x"} for role in ("user", "assistant") * 20])
            return [entry.id for entry in session.entries]

    digits = [id[0] for id in anyio.run(long)]
    twice = next(digit for digit in digits if digits.count(digit) > 1)  # 40 ids, 16 digits
    ran = warmline("rewind", "long", twice)
    assert ran.code == 2
    assert f"entries of this session begin with '{twice}': give more of the id" in ran.err


def test_verify_tells_that_all_is_as_it_was_written(warmline: Run, stored: Path) -> None:
    ran = warmline("verify", "one")
    assert (ran.code, ran.out) == (0, "6 entries, each as it was written.\n")
    assert json.loads(warmline("verify", "one", "--owner", "ada", "--json").out) == {
        "id": "one",
        "entries": 6,
        "damage": None,
    }
    assert warmline("verify", "empty").code == 0


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE entries SET content = replace(content, 'sea', 'fog') WHERE id = ?",
        "UPDATE entries SET content = 'no JSON' WHERE id = ?",
        "UPDATE entries SET role = 'system' WHERE id = ?",
        "UPDATE entries SET depth = depth + 100 WHERE id = ?",
    ],
)
def test_verify_names_the_first_damaged_entry(warmline: Run, stored: Path, damage: str) -> None:
    third = entry_ids(warmline)[2]
    raw = sqlite3.connect(stored)
    raw.execute(damage, [third])
    raw.commit()
    raw.close()
    ran = warmline("verify", "one")
    assert ran.code == 1
    assert ran.err.startswith("Damaged: ")
    as_json = warmline("verify", "one", "--json")
    assert as_json.code == 1
    named = json.loads(as_json.out)["damage"]
    if "depth" not in damage:  # out of its place, it is the entry that now stands there which is named
        assert named["entry"] == third
        assert third in ran.err
    assert named["sentence"] in ran.err


@pytest.mark.parametrize("number", [2, 5])
def test_verify_tells_of_an_entry_that_is_gone(warmline: Run, stored: Path, number: int) -> None:
    gone = entry_ids(warmline)[number]
    raw = sqlite3.connect(stored)
    raw.execute("DELETE FROM entries WHERE id = ?", [gone])
    raw.commit()
    raw.close()
    ran = warmline("verify", "one")
    assert ran.code == 1
    assert gone in ran.err


def test_an_export_is_what_append_takes_back(warmline: Run, stored: Path, tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    ran = warmline("export", "one", "-o", str(file))
    assert (ran.code, ran.out) == (0, f"6 messages in {file}.\n")
    messages: Messages = json.loads(file.read_text(encoding="utf-8"))
    assert messages == exported(warmline)

    async def append() -> None:
        async with simulated_manager(f"sqlite:///{stored}") as manager:
            copy = await manager.create(id="copy", model="claude-sonnet-5-5", max_tokens=500)
            await copy.append(messages)

    anyio.run(append)
    assert entry_ids(warmline, "copy") == entry_ids(warmline)
    assert exported(warmline, "copy") == messages
    assert exported(warmline, "empty") == []


def test_an_export_can_be_replayed(warmline: Run, stored: Path, tmp_path: Path) -> None:
    warmline("export", "one", "-o", str(tmp_path / "history.json"))
    ran = warmline("replay", str(tmp_path / "history.json"))
    assert ran.code == 0, ran.err
    assert " 0 refused." in ran.out
