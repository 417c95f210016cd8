"""What a search looks at: the words and numbers in a JSON text, not its keys, its punctuation or what is for machines.

One pattern, for Python's `re` (on SQLite) and for PostgreSQL alike: every part of the text is matched once, and what
it captures stays.
"""

from __future__ import annotations

import json

_BODY = r'[^"\\]*(?:\\.[^"\\]*)*'
_MACHINE = (
    r'"type"\s*:\s*"[a-z0-9_]*"',
    r'"(?:id|tool_use_id)"\s*:\s*"[a-z]+_\w*"',
    rf'"(?:signature|encrypted_content|encrypted_index)"\s*:\s*"{_BODY}"',
    r'"data"\s*:\s*"[A-Za-z0-9+/=]*"',
)
_WORDS = (rf'"({_BODY})"(?!\s*:)', rf'"{_BODY}"\s*:', r"(-?[0-9][0-9.]*)", r'[^"0-9]+')

IN_METADATA = "|".join(_WORDS)
IN_CONTENT = "|".join((*_MACHINE, *_WORDS))
KEPT = r'"\1\2"'


def as_written(words: str) -> str:
    """Words as they stand in a JSON text."""
    return json.dumps(words, ensure_ascii=False)[1:-1]
