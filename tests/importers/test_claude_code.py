"""Claude Code transcripts: recorded excerpts, and each rule of the format by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessions.core.usage import Usage
from sessions.errors import InvalidImport
from sessions.importers import RecordedConversation, read, read_claude_code
from tests.importers.lines import Transcript, call, text
from tests.importers.referee import DATA, refusal

EXCERPTS = ["interrupts_and_compaction", "parallel_tools", "skills_and_one_hour"]


@pytest.fixture
def transcript() -> Transcript:
    return Transcript()


def only(transcript: Transcript, folder: Path) -> RecordedConversation:
    """The one conversation the transcript holds, which the API takes."""
    (conversation,) = transcript.read(folder, strict=True).conversations
    assert refusal(conversation) is None
    return conversation


@pytest.mark.parametrize("name", EXCERPTS)
def test_recorded_excerpts_are_taken_by_the_api(name: str) -> None:
    imported = read(DATA / f"{name}.jsonl.gz", strict=True)
    assert not imported.problems
    assert [refusal(conversation) for conversation in imported.conversations] == [None] * len(imported.conversations)


def test_recorded_parallel_calls_are_one_step_with_results_in_call_order() -> None:
    (conversation,) = read(DATA / "parallel_tools.jsonl.gz").conversations
    first, last = conversation.steps
    assert [block["type"] for block in first.blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert [result["tool_use_id"] for result in first.results] == [block["id"] for block in first.calls]
    assert first.durations == pytest.approx((115.67, 81.142), abs=0.01)
    assert first.usage == Usage(input=10, cache_write_5m=42444, output=3)
    assert last.at == pytest.approx(first.at + 123.303, abs=0.01)
    assert last.usage == Usage(input=4718, cache_read=42444, cache_write_5m=5944, output=1341)


def test_recorded_compaction_begins_a_segment_and_interrupts_open_a_turn() -> None:
    before, after = read(DATA / "interrupts_and_compaction.jsonl.gz").conversations
    assert (before.segment, after.segment, after.id) == (1, 2, f"{before.session}#2")
    assert before.turns[1].content[0]["text"].startswith("[Request interrupted by user f")
    assert len(before.turns[1].content) == 2
    assert before.turns[-1].steps == ()
    assert after.turns[0].trigger == "compact"
    assert after.turns[0].at > before.turns[-1].at


def test_recorded_skill_text_goes_with_the_results_and_one_hour_writes_are_told_apart() -> None:
    (conversation,) = read(DATA / "skills_and_one_hour.jsonl.gz").conversations
    skill = conversation.steps[0]
    assert skill.extra[0]["text"].startswith("Base directory for this skill:")
    assert skill.usage == Usage(input=3, cache_read=52551, cache_write_1h=32, output=57)
    assert all(block["text"].strip() for step in conversation.steps for block in step.blocks if block["type"] == "text")


def test_one_message_over_several_lines_with_results_between_them(transcript: Transcript, tmp_path: Path) -> None:
    thinking = {"type": "thinking", "thinking": " a\n\n", "signature": "c2ln/+="}
    transcript.user("Go.")
    transcript.claude(thinking, id="m", usage={"input_tokens": 1})
    transcript.claude(call("a"), id="m", usage={"input_tokens": 1, "output_tokens": 9})
    transcript.result("a")
    transcript.claude(call("b"), id="m", usage={"input_tokens": 1, "output_tokens": 20})
    transcript.result("b")
    transcript.claude(text("Done."))
    conversation = only(transcript, tmp_path)
    first, last = conversation.steps
    assert first.blocks == (thinking, call("a"), call("b"))
    assert first.usage == Usage(input=1, output=20, counters=False)
    assert (first.seconds, first.durations) == (4.0, (1.0, 1.0))
    assert last.at == first.at + 5
    assert [message["role"] for message in conversation.messages] == ["user", "assistant", "user", "assistant"]


def test_the_last_line_says_which_branch_was_kept(transcript: Transcript, tmp_path: Path) -> None:
    question = transcript.user("Why?")
    transcript.claude(text("No idea."))
    transcript.user("Try harder.")
    transcript.claude(text("Forty-two."))
    transcript.claude(text("Because."), parentUuid=question)
    conversation = only(transcript, tmp_path)
    assert conversation.messages == [
        {"role": "user", "content": [text("Why?")]},
        {"role": "assistant", "content": [text("Because.")]},
    ]
    assert transcript.read(tmp_path).notes == {"lines of other branches left out": 3}


def test_side_chains_become_conversations_of_their_own(transcript: Transcript, tmp_path: Path) -> None:
    main = transcript.user("Ask the others.")
    for agent in ("one", "two"):
        transcript.user(f"You are {agent}.", isSidechain=True, agentId=agent, parentUuid=None)
    root = transcript.user("You are three.", isSidechain=True, parentUuid=None)
    transcript.claude(text("I am three."), isSidechain=True, parentUuid=root)
    transcript.claude(text("They are well."), parentUuid=main)
    found = transcript.read(tmp_path, strict=True).conversations
    assert [one.id for one in found] == ["s", "s/agent-one", "s/agent-two", f"s/agent-{root}"]
    assert [len(one.messages) for one in found] == [2, 1, 1, 2]


def test_a_compaction_boundary_leads_back_by_its_logical_parent(transcript: Transcript, tmp_path: Path) -> None:
    transcript.user("Long story.")
    last = transcript.claude(text("The end."))
    transcript.line("system", subtype="compact_boundary", parentUuid=None, logicalParentUuid=last)
    transcript.user("Summary: a story.", isCompactSummary=True)
    transcript.claude(text("And now?"))
    one, two = transcript.read(tmp_path, strict=True).conversations
    assert one.messages[-1]["content"] == [text("The end.")]
    assert (two.turns[0].trigger, len(two.messages)) == ("compact", 2)


@pytest.mark.parametrize("boundary", ["u1", None])
def test_old_summaries_without_a_boundary_split_too(
    transcript: Transcript, tmp_path: Path, boundary: str | None
) -> None:
    transcript.user("Long story.")
    transcript.claude(text("The end."))
    transcript.user("Summary: a story.", isCompactSummary=True, parentUuid=boundary)
    transcript.claude(text("And now?"))
    assert [len(one.messages) for one in transcript.read(tmp_path, strict=True).conversations] == [2, 2]


def test_a_missing_result_is_supplied_and_a_late_one_still_found(transcript: Transcript, tmp_path: Path) -> None:
    transcript.user("Go.")
    transcript.claude(call("lost"), call("late"), id="m")
    transcript.user([text("[Request interrupted by user for tool use]")])
    transcript.result("late", "here", parentUuid="u1")
    transcript.user("Again.", parentUuid="u2")
    transcript.claude(text("Fine."))
    conversation = only(transcript, tmp_path)
    lost, late = conversation.steps[0].results
    assert (lost["is_error"], late["content"]) == (True, "here")
    assert conversation.turns[1].content == (text("[Request interrupted by user for tool use]"), text("Again."))


def test_what_the_program_wrote_itself_is_not_a_reply(transcript: Transcript, tmp_path: Path) -> None:
    transcript.user("<local-command-stdout>Bye!</local-command-stdout>")
    transcript.claude(text("No response requested."))
    transcript.lines[-1]["message"]["model"] = "<synthetic>"
    transcript.claude(text("API Error: 529"), isApiErrorMessage=True)
    transcript.user("Hello again.")
    transcript.claude(text("Hello."))
    conversation = only(transcript, tmp_path)
    assert [len(message["content"]) for message in conversation.messages] == [2, 1]
    assert conversation.turns[0].trigger == "human"


def test_words_typed_while_a_tool_runs_go_with_its_result(transcript: Transcript, tmp_path: Path) -> None:
    transcript.user("Go.")
    transcript.claude(call("a"))
    transcript.result("a")
    transcript.line("attachment", attachment={"type": "queued_command", "prompt": "And quickly."}, uuid=None)
    transcript.line("attachment", attachment={"type": "edited_text_file", "snippet": "x"}, parentUuid="u2")
    transcript.claude(text("Yes."))
    conversation = only(transcript, tmp_path)
    assert conversation.steps[0].extra == (text("And quickly."),)
    assert len(conversation.turns) == 1


def test_what_the_api_would_refuse_goes(transcript: Transcript, tmp_path: Path) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    transcript.user([text("  "), {**text("Look."), "cache_control": {"type": "ephemeral"}, "citations": []}, image])
    transcript.claude(text("\n\n"), {"type": "thinking", "thinking": "cut", "signature": ""}, text("I see."))
    transcript.user("More.")
    transcript.claude({"type": "thinking", "thinking": "nothing else", "signature": "s"})
    transcript.user("Well?")
    transcript.claude(call("not/an id", "odd name"), {"type": "server_tool_use", "id": "s", "name": "x", "input": {}})
    transcript.result("not/an id", [text(""), text("ok")])
    transcript.claude(text("Right."), {"type": "thinking", "thinking": "at the end", "signature": "s"})
    conversation = only(transcript, tmp_path)
    assert conversation.turns[0].content == (text("Look."), image)
    assert conversation.steps[0].blocks == (text("I see."),)
    assert conversation.turns[1].content == (text("More."), text("Well?"))
    assert conversation.steps[1].blocks == (call("not_an_id", "odd_name"),)
    assert conversation.steps[1].results[0]["content"] == [text("ok")]
    assert conversation.steps[2].blocks == (text("Right."),)


def test_a_doubled_line_counts_once_and_a_repeated_id_gets_its_own(transcript: Transcript, tmp_path: Path) -> None:
    transcript.user("Go.")
    transcript.claude(call("a", command="x"), call("a", command="y"), id="m")
    transcript.lines.append(dict(transcript.lines[-1]))
    transcript.claude(call("a", command="x"), id="m")
    transcript.result("a", "first")
    transcript.claude(text("Done."))
    conversation = only(transcript, tmp_path)
    assert [block["id"] for block in conversation.steps[0].calls] == ["a", "a_1"]
    assert conversation.steps[0].results[0]["content"] == "first"
    assert transcript.read(tmp_path).notes["doubled lines left out"] == 1


def test_a_lost_line_does_not_cut_the_history_off(transcript: Transcript, tmp_path: Path) -> None:
    transcript.user("One.")
    transcript.claude(text("Two."))
    transcript.user("Three.", parentUuid="gone")
    transcript.claude(text("Four."))
    assert len(only(transcript, tmp_path).messages) == 4


def test_lines_without_ids_and_times_follow_each_other(transcript: Transcript, tmp_path: Path) -> None:
    transcript.user("One.")
    transcript.claude(text("Two."))
    for line in transcript.lines:
        for name in ("uuid", "parentUuid", "timestamp", "sessionId"):
            del line[name]
    conversation = only(transcript, tmp_path)
    assert (conversation.id, len(conversation.messages)) == ("transcript", 2)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({"message": None}, "a user line without a message"),
        ({"message": {"content": 5}}, "neither text nor a list"),
        ({"message": {"content": [5]}}, "not an object with a type"),
        ({"message": {"content": [{"type": "text"}]}}, "a text block whose text is no text"),
        ({"message": {"content": [{"type": "tool_use", "id": "a", "name": "b", "input": []}]}}, "input is no object"),
        ({"message": {"content": [{"type": "image", "source": 1}]}}, "type image without a source"),
        ({"message": {"content": [{"type": "image", "source": {"type": "url"}}]}}, "broken source"),
        (
            {"message": {"content": [{"type": "image", "source": {"type": "base64", "media_type": "x", "data": "?"}}]}},
            "not base64",
        ),
        ({"message": {"content": [{"type": "tool_result", "tool_use_id": "a", "content": 1}]}}, "neither text nor"),
        ({"timestamp": "yesterday"}, "no ISO 8601 time"),
        ({"timestamp": 5}, "no ISO 8601 time"),
        ({"type": None}, "not an object with a type"),
    ],
)
def test_a_damaged_line_is_a_problem_with_its_number(
    transcript: Transcript, tmp_path: Path, damage: dict[str, object], why: str
) -> None:
    transcript.user("One.")
    transcript.claude(text("Two."))
    transcript.user("Three.", **damage)
    transcript.claude(text("Four."))
    (problem,) = transcript.read(tmp_path).problems
    assert problem.line == 3
    assert why in str(problem)
    with pytest.raises(InvalidImport, match=r"transcript\.jsonl, line 3: "):
        transcript.read(tmp_path, strict=True)


def test_a_transcript_that_says_nothing_is_refused(transcript: Transcript, tmp_path: Path) -> None:
    transcript.line("summary", summary="nothing")
    with pytest.raises(InvalidImport, match="holds no conversation"):
        transcript.read(tmp_path)
    with pytest.raises(InvalidImport, match="holds no conversation"):
        read_claude_code(tmp_path / "transcript.jsonl")
