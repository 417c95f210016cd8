"""Names are never given twice: not by one process, not by its threads, not by a process that was forked off."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from sessions.ids import new_id

_FORKS = """
import os
from sessions.ids import new_id
print(new_id(), flush=True)
if child := os.fork():
    os.waitpid(child, 0)
print(*[new_id() for _ in range(300)], sep="\\n", flush=True)
"""


def test_many_names() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: new_id(), range(5000)))
    assert len(set(found)) == 5000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_gives_other_names() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, check=True, timeout=60)
    found = done.stdout.split()
    assert len(found) == len(set(found)) == 601
