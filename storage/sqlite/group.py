"""Writes that arrive together share one transaction and one fsync: a thread of its own runs all of a store's writes.

Each write stands in a savepoint, so one that fails is undone alone. Callers are answered after the COMMIT: when that
fails, it fails for all of them.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from storage.errors import StoreUnavailable
from storage.records import Statistics
from storage.transactions import Database

Work = Callable[[Database], Any]


RETRY = 1.0
"""Seconds after which it is tried again to empty the log, where nothing is written meanwhile."""

log = logging.getLogger("storage")


class Connection(Database, Protocol):
    """The writer's connection."""

    @property
    def owes(self) -> bool:
        """Whether deleted words may still stand in the log."""

    def truncate(self) -> None:
        """Tries to empty the log."""

    def rest(self) -> None:
        """Says that a piece of work has ended."""


@dataclass(slots=True)
class _Job:
    work: Work
    durable: bool
    answer: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: BaseException | None = None


class GroupCommit:
    """The one writer of an SQLite database. It owns the connection and closes it."""

    def __init__(
        self, raw: sqlite3.Connection, database: Connection, translated: Callable[[BaseException], BaseException]
    ) -> None:
        self._raw = raw
        self._database = database
        self._translated = translated
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._durable = True
        self._told = False
        self._closing = False
        self._lock = threading.Lock()
        self.statistics = Statistics()
        # A daemon: a store that nobody closed must not keep the program from ending. Unanswered writes are undone.
        self._thread = threading.Thread(target=self._run, name="storage-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work, *, durable: bool = True) -> Future[Any]:
        """Runs the work in the next transaction. Without `durable`, a loss of power may lose it, never halve it."""
        job = _Job(work, durable)
        with self._lock:  # nothing may queue up behind the end
            if self._closing:
                raise StoreUnavailable("the store is being closed: open it again first")
            self._jobs.put(job)
        return job.answer

    def close(self) -> None:
        """Finishes what was submitted and disconnects."""
        with self._lock:
            self._closing = True
            self._jobs.put(None)
        self._thread.join()
        self._raw.close()

    def _run(self) -> None:
        closing = False
        while not closing:
            waiting = list(self._waiting())
            jobs = [job for job in waiting if job is not None]
            closing = len(jobs) < len(waiting)
            if jobs:
                self._commit(jobs)
            else:
                self._truncate()
            del waiting, jobs  # an idle writer keeps nothing alive

    def _waiting(self) -> Iterator[_Job | None]:
        with contextlib.suppress(Empty):
            yield self._jobs.get(timeout=RETRY if self._database.owes else None)
            while True:
                yield self._jobs.get_nowait()

    def _commit(self, jobs: list[_Job]) -> None:
        failure: BaseException | None = None
        try:
            self._synchronize(any(job.durable for job in jobs))
            self._raw.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._work(job)
            self._raw.execute("COMMIT")
            self._truncate()
        except BaseException as error:  # whatever it is, those who wait must hear of it
            failure = self._translated(error)
            self._undo()
        done = 0 if failure else sum(job.error is None for job in jobs)
        self.statistics = Statistics(self.statistics.writes + done, self.statistics.transactions + (failure is None))
        for job in jobs:
            if (problem := job.error or failure) is not None:
                job.answer.set_exception(problem)
            else:
                job.answer.set_result(job.result)

    def _work(self, job: _Job) -> None:
        self._raw.execute("SAVEPOINT job")
        try:
            self._do(job)
        except BaseException as error:
            if not self._raw.in_transaction:  # SQLite gave up all of it, as on a full disk: nobody's work is left
                raise
            self._raw.execute("ROLLBACK TO job")
            job.error = self._translated(error)
        self._raw.execute("RELEASE job")

    def _do(self, job: _Job) -> None:
        try:
            job.result = job.work(self._database)
        finally:
            self._database.rest()

    def _truncate(self) -> None:
        """What was deleted is gone from the log when its caller hears of it, or as soon as its last reader has ended.

        The deletion is durable either way, so a failure here is no failure of it.
        """
        if not self._database.owes:
            return
        try:
            self._database.truncate()
            problem = "somebody still reads from it" if self._database.owes else None
        except sqlite3.Error as error:
            problem = str(error)
        if problem and not self._told:
            log.warning("deleted words stay in the write-ahead log (%s): it is tried again every second", problem)
        self._told = problem is not None

    def _undo(self) -> None:
        if self._raw.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # the first error is the one to report
                self._raw.execute("ROLLBACK")

    def _synchronize(self, durable: bool) -> None:
        if durable != self._durable:
            self._raw.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable
