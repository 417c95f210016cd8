"""What a caller of `sessions` meets when the database is away, full, read-only, or of another version."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from sqlalchemy import make_url

from sessions import ConfigurationError, ModelError, SchemaOutOfDate, SessionsError
from sessions.cli import main
from sessions.testing import simulated_manager
from storage import StoreUnavailable, open_store
from tests.servers import make_database, own_server
from tests.sessions.world import MODEL, create, words

resource = pytest.importorskip("resource", reason="there are no limits on files here")
psycopg = pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the extra postgres")
from storage.postgresql import dialect  # noqa: E402  # needs the driver
from tests.storage.relay import Relay  # noqa: E402  # needs the driver


@pytest.fixture
def relay(empty_store: str) -> Iterator[Relay]:
    with Relay(empty_store) as relay:
        yield relay


async def test_a_server_that_is_down_at_the_start(relay: Relay) -> None:
    relay.stop()
    with pytest.raises(ConfigurationError, match="check the URL and that the server runs"):
        async with simulated_manager(relay.url):
            raise AssertionError("it opened")
    relay.start()


async def test_a_server_that_restarts_in_the_middle_of_a_turn_is_not_noticed(relay: Relay) -> None:
    """While the model answers, every connection is cut and nobody gets a new one for a while."""

    def script(_: Any) -> str:
        relay.stop()
        threading.Timer(0.5, relay.start).start()
        return "fine"

    async with simulated_manager(relay.url, script) as manager:
        session = await create(manager)
        for number in range(3):
            assert (await session.send(f"words {number}")).text == "fine"
        assert words(session) == [f"words {number}" for number in range(3)]
        assert [one.status for one in await session.calls()] == ["ok"] * 3
        assert await session.verify() is None


async def test_a_server_that_stays_away_is_said_and_nothing_is_lost(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paid answer that could not be kept is an `error` row in the end, and `resume` asks again."""
    monkeypatch.setattr(dialect, "PATIENCE", 0.3)
    goes = [True]

    def script(_: Any) -> str:
        if goes.pop():
            relay.stop()
        goes.append(False)
        return "fine"

    async with simulated_manager(relay.url, script) as manager:
        session = await create(manager)
        with pytest.raises(SessionsError, match=r"went away.*load the session again") as caught:
            await session.send("words", idempotency_key="k")
        assert not isinstance(caught.value, (ConfigurationError, ModelError))
        relay.start()
        assert (await session.send("words", idempotency_key="k")).text == "fine"
        assert words(session) == ["words"]
        assert [one.status for one in await session.calls()] == ["error", "ok"]


async def test_a_lost_commit_is_not_written_twice_whatever_it_was(relay: Relay) -> None:
    """Each COMMIT of three turns is answered into the void once."""
    lost = 0

    def fate(piece: bytes) -> Any:
        nonlocal lost
        if b"COMMIT\0" in piece:
            lost += 1
            return "deliver and lose" if lost % 2 else "pass"
        return "pass"

    async with simulated_manager(relay.url) as manager:
        session = await create(manager)
        relay.fate = fate
        for number in range(3):
            await session.send(f"words {number}", idempotency_key=str(number))
        relay.fate = lambda _: "pass"
        assert lost > 10
        again = await manager.open(session.id)
        assert words(again) == [f"words {number}" for number in range(3)]
        assert [one.status for one in await again.calls()] == ["ok"] * 3
        assert (await manager.list())[0].turns == 3
        assert await again.verify() is None


async def test_a_schema_that_is_too_old(new_database: Callable[[], str], capsys: pytest.CaptureFixture[str]) -> None:
    url = new_database()
    with pytest.raises(SchemaOutOfDate, match="warmline db upgrade"):
        async with simulated_manager(url):
            raise AssertionError("it opened")
    with pytest.raises(SystemExit) as ended:
        await anyio.to_thread.run_sync(main, ["db", "upgrade", "--store", url])
    assert not ended.value.code
    assert "The schema is at revision" in capsys.readouterr().out
    async with simulated_manager(url) as manager:
        assert (await (await create(manager)).send("Hello")).text
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE warmline_version SET version_num = '9999'")
    with pytest.raises(SchemaOutOfDate, match="install a newer warmline"):
        async with simulated_manager(url):
            raise AssertionError("it opened")


@contextmanager
def replica(primary: str, bin_path: Path, home: Path) -> Iterator[str]:
    """A real hot standby that follows the server; its URL with the variable part `{database}`."""
    url = make_url(primary)
    owner = Path(str(url.query["host"])).owner()
    user = owner if psutil.Process().uids().real == 0 else None
    home.mkdir(mode=0o777)
    home.chmod(0o777)

    def run(program: str, *words: str) -> None:
        log = subprocess.DEVNULL
        subprocess.run([bin_path / program, *words], user=user, cwd=home, stdout=log, stderr=log, check=True)

    data = str(home / "data")
    run("pg_basebackup", "-h", str(url.query["host"]), "-U", "postgres", "-D", data, "-R", "-X", "stream", "-c", "fast")
    run("pg_ctl", "-w", "-D", data, "-o", f"-h '' -k {home}", "-l", str(home / "log"), "start")
    try:
        yield f"postgresql://postgres:@/{{database}}?host={home}"
    finally:
        run("pg_ctl", "-w", "-D", data, "-m", "immediate", "stop")


async def test_a_read_only_replica_can_be_read_and_says_that_it_cannot_be_written() -> None:
    with own_server() as (server, control):
        url = make_database(server)
        await open_store(url).upgrade()
        async with simulated_manager(url) as manager:
            session = await create(manager)
            await session.send("Hello")
        home = Path(str(make_url(url).query["host"])).parent / "replica"
        with replica(url, control.bin_path, home) as followed:  # type: ignore[attr-defined]
            other = followed.format(database=make_url(url).database)
            with anyio.fail_after(30):
                while not await _has(other, session.id):
                    await anyio.sleep(0.1)
            async with simulated_manager(other) as manager:
                found = await manager.open(session.id)
                assert words(found) == ["Hello"]
                for work in (found.send("More"), manager.create(model=MODEL, max_tokens=100), found.fork()):
                    with pytest.raises(ConfigurationError, match="read-only: name the primary"):
                        await work


async def _has(url: str, session: str) -> bool:
    try:
        async with simulated_manager(url) as manager:
            return bool((await manager.open(session)).messages)
    except SessionsError:
        return False


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """This process can make no file larger than that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _largest(directory: Path) -> int:
    return max(one.stat().st_size for one in directory.iterdir())


async def test_a_full_disk_under_a_file_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with simulated_manager(f"sqlite:///{path}") as manager:
        session = await create(manager)
        await session.send("first")
        with small_files(_largest(tmp_path)), pytest.raises(ConfigurationError, match=r"the disk (failed|is full)"):
            await session.send("x" * 100_000, idempotency_key="k")
        assert (await session.send("x" * 100_000, idempotency_key="k")).text
        assert words(session) == ["first", "x" * 100_000]
    async with simulated_manager(f"sqlite:///{path}") as manager:
        assert await (await manager.open(session.id)).verify() is None


async def test_a_damaged_file_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with simulated_manager(f"sqlite:///{path}") as manager:
        session = await create(manager)
        for _ in range(30):
            await session.send("x" * 4000)
    content = bytearray(path.read_bytes())
    page = 4096
    for at in range(3 * page, len(content), page):
        content[at : at + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"damaged.*restore a copy"):
        async with simulated_manager(f"sqlite:///{path}") as manager:
            await (await manager.open(session.id)).send("more")
    assert path.read_bytes() == content


def test_the_cause_is_the_stores_own_error() -> None:
    from sessions.translate import storage_errors

    with pytest.raises(ConfigurationError) as caught, storage_errors():
        raise StoreUnavailable("gone")
    assert isinstance(caught.value.__cause__, StoreUnavailable)
