"""Who holds a lease: a process that others can name, and that those on its host can tell dead from alive."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types

LONGEST_LEASE = 120.0
"""Seconds that a lease of another host may have left: one with more was written by a clock that is not ours."""
CLOCK_SLACK = 2.0
"""Seconds by which two readings of one process's creation time may differ (the wall clock's, off Linux)."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease: one process on one machine; `name` tells apart several holders within that process.

    `host` names the machine, its boot and its process-id namespace, so that equal hosts see the same process ids.
    `started` is when the process was created, in seconds (since the boot on Linux).
    """

    host: str
    pid: int
    started: float
    name: str = ""

    @classmethod
    def current(cls, name: str = "") -> Holder:
        """This process."""
        pid = os.getpid()
        return cls(host(pid), pid, _own_start(pid), name)

    def is_gone(self, observer: Holder) -> bool:
        """Whether `observer`, on the same host, can tell that this process has ended. Another host never can."""
        if self.host != observer.host:
            return False
        try:
            status = psutil.Process(self.pid).status()
            return bool(status == psutil.STATUS_ZOMBIE or abs(started_at(self.pid) - self.started) > CLOCK_SLACK)
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:  # pragma: no cover - Linux tells everybody this much
            return False

    def holds(self, expires: float, now: float, observer: Holder) -> bool:
        """Whether what this process may do until `expires` is still its own, as far as `observer` can tell.

        Leases go by the clock of one boot of one host (on a server, by the server's). What was written before a reboot,
        or by the wall clock of an earlier version, can claim days: it counts only while its process is on this host.
        """
        left = expires - now
        if left <= 0 or self.is_gone(observer):
            return False
        return left <= LONGEST_LEASE or self.host == observer.host


@functools.lru_cache(maxsize=1)  # keyed by pid: a forked child may live in a namespace of its own
def host(pid: int) -> str:
    """The host of this process, whose id is `pid`: machine, boot and process-id namespace."""
    return "/".join((platform.node(), first_line("/proc/sys/kernel/random/boot_id"), target("/proc/self/ns/pid")))


def first_line(path: str) -> str:
    """What a small file of the kernel says; "" where there is none (off Linux)."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def target(path: str) -> str:
    """Where a link of the kernel leads; "" where there is none (off Linux)."""
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


@functools.lru_cache(maxsize=1)  # keyed by pid: a forked child asks again
def _own_start(pid: int) -> float:
    return started_at(pid)


def started_at(pid: int) -> float:
    """When a process was created, in seconds; since the boot on Linux, which no setting of the wall clock changes.

    Raises `psutil.NoSuchProcess` for one that is not there.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return float(psutil.Process(pid).create_time())
