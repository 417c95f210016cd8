"""Holders know the dead from the living; errors say what to do; the public names are exactly these."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import storage
from storage import Holder, LeaseTaken, StorageError, errors, holders, testing


def test_this_process_is_alive() -> None:
    me = Holder.current("a")
    assert me == Holder.current("a") != Holder.current("b")
    assert not me.is_gone(Holder.current("b"))


def test_an_ended_process_is_gone_before_and_after_it_is_reaped() -> None:
    me = Holder.current()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = replace(me, pid=child.pid, started=holders.started_at(child.pid))
    assert not holder.is_gone(me)
    child.kill()
    psutil.Process(child.pid).status()
    while not holder.is_gone(me):  # killed, and not reaped by us
        pass
    child.communicate()
    assert holder.is_gone(me)


def test_a_process_that_never_was_has_no_start() -> None:
    with pytest.raises(psutil.NoSuchProcess):
        holders.started_at(2**22 + 1)


def test_a_process_id_used_again_is_another_process() -> None:
    me = Holder.current()
    assert replace(me, started=me.started - 60).is_gone(me)
    assert not replace(me, started=me.started - 60, host="elsewhere").is_gone(me)


def test_what_another_clock_wrote_holds_only_while_its_process_is_there() -> None:
    """A reboot turns the clock back, and an earlier version wrote by the wall clock: both claim days or years."""
    me = Holder.current()
    other = replace(me, name="other")
    elsewhere, before, dead = replace(me, host="elsewhere"), replace(me, host="node/boot"), replace(me, pid=2**22 + 1)
    now, days, wall = 50.0, 500_000.0, 1_790_000_000.0
    assert [one.holds(now + 9, now, me) for one in (other, elsewhere, dead)] == [True, True, False]
    assert [one.holds(now, now, me) for one in (other, elsewhere, dead)] == [False] * 3
    assert [one.holds(days, now, me) for one in (other, before, dead)] == [True, False, False]
    assert [one.holds(wall, now, me) for one in (other, elsewhere, dead)] == [True, False, False]


def test_a_machine_without_proc_has_a_name_at_least(tmp_path: Path) -> None:
    assert holders.first_line(str(tmp_path / "none")) == ""
    assert holders.target(str(tmp_path / "none")) == ""


def test_errors_have_one_root_and_say_something() -> None:
    found = [error for _, error in inspect.getmembers(errors, inspect.isclass) if error.__module__ == errors.__name__]
    assert all(issubclass(error, StorageError) and error.__doc__ for error in found)
    assert {error.__name__ for error in found} <= set(storage.__all__)
    taken = LeaseTaken("s", Holder("node/boot/ns", 7, 1.0), 2.0)
    assert "process 7 on node" in str(taken)


def test_public_names() -> None:
    for module in (storage, testing):
        assert all(hasattr(module, name) for name in module.__all__)
    assert [*storage.__all__] == sorted(storage.__all__)


@pytest.mark.parametrize("name", ["sqlmodel", "sqlalchemy", "alembic", "psycopg"])
def test_importing_storage_is_light(name: str) -> None:
    code = f"import sys, storage, storage.threads; sys.exit({name!r} in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(storage.__file__).parents[1]).returncode == 0
    )
