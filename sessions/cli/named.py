"""What an option names as `module:name`, and the extra that a command stands on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sessions.errors import ConfigurationError

_OF_CHAT = frozenset({"ag_ui", "markdown_it", "nh3", "sse_starlette", "starlette"})


def named(text: str, option: str) -> Any:
    """What `module:name` stands for. Modules are looked for in the working directory too, and first.

    Raises `ConfigurationError` with the option's name; what the module itself raises is its author's to see.
    """
    module, mark, name = text.partition(":")
    if not mark or not module or not name:
        raise ConfigurationError(f"{option} must be module:name, such as chat_agents:agents, not {text!r:.80}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"{option}: {module} needs a module that is not there: {error.name}") from error
        raise ConfigurationError(
            f"{option}: there is no module {error.name}, neither in this directory nor installed"
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{option}: the module {module} has nothing of the name {name}")
        found = getattr(found, part)
    return found


@contextmanager
def extra_chat() -> Iterator[None]:
    """While modules of the chat back end are imported. Raises `ConfigurationError` without its packages."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OF_CHAT:
            raise ConfigurationError(
                f"the chat back end needs {error.name}, which is of an extra: pip install 'warmline[chat]'"
            ) from None
        raise
