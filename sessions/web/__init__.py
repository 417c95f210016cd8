"""A chat back end: an ASGI application with a JSON API, two protocols of front ends, and a page. Extra `chat`."""

from sessions.web.agents import Agent, tools_of
from sessions.web.app import chat_app
from sessions.web.limits import Limits
from sessions.web.tokens import TokenFile

__all__ = ["Agent", "Limits", "TokenFile", "chat_app", "tools_of"]
