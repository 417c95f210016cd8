"""Whatever goes wrong at the endpoint becomes one error of ours, which says who should act and how."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sessions.errors import ConfigurationError, ContextFull, ModelError, SessionsError

if TYPE_CHECKING:
    from anthropic import APIStatusError

NO_KEY = (
    "no API key: set ANTHROPIC_API_KEY (or pass client=AsyncAnthropic(api_key=…)), "
    "or try it without a key with client=sessions.simulator.client()"
)
_TOO_LONG = ("prompt is too long", "context limit", "context length", "context size", "context window")
"""How the API and compatible servers say that the input alone does not fit (a 400)."""
BEHIND = "llm_provider-"
"""What LiteLLM's proxy puts before the names of the headers that it has received (its response-headers page, 2026)."""
_LIBRARIES = ("httpx2", "httpcore2", "httpx", "h11")
"""HTTP libraries beneath the SDK, whose errors it lets through while a stream is read."""


@contextmanager
def translated(request_id: str | None = None) -> Iterator[None]:
    """Whatever the SDK or its HTTP library raises becomes a `ModelError` (much of it is no `APIError`).

    A warning that the user has made an error (`python -W error`) is not the model's failure and stays what it is.
    """
    try:
        yield
    except (SessionsError, Warning):
        raise
    except Exception as error:
        # So the SDK says that there is no key, at the first request.
        if isinstance(error, TypeError) and "authentication method" in str(error):
            raise ConfigurationError(NO_KEY) from error
        if getattr(error, "is_of_script", False):  # of the simulator, which need not be loaded
            raise ConfigurationError(f"{error}; correct the script, then resume() asks again") from error.__cause__
        raise model_error(error, request_id) from error


def is_connection_trouble(error: BaseException) -> bool:
    """Whether the connection failed, as opposed to the API refusing: worth another try."""
    from anthropic import APIConnectionError

    # By the module's name: none of these libraries has to be installed, and a cut stream raises theirs
    # (docs/provider.md, 17).
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, APIConnectionError | OSError) or library in _LIBRARIES


def model_error(error: Exception, request_id: str | None = None) -> ModelError:
    """Says in one sentence what failed, who should act, and whether trying again can help."""
    from anthropic import APIStatusError

    if isinstance(error, APIStatusError):
        status = error.status_code
        # 200: the error came inside a stream that had begun (docs/provider.md, 12).
        retryable = status in (408, 409, 429) or status >= 500 or status == 200
        found = _request_id_of(error) or request_id
        is_full = status == 400 and any(word in error.message.lower() for word in _TOO_LONG)
        if is_full:
            advice = "compact() makes room, or go back to an earlier entry with rewind() or fork(at=…)"
        else:
            advice = "try again later: resume() goes on" if retryable else "correct the request"
        kind = " ".join([f"the API answered {status}", *api_type(getattr(error, "type", None)), f"({advice})"])
        text = f"the API answered {status}: {error.message} ({advice})"
        made = ContextFull if is_full else ModelError
        return made(text, retryable=retryable, request_id=found, kind=kind)
    failed = "the connection failed" if is_connection_trouble(error) else "the answer could not be read"
    name, advice = type(error).__name__, "resume() asks again"
    return ModelError(
        f"{failed} ({name}: {error}); {advice}",
        retryable=True,
        request_id=request_id,
        kind=f"{failed} ({name}); {advice}",
    )


def api_type(kind: Any) -> list[str]:
    """The API's word for an error, such as `overloaded_error`; a gateway may put anything there."""
    return [kind] if isinstance(kind, str) and re.fullmatch(r"[a-z_]{1,60}", kind) else []


def _request_id_of(error: APIStatusError) -> str | None:
    """The id by which the API knows the request: from a header, or from the body where a gateway lost that."""
    body = error.body if isinstance(error.body, Mapping) else {}
    found = error.request_id or request_id_in(error.response.headers) or body.get("request_id")
    return str(found) if found else None


def request_id_in(headers: Mapping[str, str]) -> str | None:
    """The request's id in the headers of a response: the API's, else the one that most gateways give."""
    ids = [id for name in ("request-id", f"{BEHIND}request-id", "x-request-id") if (id := headers.get(name))]
    return next((id for id in ids if id.startswith("req_")), ids[0] if ids else None)


def organization_in(headers: Mapping[str, str]) -> str | None:
    """The organization that the API says it has answered, in the headers of a response; `None` where it is not said."""
    name = "anthropic-organization-id"
    return headers.get(name) or headers.get(f"{BEHIND}{name}")


def reason_of(error: ModelError) -> str:
    """The API's own sentence behind a `ModelError`, without the SDK's words around it."""
    from anthropic import APIStatusError

    cause = error.__cause__
    if not isinstance(cause, APIStatusError):
        return str(error)
    found = cause.body.get("error") if isinstance(cause.body, Mapping) else None
    message = found.get("message") if isinstance(found, Mapping) else None
    return str(message or cause.message)


def status_of(error: ModelError) -> int | None:
    """The HTTP status behind a `ModelError`, or `None`."""
    from anthropic import APIStatusError

    cause = error.__cause__
    return cause.status_code if isinstance(cause, APIStatusError) else None


def is_refused(error: ModelError) -> bool:
    """The API refused the request itself (400, 413), and its content can be the cause, not the account."""
    return status_of(error) in (400, 413) and not is_of_the_account(error)


def is_of_the_account(error: ModelError) -> bool:
    """Whether the API's words are about the account: nothing of the request is the cause."""
    text = str(error).lower()
    return any(word in text for word in ("credit balance", "billing", "workspace"))


def belongs_elsewhere(error: ModelError) -> bool:
    """The API refused thinking that is bound to another prefix (preserved-thinking page, September 2026)."""
    return status_of(error) == 400 and "bound to a different conversation" in str(error)
