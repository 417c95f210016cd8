"""Edit, ask again, branch: whoever does it twice, at once, or after a crash in between loses no words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sessions import Session, SessionsError
from sessions.web import Agent
from tests.sessions.world import answers, call
from tests.turns.acts import Held
from tests.web.world import MODEL, Place, service


async def _edit(place: Place, id: str, entry: str, text: str, key: str, status: int = 202) -> Any:
    body = {"id": key, "content": [{"type": "text", "text": text}], "edit": entry}
    return await place.post(f"/api/sessions/{id}/turns", body, status)


async def _again(place: Place, id: str, turn: str | None = None, status: int = 202) -> Any:
    return await place.post(f"/api/sessions/{id}/regenerate", {} if turn is None else {"turn": turn}, status)


def _echo(request: Any) -> str:
    return f"to {request.text}"


def _numbered() -> Any:
    numbers = iter(range(1, 1000))
    return lambda request: f"answer {next(numbers)}"


async def _entry(place: Place, id: str, number: int) -> str:
    return str((await place.show(id))["entries"][number]["id"])


async def _variants(place: Place, id: str) -> list[list[str]]:
    """The words of its other variants, whichever way they are reached."""
    return sorted([await place.words(branch["session"]) for branch in (await place.show(id))["branches"]])


async def test_edited_words_leave_the_old_ones_in_a_branch(either_store: str) -> None:
    async with service(either_store, _echo) as place:
        id = await place.create()
        await place.say(id, "one")
        await place.say(id, "two")
        entries = (await place.show(id))["entries"]
        await place.events(await _edit(place, id, entries[2]["id"], "deux", "m"))
        assert await place.words(id) == ["one", "to one", "deux", "to deux"]
        (branch,) = (await place.show(id))["branches"]
        assert (branch["entry"], branch["next"], branch["is_parent"]) == (entries[1]["id"], entries[2]["id"], False)
        assert branch["of"] == await _entry(place, id, 2)
        assert await place.words(branch["session"]) == ["one", "to one", "two", "to two"]
        # Seen from the branch, which is a conversation like any other.
        (back,) = (await place.show(branch["session"]))["branches"]
        assert (back["session"], back["is_parent"], back["next"]) == (id, True, branch["of"])
        await place.say(branch["session"], "three")
        assert len((await place.get("/api/sessions"))["sessions"]) == 1
        # The same message again is the same turn, and moves nothing.
        again = await _edit(place, id, entries[2]["id"], "deux", "m")
        assert again["turn"] == (await place.show(id))["turns"][-1]["id"]
        await _edit(place, id, entries[2]["id"], "autre", "m", 422)
        await _edit(place, id, entries[2]["id"], "autre", "n", 409)
        await _edit(place, id, entries[1]["id"], "an answer", "o", 409)
        assert await place.words(id) == ["one", "to one", "deux", "to deux"]


async def test_the_first_words_are_edited_with_their_context(tmp_path: Path) -> None:
    agent = Agent("reader", model=MODEL, max_tokens=500, context="A document.")
    async with service(tmp_path, _numbered(), agents=agent) as place:
        id = await place.create("reader")
        await place.say(id, "one")
        first = await _entry(place, id, 0)
        await place.events(await _edit(place, id, first, "uno", "m"))
        assert await place.words(id) == ["A document.", "uno", "answer 2"]
        await place.events(await _again(place, id))
        assert await place.words(id) == ["A document.", "uno", "answer 3"]
        assert await _variants(place, id) == [
            ["A document.", "one", "answer 1"], ["A document.", "uno", "answer 2"],
        ]  # fmt: skip
        first_ones = {branch["entry"]: branch["next"] for branch in (await place.show(id))["branches"]}
        assert first_ones[None] == first


async def test_a_branch_can_be_edited_and_asked_again_too(tmp_path: Path) -> None:
    async with service(tmp_path, _numbered()) as place:
        id = await place.create()
        await place.say(id, "one")
        fork = (await place.post(f"/api/sessions/{id}/fork", {}, 201))["id"]
        await place.events(await _again(place, fork))
        assert await place.words(fork) == ["one", "answer 2"]
        await place.events(await _edit(place, fork, await _entry(place, fork, 0), "uno", "m"))
        assert await place.words(fork) == ["uno", "answer 3"]
        assert await place.words(id) == ["one", "answer 1"]
        assert await _variants(place, fork) == [["one", "answer 1"], ["one", "answer 2"]]
        # Its parent goes: it stays.
        assert (await place.http.delete(f"/api/sessions/{id}")).status_code == 204
        assert await place.words(fork) == ["uno", "answer 3"]
        assert len((await place.show(fork))["branches"]) >= 1
        await place.say(fork, "two")


async def test_rewind_and_fork_at_an_entry(tmp_path: Path) -> None:
    async with service(tmp_path, _echo) as place:
        id = await place.create()
        await place.say(id, "one")
        await place.say(id, "two")
        second = await _entry(place, id, 1)
        fork = await place.post(f"/api/sessions/{id}/fork", {"at": second}, 201)
        assert await place.words(fork["id"]) == ["one", "to one"]
        await place.post(f"/api/sessions/{id}/rewind", {"to": second})
        assert await place.words(id) == ["one", "to one"]
        await place.post(f"/api/sessions/{id}/rewind", {"to": None})
        assert await place.words(id) == []
        await place.say(id, "three")
        assert await place.words(id) == ["three", "to three"]


async def test_another_answer_leaves_the_old_one_in_a_branch(either_store: str) -> None:
    async with service(either_store, _numbered()) as place:
        id = await place.create()
        turn = (await place.begin(id, "one"))["turn"]
        await place.events({"events": f"api/sessions/{id}/turns/newest/events"})
        first = await _again(place, id, turn)
        await place.events(first)
        assert await place.words(id) == ["one", "answer 2"]
        # Long after: the button of the same answer, from a tab that was not loaded again.
        assert (await _again(place, id, turn))["turn"] == first["turn"]
        await place.events(await _again(place, id, first["turn"]))
        assert await place.words(id) == ["one", "answer 3"]
        assert await _variants(place, id) == [["one", "answer 1"], ["one", "answer 2"]]
        await _again(place, id, "nothing", 409)


@pytest.mark.parametrize("named", [True, False])
async def test_a_double_click_is_one_new_answer(tmp_path: Path, named: bool) -> None:
    model = _numbered()
    async with service(tmp_path, model) as place:
        id = await place.create()
        turn = (await place.begin(id, "one"))["turn"]
        await place.events({"events": f"api/sessions/{id}/turns/newest/events"})
        clicks = await asyncio.gather(*(_again(place, id, turn if named else None) for _ in range(4)))
        assert len({click["turn"] for click in clicks}) == 1
        await place.events(clicks[0])
        assert await place.words(id) == ["one", "answer 2"]
        assert await _variants(place, id) == [["one", "answer 1"]]


async def test_edits_at_once_lose_nothing(either_store: str) -> None:
    async with service(either_store, _echo) as place:
        id = await place.create()
        await place.say(id, "one")
        entry = await _entry(place, id, 0)
        same = await asyncio.gather(*(_edit(place, id, entry, "uno", "m") for _ in range(4)))
        assert len({begun["turn"] for begun in same}) == 1
        await place.events(same[0])
        entry = await _entry(place, id, 0)
        body = [
            {"id": key, "content": [{"type": "text", "text": key}], "edit": entry} for key in ("zwei", "deux", "due")
        ]
        responses = await asyncio.gather(*(place.http.post(f"/api/sessions/{id}/turns", json=one) for one in body))
        begun = [response for response in responses if response.status_code == 202]
        assert len(begun) == 1
        assert all(response.status_code == 409 for response in responses if response not in begun)
        await place.events(begun[0].json())
        assert (await place.words(id))[0] in ("zwei", "deux", "due")
        assert await _variants(place, id) == [["one", "to one"], ["uno", "to uno"]]


async def test_an_answer_under_way_is_stopped_and_kept(either_store: str) -> None:
    model = Held(_echo)
    async with service(either_store, model) as place:
        id = await place.create()
        running = await place.begin(id, "one")
        await model.asked.wait()
        assert (await _again(place, id))["turn"] == running["turn"]  # the answer that is asked for is on its way
        edited = await _edit(place, id, await _entry(place, id, 0), "uno", "m")
        assert (await place.events(running))[-1]["state"] == "cancelled"
        again = await _again(place, id, edited["turn"])
        assert (await place.events(edited))[-1]["state"] == "cancelled"
        line = await place.begin(id, "in line")
        assert line["state"] == "queued"
        await _edit(place, id, await _entry(place, id, 0), "three", "n", 409)
        model.let_go()
        await place.events(again)
        await place.events(line)
        assert await place.words(id) == ["uno", "to uno", "in line", "to in line"]


async def test_calls_that_wait_are_left_behind(tmp_path: Path) -> None:
    script = answers([call("pay", amount=1)], "Done", [call("pay", amount=2)], "Over")
    async with service(tmp_path, script) as place:
        id = await place.create()
        await place.say(id, "one")
        assert (await place.show(id))["pending"]
        await place.say(id, "two")  # closes the call that waits
        assert await place.words(id) == ["one", "two", "Done"]
        await place.events(await _again(place, id))
        shown = await place.show(id)
        assert [entry["role"] for entry in shown["entries"]] == ["user", "assistant", "user", "assistant"]
        assert await place.words(id) == ["one", "two"]
        (pending,) = shown["pending"]
        assert pending["input"] == {"amount": 2}
        await place.events(await _edit(place, id, shown["entries"][0]["id"], "uno", "m"))
        assert await place.words(id) == ["uno", "Over"]
        assert (await place.show(id))["pending"] == []


@pytest.mark.parametrize("step", ["fork", "rewind", "begin"])
@pytest.mark.parametrize("how", ["edit", "again"])
async def test_the_same_request_goes_on_where_one_broke_off(
    tmp_path: Path, step: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies before this step, and another one is asked again."""

    async def die(*given: Any, **named: Any) -> None:
        raise SessionsError("the process has died")

    async with service(tmp_path, _numbered()) as place:
        id = await place.create()
        await place.say(id, "one")
        turn = (await place.begin(id, "two"))["turn"]
        await place.events({"events": f"api/sessions/{id}/turns/newest/events"})
        entry = await _entry(place, id, 2)

        async def ask(status: int) -> Any:
            if how == "edit":
                return await _edit(place, id, entry, "deux", "m", status)
            return await _again(place, id, turn, status)

        with monkeypatch.context() as patch:
            patch.setattr(Session, step, die)
            await ask(503)
        assert await _edit(place, id, "unknown", "x", "y", 409)
        old = ["one", "answer 1", "two", "answer 2"]
        assert old in [await place.words(id), *await _variants(place, id)]
        begun = await ask(202)
        await place.events(begun)
        new = ["one", "answer 1", "deux" if how == "edit" else "two", "answer 3"]
        assert await place.words(id) == new
        assert await _variants(place, id) == [old]
        assert (await ask(202))["turn"] == begun["turn"]
        await place.say(id, "three")
        assert (await place.words(id))[:4] == new


async def test_two_workers_change_the_same_words(either_store: str) -> None:
    async with service(either_store, _echo) as place, service(either_store, _echo) as other:
        id = await place.create()
        await place.say(id, "one")
        entry = await _entry(place, id, 0)
        body = {"id": "m", "content": [{"type": "text", "text": "uno"}], "edit": entry}
        for _ in range(2):
            responses = await asyncio.gather(
                *(worker.http.post(f"/api/sessions/{id}/turns", json=body) for worker in (place, other, place, other))
            )
            assert {response.status_code for response in responses} <= {202, 409}
            turns = {response.json()["turn"] for response in responses if response.status_code == 202}
            assert len(turns) == 1
        await place.events({"events": f"api/sessions/{id}/turns/newest/events"})
        assert await place.words(id) == await other.words(id) == ["uno", "to uno"]
        assert await _variants(place, id) == [["one", "to one"]]
