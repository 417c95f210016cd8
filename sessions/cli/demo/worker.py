"""A worker of the demo: a process of its own that opens a session, sends or resumes one turn, and prints the reply."""

from __future__ import annotations

import sys

import anyio

from sessions.cli.demo import desk
from sessions.cli.demo.job import DONE, JOB, Done, Job
from sessions.core.usage import Usage


async def work(job: Job) -> Done:
    """Opens the session, sends the words or finishes the interrupted turn."""
    async with job.manager() as manager:
        session = await manager.open(job.session, tools=desk.tools(job.bookings, job.slow))
        reply = await (session.resume() if job.words is None else session.send(job.words))
        return Done("", Usage()) if reply is None else Done(reply.text, reply.calls[-1].usage)


if __name__ == "__main__":
    sys.stdout.buffer.write(DONE.dump_json(anyio.run(work, JOB.validate_json(sys.argv[1]))))
