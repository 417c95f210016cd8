"""What the model of these tests answers."""

from __future__ import annotations

from typing import Any

from sessions.simulator import Request, Scripted

WORDS = " ".join(f"word{number}" for number in range(300))
"""An answer that takes its time, in which nothing may be there twice."""
MARKDOWN = """Here is what the **cache** does for you:

1. The first request *writes* the prefix, at 1.25 times the price.
2. Each later one reads it, at a tenth.

## How to count it

| Part | Price | Times |
|---|---:|---:|
| Written | $3.75 | 1 |
| Read | $0.30 | 24 |

```python
def price(read: int, written: int, fresh: int) -> float:
    # USD for a million tokens
    return (0.3 * read + 3.75 * written + 3 * fresh) / 1e6
```

> A cache that is not read is money lost.

See [the documentation](https://docs.claude.com) or use `cache_control` yourself.
"""


def call(name: str, said: str, **given: Any) -> Scripted:
    return Scripted([{"type": "text", "text": said}, {"type": "tool_use", "name": name, "input": given}])


def desk(request: Request) -> Scripted:
    """Looks up, pays, fails, explains, counts; says anything else back."""
    if request.results:
        text = request.results[-1]["content"]
        return Scripted(f"The tool says: {text if isinstance(text, str) else text[0]['text']}")
    if "weather" in request.text:
        return call("look_up", "I look that up.", city="Oslo")
    if "pay" in request.text:
        return call("pay", "I pay the invoice, if you agree.", amount=120.5)
    if "fail" in request.text:
        return call("fail", "I try.", why="the line is busy")
    if "cache" in request.text:
        return Scripted(MARKDOWN, thinking="The user asks how the cache works. A table and some code will show it.")
    if "count" in request.text:
        return Scripted(WORDS)
    return Scripted(f"You said: {request.text}")
