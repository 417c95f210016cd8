"""What README and docs say: their programs run, their links lead somewhere, what they list is what there is.

Every Python block is a whole program; the block of text behind it is what it prints.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sessions.cli import COMMANDS
from sessions.cli.database import app as database

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
}
README = PAGES["README.md"]
PROGRAM = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
PROGRAMS = [
    pytest.param(*program, id=f"{name}-{number}")
    for name, text in PAGES.items()
    for number, program in enumerate(PROGRAM.findall(text), 1)
]


def test_the_tour_is_there() -> None:
    assert len(PROGRAM.findall(README)) == 1
    assert len(PROGRAM.findall(PAGES["docs/tour.md"])) >= 6


@pytest.mark.parametrize(("program", "printed"), PROGRAMS)
def test_a_block_runs_and_prints_what_it_says(program: str, printed: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "COVERAGE_"))
    }
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert ran.stdout.strip() == printed.strip()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(PAGES[page]))
    assert [link for link in links if "://" not in link and not is_there((ROOT / page).parent, page, link)] == []


def is_there(folder: Path, page: str, link: str) -> bool:
    """Whether a relative link names a file of the repository, and a heading in it where it names one."""
    path, _, heading = link.partition("#")
    target = (folder / path).resolve() if path else ROOT / page
    if not target.is_relative_to(ROOT) or not target.exists():
        return False
    return not heading or heading in headings(target.read_text(encoding="utf-8"))


def headings(text: str) -> set[str]:
    """The headings of a page, as links name them."""
    titles = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def without_code(text: str) -> str:
    """A page without its blocks of code, where a line may begin with # too."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def test_the_list_of_folders_is_the_tree() -> None:
    named = re.findall(r"`([\w/]+)/`", section(README, "Where things stand"))
    packages = [folder for top in ("sessions", "storage") for folder in (ROOT / top, *(ROOT / top).iterdir())]
    there = {folder.relative_to(ROOT).as_posix() for folder in packages if any(folder.glob("*.py"))}
    assert sorted(named) == sorted(there | {"tests", "tests/benchmarks", "examples", "docs"})


def section(text: str, title: str) -> str:
    """The part of a page beneath a heading, up to the next one of its kind."""
    return re.split(r"^## ", text.split(f"\n## {title}\n", 1)[1], flags=re.MULTILINE)[0]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_is_named_exists(page: str) -> None:
    tops = "sessions|storage|tests|examples|docs|[.]ci"
    paths = re.findall(rf"(?<![\w/.])((?:{tops})/[\w./-]*\w)", PAGES[page])
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((?:\./)?([\w./-]+\.md)", README))
    assert sorted(set(PAGES) - linked - {"README.md"}) == []


def test_every_command_is_listed_and_every_listed_command_is_there() -> None:
    listed = section("\n## Commands\n" + PAGES["docs/commands.md"].split("\n", 1)[1], "Commands")
    rows = re.findall(r"^\| (.*?) \|(?!-)", listed.replace("\\|", ""), re.MULTILINE)
    words = {command.removeprefix("warmline ").split()[0] for row in rows for command in re.findall(r"`(.*?)`", row)}
    assert sorted(words) == sorted(COMMANDS)
    named = set(re.findall(r"warmline db (\w+)", listed))
    assert named == {command.name or command.callback.__name__ for command in database.registered_commands}


def test_what_there_is_to_make_is_named() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    assert "bench-speed" in targets
    everything = "\n".join(PAGES.values())
    assert [target for target in targets if not re.search(rf"\bmake {target}[`\s]", everything)] == []
    named = re.findall(r"`make ([a-z-]+)", everything)
    assert sorted(set(named) - set(targets)) == []


def test_every_fact_that_is_cited_is_there() -> None:
    facts = set(re.findall(r"^## (\d+)\. ", PAGES["docs/provider.md"], re.MULTILINE))
    cited, broken = 0, []
    for source in sources():
        text = re.sub(r"\s+#?\s*", " ", source.read_text(encoding="utf-8"))
        for page, number, heading in re.findall(r"\b(docs/[\w-]+\.md)(?:, (\d+)|#([\w-]+))?", text):
            cited += 1
            if page not in PAGES or (number and number not in facts):
                broken.append((source.name, page, number))
            elif heading and heading not in headings(PAGES[page]):
                broken.append((source.name, page, heading))
    assert broken == []
    assert cited >= 10


def test_nothing_cites_a_document_that_is_not_here() -> None:
    outside = re.compile(r"\(design\b|\bof the design\b|claude_api|\bfacts of \w+ \d{4}|\(D\d+\)", re.IGNORECASE)
    assert [source.name for source in sources() if outside.search(source.read_text(encoding="utf-8"))] == []


def sources() -> list[Path]:
    """The programs of the repository, without this file."""
    folders = ("sessions", "storage", "tests", "examples", ".ci")
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]
