"""What a session sends where its thinking may belong to another prefix, where it was compacted, or was instructed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sessions.core.cache import Chain
from sessions.core.incoming import Incoming
from sessions.core.profiles import Profile, profile_for
from sessions.core.prompt import BINDING_BETA, COMPACTION_BETA, Prompt, as_user_block, drops_blocks, request_of
from sessions.core.settings import Settings, make_settings
from tests.core.strategies import assistant, redacted, text, thinking, user
from tests.core.world import MODEL, entries_of

BINDS = replace(profile_for(MODEL), binds_thinking=True, drops_bound_thinking=True, keeps_thinking=True)
CANNOT_ASK = replace(BINDS, drops_bound_thinking=False)
FREE = replace(BINDS, binds_thinking=False, drops_bound_thinking=False)
ADAPTIVE = {"type": "adaptive"}
DISABLED = {"type": "disabled"}
TALK: list[dict[str, Any]] = [
    user(text("one")),
    assistant(thinking("a"), text("first")),
    user(text("two")),
    assistant(redacted(), text("second")),
    user(text("three")),
]


def made(**fields: Any) -> Settings:
    extra = {name: fields.pop(name) for name in ("unbound", "foreign", "instructions") if name in fields}
    return replace(make_settings(model=MODEL, max_tokens=100, **fields), **extra)


def prompt(settings: Settings, profile: Profile, messages: list[dict[str, Any]] = TALK) -> Prompt:
    found = Prompt(settings, profile)
    found.extend(entries_of(messages))
    return found


def kinds(messages: list[dict[str, Any]]) -> list[list[str]]:
    return [[block["type"] for block in message["content"]] for message in messages]


def test_settings_come_back_as_they_were_stored() -> None:
    settings = made(system="s", unbound=4, foreign=True, instructions=("be brief", "in French ü"))
    assert Settings.from_json(settings.to_json()) == settings


def test_settings_of_an_older_version_are_bound_and_without_instructions() -> None:
    found = Settings.from_json('{"model":"m","max_tokens":1,"of_a_newer_version":2}')
    assert (found.unbound, found.foreign, found.instructions) == (0, False, ())


def test_a_request_says_nothing_of_binding_where_nothing_was_changed() -> None:
    assert request_of(made(thinking=ADAPTIVE), BINDS) == (made(thinking=ADAPTIVE).request(), 0)


@pytest.mark.parametrize("facts", [{"unbound": 2}, {"foreign": True}, {"unbound": 2, "foreign": True}])
@pytest.mark.parametrize("given", [ADAPTIVE, {"type": "enabled", "budget_tokens": 2000}, None])
def test_a_request_asks_the_api_to_drop_what_is_bound_to_another_prefix(
    facts: dict[str, Any], given: dict[str, Any] | None
) -> None:
    body, dropped = request_of(made(thinking=given, params={"betas": ["x"]}, **facts), BINDS)
    wanted = given or {"type": BINDS.thinking_default}
    assert body["thinking"] == {**wanted, "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    assert body["betas"] == ["x", BINDING_BETA]
    assert dropped == facts.get("unbound", 0)


@pytest.mark.parametrize(("given", "profile"), [(DISABLED, BINDS), (ADAPTIVE, CANNOT_ASK), (ADAPTIVE, FREE)])
def test_nothing_is_asked_where_it_cannot_be(given: dict[str, Any], profile: Profile) -> None:
    settings = made(thinking=given, unbound=2)
    assert not drops_blocks(settings, profile)
    assert request_of(settings, profile) == (settings.request(), 0)


def test_settings_are_not_changed_by_what_a_request_adds() -> None:
    settings = made(thinking=ADAPTIVE, params={"betas": ["x"]}, unbound=1)
    before = settings.to_json()
    request_of(settings, BINDS, compacted=True)
    assert settings.to_json() == before


@pytest.mark.parametrize(
    ("betas", "sent"),
    [(None, [COMPACTION_BETA]), (["x"], ["x", COMPACTION_BETA]), ([COMPACTION_BETA], [COMPACTION_BETA])],
)
def test_a_compacted_history_carries_its_beta_once(betas: list[str] | None, sent: list[str]) -> None:
    body, _ = request_of(made(params={"betas": betas} if betas else None), BINDS, compacted=True)
    assert body["betas"] == sent


@pytest.mark.parametrize(
    ("facts", "profile", "stripped"),
    [
        ({}, CANNOT_ASK, 0),
        ({"unbound": 2}, CANNOT_ASK, 2),
        ({"foreign": True}, CANNOT_ASK, 5),
        ({"unbound": 2}, BINDS, 0),
        ({"foreign": True}, BINDS, 0),
        ({"unbound": 2, "foreign": True}, FREE, 0),
    ],
)
def test_thinking_is_left_out_where_the_api_cannot_be_asked(
    facts: dict[str, Any], profile: Profile, stripped: int
) -> None:
    found = prompt(made(thinking=ADAPTIVE, **facts), profile)
    wanted = kinds(TALK)
    for message in wanted[:stripped]:
        message[:] = [kind for kind in message if "thinking" not in kind]
    assert kinds(found.messages) == wanted
    assert kinds(TALK)[1] == ["thinking", "text"]


def grown(unbound: int, *parts: list[dict[str, Any]]) -> Chain:
    found = Chain({"model": MODEL, "max_tokens": 100}, BINDS, unbound=unbound)
    for part in parts:
        found.extend(part)
    return found


def test_thinking_that_the_api_drops_is_no_part_of_the_cached_prefix() -> None:
    without = [{**one, "content": [b for b in one["content"] if "thinking" not in b["type"]]} for one in TALK[:2]]
    dropped, bare = grown(2, TALK), grown(0, [*without, *TALK[2:]])
    assert [point.digest for point in dropped.points] == [point.digest for point in bare.points]
    assert [point.where.block for point in dropped.points if point.where.message == 1] == [1]
    assert [point.digest for point in grown(0, TALK).points] != [point.digest for point in bare.points]


def test_a_chain_with_dropped_thinking_grows_like_any_other() -> None:
    whole = grown(4, TALK)
    assert grown(4, TALK[:2], TALK[2:]).points == whole.points
    assert grown(4, *([one] for one in TALK)).points == whole.points


@pytest.mark.parametrize("takes", [True, False])
def test_an_instruction_goes_out_in_the_form_that_the_model_takes(takes: bool) -> None:
    instruction = {"role": "system", "content": [text("Be brief.")]}
    found = prompt(made(), replace(BINDS, system_messages=takes), [user(text("Hello")), instruction])
    wanted = instruction if takes else {"role": "user", "content": [as_user_block(text("Be brief."))]}
    assert found.messages[-1] == wanted
    assert as_user_block(text("Be brief."))["text"] == "<system-instruction>\nBe brief.\n</system-instruction>"


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({}, 0),
        ({"input_tokens": 3, "cache_read_input_tokens": 20}, 23),
        ({"input_tokens": 3, "iterations": []}, 3),
        ({"input_tokens": 3, "iterations": None}, 3),
        (
            {"input_tokens": 9, "iterations": [{"input_tokens": 5}, {"input_tokens": 3, "cache_read_input_tokens": 4}]},
            7,
        ),
    ],
)
def test_a_prompt_is_as_long_as_that_of_the_last_iteration(usage: dict[str, Any], tokens: int) -> None:
    incoming = Incoming()
    incoming.merge_usage(usage)
    assert incoming.prompt_tokens == tokens
