"""`warmline import` and `compact`: recorded conversations become sessions; a summary takes the place of one."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import Session, SessionManager
from sessions.cli.importing import Wishes, stored
from sessions.importers import read
from tests.cli.conftest import Run
from tests.crash.stepping import at_step

DATA = Path(__file__).parent.parent / "data"
TRACES, CODE, MESSAGES = (DATA / name for name in ("traces.jsonl.gz", "parallel_tools.jsonl.gz", "conversation.json"))


def asked(id: str) -> list[dict[str, Any]]:
    """A conversation with one tool call of that id."""
    return [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": "clock", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "Noon."}]},
        {"role": "assistant", "content": "Noon."},
    ]


def written(path: Path, *conversations: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in conversations))
    return path


def types(messages: list[dict[str, Any]]) -> set[str]:
    return {block["type"] for message in messages for block in message["content"]}


@pytest.mark.parametrize("file", [TRACES, CODE, MESSAGES], ids=["traces", "Claude Code", "messages"])
def test_each_conversation_is_a_session_with_its_messages(warmline: Run, file: Path) -> None:
    ran = warmline("import", str(file), "--json", "--owner", "ada")
    assert ran.code == 0, ran.err
    made, recorded = json.loads(ran.out), read(file).conversations
    assert [one["conversation"] for one in made] == [one.id for one in recorded]
    for one, conversation in zip(made, recorded, strict=True):
        kept = json.loads(warmline("export", one["id"], "--owner", "ada").out)
        assert kept == (conversation.without_thinking() if conversation.filler else conversation).messages
        assert len(kept) == one["messages"]
    models = {step.model or one.model for one in recorded for step in one.steps}
    assert {one["model"] for one in made} <= models
    assert {one["filler"] for one in made} == {file == TRACES}
    filler = f"{TRACES}: only sizes were recorded, so every text of its {len(recorded)} conversations is filler\n"
    assert ran.err == (filler if file == TRACES else "")
    titles = [one["title"] for one in json.loads(warmline("list", "--owner", "ada", "--json").out)]
    assert sorted(titles) == sorted(one.id for one in recorded)


def test_a_conversation_goes_on_where_it_was_left(warmline: Run) -> None:
    ran = warmline("import", str(MESSAGES), "--model", "claude-sonnet-5-5", "--title", "Shelves", "--max-tokens", "500")
    assert ran.code == 0, ran.err
    found = re.match(r"(\w+)  6 messages, claude-sonnet-5-5  conversation\n$", ran.out)
    assert found
    assert warmline("chat", found[1], typed="And Emma?\n").code == 0
    shown = json.loads(warmline("show", found[1], "--json").out)
    assert (len(shown["entries"]), shown["title"], shown["settings"]["max_tokens"]) == (8, "Shelves", 500)
    assert [tool["name"] for tool in shown["settings"]["tools"]] == ["look_up"]


@pytest.mark.filterwarnings("ignore:.* is deprecated")  # newer SDKs say so of older models
def test_thinking_is_kept_as_it_was_signed_or_left_out(warmline: Run) -> None:
    for option, kept in (("--thinking", True), ("--no-thinking", False)):
        [made] = json.loads(warmline("import", str(CODE), option, "--json").out)
        assert ("thinking" in types(json.loads(warmline("export", made["id"]).out))) is kept
    assert warmline("chat", made["id"], typed="Go on.\n").code == 0


def test_what_cannot_be_taken_leaves_no_session(warmline: Run, tmp_path: Path) -> None:
    twice = asked("a") + asked("a")
    file = written(tmp_path / "some.jsonl", asked("a"), twice, asked("b"))
    ran = warmline("import", str(tmp_path / "absent"), str(file), str(DATA / "LICENSE"))
    assert ran.code == 2
    assert len(ran.out.splitlines()) == len(json.loads(warmline("list", "--json").out)) == 2
    absent, license, refused = ran.err.splitlines()
    assert absent.startswith(f"InvalidImport: {tmp_path / 'absent'}: cannot be read")
    assert re.match(rf"InvalidHistory: {file}, conversation \S+: messages\[5\]: tool_use id a stands in", refused)
    assert license.startswith(f"InvalidImport: {DATA / 'LICENSE'}: is not a transcript.")


def test_settings_that_every_request_would_be_refused_for_are_told(warmline: Run) -> None:
    ran = warmline("import", str(MESSAGES), "--max-tokens", "9999999", "--json")
    assert (ran.code, ran.out) == (2, "[]\n")
    assert ran.err.startswith(f"ConfigurationError: {MESSAGES}, conversation conversation: max_tokens 9999999 is more")


def test_a_model_that_nobody_knows_is_not_asked(warmline: Run, tmp_path: Path) -> None:
    [made] = json.loads(warmline("import", str(written(tmp_path / "one.jsonl", asked("a"))), "--json").out)
    assert made["model"] == "claude-sonnet-5-5"


def test_a_line_that_cannot_be_read_is_told_or_refused(warmline: Run, tmp_path: Path) -> None:
    file = written(tmp_path / "one.jsonl", asked("a"))
    file.write_text(file.read_text() + "{\n")
    ran = warmline("import", str(file))
    assert ran.code == 0, ran.err
    assert ran.err.endswith(" (skipped)\n")
    ran = warmline("import", str(file), "--strict")
    assert (ran.code, ran.out) == (2, "")
    ran = warmline("import", str(TRACES), "--max-mib", "1", "--strict")
    assert ran.code == 0, ran.err


async def _cancelled_at(step: int) -> bool:
    wishes = Wishes(model=None, title=None, owner=None, max_tokens=500, thinking=True)
    async with SessionManager("sqlite://") as manager:
        work = asyncio.create_task(at_step(stored(manager, read(MESSAGES).conversations[0], wishes), step).run())
        await asyncio.wait([work])
        assert [one.title for one in await manager.list()] == ([] if work.cancelled() else ["conversation"])
        return work.cancelled()


async def test_ctrl_c_leaves_a_whole_session_or_none() -> None:
    step = 1
    while await _cancelled_at(step):
        step += 1
    assert step > 5


async def opened(name: str) -> Session:
    async with SessionManager("sqlite:///sessions.db") as manager:
        return await manager.open(name)


def test_a_summary_takes_the_place_of_what_was_said(warmline: Run) -> None:
    [made] = json.loads(warmline("import", str(MESSAGES), "--json").out)
    ran = warmline("compact", made["id"][:12])
    assert ran.code == 0, ran.err
    assert "No ANTHROPIC_API_KEY is set: a simulated Claude answers." in ran.out
    assert "  summary User: Do you have Emma and Persuasion?\n" in ran.out
    [call] = json.loads(warmline("show", made["id"], "--json").out)["calls"]
    assert f"uncached {call['usage']['input']:,}" in ran.out
    assert f"{call['usage']['output']:,} tokens written, ${float(call['cost']):.5f}" in ran.out
    old = re.search(r"What was: (warmline fork \w+ --at \w+)", ran.out)
    assert old
    assert "A branch of 6 entries" in warmline(*old[1].split()[1:]).out
    assert len(anyio.run(opened, made["id"]).entries) == 1


def test_what_cannot_be_summarized_is_one_line(warmline: Run) -> None:
    [made] = json.loads(warmline("import", str(MESSAGES), "--owner", "ada", "--json").out)
    assert warmline("compact", made["id"]).code == 0
    again = warmline("compact", made["id"])
    assert (again.code, len(again.err.splitlines())) == (2, 1)
    assert "there is nothing to summarize yet" in again.err
    other = warmline("compact", made["id"], "--owner", "bob")
    assert (other.code, len(other.err.splitlines())) == (3, 1)
    absent = warmline("compact", "one", "--store", "sqlite:///absent.db")
    assert (absent.code, len(absent.err.splitlines())) == (2, 1)
    assert not Path("absent.db").exists()
