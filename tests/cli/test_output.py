"""A file that a command writes is there whole or not at all, and takes nobody's place unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessions.cli.output import files_of, writing
from sessions.errors import ConfigurationError


def test_a_new_file_is_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    with writing(path, force=False) as draft:
        assert draft.parent == tmp_path
        draft.write_text("words")
        assert not path.exists()
    assert path.read_text() == "words"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_exists_is_replaced_by_force_only(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text("old")
    with pytest.raises(ConfigurationError, match=r"old\.json exists: .* --force"), writing(path, force=False):
        pass
    with writing(path, force=True) as draft:
        draft.write_text("new")
    assert path.read_text() == "new"


def test_what_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    with pytest.raises(ConfigurationError, match="exists"), writing(path, force=False) as draft:
        draft.write_text("new")
        path.write_text("of somebody else")
    assert path.read_text() == "of somebody else"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_there_is_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), writing(path, force=True) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_target_of_a_link_is_replaced_and_not_the_link(tmp_path: Path) -> None:
    path, link = tmp_path / "old.json", tmp_path / "link.json"
    path.write_text("old")
    link.symlink_to(path)
    with writing(link, force=True) as draft:
        draft.write_text("new")
    assert link.is_symlink()
    assert path.read_text() == "new"


def test_the_files_of_the_store_are_never_written(tmp_path: Path) -> None:
    database = tmp_path / "chat.db"
    database.write_text("all that was said")
    link, twin = tmp_path / "link.json", tmp_path / "twin.json"
    link.symlink_to(database)
    twin.hardlink_to(database)
    for path in (database, tmp_path / "chat.db-wal", link, twin, tmp_path / "." / "chat.db"):
        with (
            pytest.raises(ConfigurationError, match="belongs to the store itself"),
            writing(path, force=True, never=files_of(f"sqlite:///{database}")),
        ):
            pass
    assert database.read_text() == "all that was said"


def test_stores_that_are_no_files() -> None:
    for store in ("sqlite://", "sqlite:///:memory:", "postgresql://host/d", "no url"):
        assert files_of(store) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "no" / "x.json", "cannot write .*No such file"),
        (tmp_path, "is no ordinary file"),
        (Path("/dev/null"), "is no ordinary file"),
    ):
        with pytest.raises(ConfigurationError, match=words), writing(path, force=True):
            pass
