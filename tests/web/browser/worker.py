"""A worker of the back end that is killed: `python -m tests.web.browser.worker STORE SOCKET MODEL`.

`SOCKET`: the number of a listening socket that it inherits.
"""

from __future__ import annotations

import socket
import sys

import uvicorn
from anthropic import AsyncAnthropic

from sessions import SessionManager, profile_for
from sessions.web import Agent, chat_app, tools_of
from tests.web.browser.world import MODEL


def main(store: str, number: str, model: str) -> None:
    agents = [Agent("helper", model=MODEL, max_tokens=4096)]
    client = AsyncAnthropic(base_url=model, api_key="simulated", max_retries=0)
    manager = SessionManager(
        store, client=client, profile=profile_for(MODEL), tools=tools_of(agents), recover=True, tend=False, warmup=False
    )
    app = chat_app(manager, agents, simulated=True, drain=0.5)
    listening = socket.socket(fileno=int(number))
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, ws="none")).run([listening])


if __name__ == "__main__":
    main(*sys.argv[1:])
