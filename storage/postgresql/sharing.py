"""Work on different sessions that comes together shares one transaction of a server: first everybody's questions go
out, then everybody's writes, and one COMMIT is waited for.

Whatever goes wrong undoes all of it; then each piece of work goes alone, as if it had never been shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from storage import threads
from storage.transactions import Work

LANES = 2
"""Transactions under way at the same time: while one waits for the server, another gets ready."""
MOST = 64
"""Pieces of work in one transaction; all of their sessions stay locked until its end."""


@dataclass(slots=True)
class _Job:
    session: str
    work: Work[Any]
    answer: Future[Any] = field(default_factory=Future)


class Sharing:
    """Lanes of shared transactions, in worker threads while there is work.

    `together` runs several works in one transaction, once; `alone` runs one, told what became of the shared one.
    """

    def __init__(
        self,
        together: Callable[[Sequence[Work[Any]]], list[Any]],
        alone: Callable[[Work[Any], BaseException], Any],
    ) -> None:
        self._together = together
        self._alone = alone
        self._waiting: list[_Job] = []
        self._busy: set[str] = set()
        self._lanes = 0
        self._lock = Lock()

    def submit(self, session: str, work: Work[Any]) -> Future[Any]:
        """Runs work that locks this session and no other."""
        job = _Job(session, work)
        with self._lock:
            self._waiting.append(job)
            if self._lanes < LANES:
                self._lanes += 1
                threads.start(self._run)
        return job.answer

    def _run(self) -> None:
        jobs: list[_Job] = []
        while jobs := self._next(jobs):
            try:
                results = self._together([job.work for job in jobs])
            except BaseException as error:  # whatever it is, those who wait must hear of their own
                for job in jobs:
                    threads.start(self._finish, job, error)
            else:
                for job, result in zip(jobs, results, strict=True):
                    job.answer.set_result(result)

    def _next(self, ended: Sequence[_Job]) -> list[_Job]:
        """What waits, one piece a session; by session, since those who lock in one order never wait in a circle."""
        with self._lock:
            self._busy.difference_update(job.session for job in ended)
            chosen: dict[str, _Job] = {}
            left = []
            for job in self._waiting:
                if len(chosen) < MOST and job.session not in self._busy and job.session not in chosen:
                    chosen[job.session] = job
                else:
                    left.append(job)
            self._waiting = left
            self._busy.update(chosen)
            self._lanes -= not chosen
        return [chosen[session] for session in sorted(chosen)]

    def _finish(self, job: _Job, error: BaseException) -> None:
        try:
            job.answer.set_result(self._alone(job.work, error))
        except BaseException as problem:
            job.answer.set_exception(problem)
