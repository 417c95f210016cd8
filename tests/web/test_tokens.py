"""A file of tokens: who is let in, from when on, and what is wrong with a file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="install the extra chat")

from starlette.requests import Request

from sessions import ConfigurationError
from sessions.web import TokenFile
from sessions.web.tokens import LOOK, add, digest_of, read, revoke


def asked(token: str, scheme: str = "Bearer") -> Request:
    return Request({"type": "http", "headers": [(b"authorization", f"{scheme} {token}".encode())]})


class Time:
    """Seconds that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_its_owners(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    ada, bob = add(file, "ada"), add(file, "bob@example.com")
    who = TokenFile(file)
    assert (who(asked(ada)), who(asked(bob, "bearer"))) == ("ada", "bob@example.com")
    assert ada.startswith("wl_")
    assert ada not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for wrong in (asked(ada[:-1]), asked(""), asked(ada, "Basic"), asked(digest_of(ada)), asked("x" * 10_000)):
        assert who(wrong) is None
    assert who(Request({"type": "http", "headers": []})) is None


def test_a_file_that_has_changed_is_read_again_after_a_second(tmp_path: Path) -> None:
    file, time = tmp_path / "tokens", Time()
    ada = add(file, "ada")
    who = TokenFile(file, monotonic=time)
    bob = add(file, "bob")
    assert who(asked(bob)) is None, "it was looked at just now"
    time.now += LOOK
    assert who(asked(bob)) == "bob"
    revoke(file, "ada")
    time.now += LOOK
    assert who(asked(ada)) is None
    assert who(asked(bob)) == "bob"


def test_a_file_that_has_become_wrong_lets_nobody_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, time = tmp_path / "tokens", Time()
    ada = add(file, "ada")
    who, before = TokenFile(file, monotonic=time), file.read_text()
    for text, said in ((before + "nonsense\n", "line 3 of"), (None, "there is no token file")):
        file.unlink() if text is None else file.write_text(text)
        time.now += LOOK
        assert who(asked(ada)) is None
        assert said in caplog.text
    file.write_text(before)
    time.now += LOOK
    assert who(asked(ada)) == "ada"


def test_one_token_of_several_can_be_revoked(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# of the office\n\n")
    first, second = add(file, "ada"), add(file, "ada")
    (gone,) = revoke(file, digest_of(first)[:12])
    assert gone.digest == digest_of(first)
    assert [token.digest for token in read(file)] == [digest_of(second)]
    assert file.read_text().startswith("# of the office\n\n"), "what is no token stays"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_line_is_added_behind_one_without_an_end(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# no end")
    add(file, "ada")
    assert [token.owner for token in read(file)] == ["ada"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("abc ada 2026-11-29", "line 1 of"),
        (f"\n# a comment\n{'0' * 64} ada", "line 3 of"),
        (f"{'0' * 64} ada yesterday", "must be YYYY-MM-DD"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        TokenFile(file)


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    with pytest.raises(ConfigurationError, match="warmline token new OWNER"):
        TokenFile(file)
    for owner in ("", "two words", "#ada", "x" * 201):
        with pytest.raises(ConfigurationError, match="without spaces"):
            add(file, owner)
    add(file, "ada")
    with pytest.raises(ConfigurationError, match="no token of 'bob'"):
        revoke(file, "bob")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        add(tmp_path / "nowhere" / "tokens", "ada")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read(tmp_path)
