"""Files with recorded conversations, as `import` and `replay` take them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sessions.cli.terminal import errors
from sessions.importers import Imported, read
from sessions.importers.lines import MAX_BYTES

MAX_MIB = MAX_BYTES >> 20

FilesArgument = Annotated[
    list[Path], typer.Argument(help="Claude Code transcripts, Messages JSON or traces.", show_default=False)
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse a file with a line that cannot be read.")]
MaxMibOption = Annotated[int, typer.Option("--max-mib", min=1, help="The largest file taken, unpacked, in MiB.")]


def read_file(file: Path, strict: bool, max_mib: int) -> Imported:
    """What the file holds; what was skipped is told on standard error. Raises `InvalidImport`."""
    imported = read(file, strict=strict, max_bytes=max_mib << 20)
    for problem in imported.problems:
        errors.print(f"[yellow]{escape(str(file))}: {escape(str(problem))} (skipped)[/]", soft_wrap=True)
    return imported
