"""Files that users bring: by type and size, stored as blocks, given out again as what they are and as nothing else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from sessions.web import Limits
from tests.web.world import Place, service

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 50
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 50
GIF = b"GIF89a" + b"\0" * 50
WEBP = b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 50
PDF = b"%PDF-1.7\n" + b"\0" * 50


def _file(data: bytes, kind: str, name: str = "a file") -> dict[str, Any]:
    return {"type": "file", "name": name, "media_type": kind, "data": base64.b64encode(data).decode()}


def _body(*files: dict[str, Any]) -> dict[str, Any]:
    return {"id": "m", "content": [{"type": "text", "text": "What is it?"}, *files]}


async def _sent(place: Place, id: str, *files: dict[str, Any]) -> list[dict[str, Any]]:
    """The user's blocks, as they are shown when the page is loaded again."""
    begun = await place.post(f"/api/sessions/{id}/turns", _body(*files), 202)
    await place.events(begun)
    return list((await place.show(id))["entries"][0]["blocks"])


@pytest.mark.parametrize(
    ("data", "kind", "stored"),
    [
        (PNG, "image/png", "image/png"), (JPEG, "image/jpeg", "image/jpeg"), (GIF, "image/gif", "image/gif"),
        (WEBP, "IMAGE/WebP", "image/webp"), (PDF, "application/pdf", "application/pdf"),
        ("Grüße".encode(), "text/plain; charset=utf-8", "text/plain"), (b"a,b", "text/csv", "text/plain"),
        (b"<script>alert(1)</script>", "text/html", "text/plain"), (b"{}", "application/json", "text/plain"),
    ],
)  # fmt: skip
async def test_a_file_survives_a_reload(tmp_path: Path, data: bytes, kind: str, stored: str) -> None:
    async with service(tmp_path) as place:
        id = await place.create()
        shown, text = await _sent(place, id, _file(data, kind))
        assert text["type"] == "text"
        assert shown["media_type"] == stored
        assert "data" not in str(shown)
    async with service(tmp_path) as place:
        response = await place.get("/" + shown["url"])
        assert response.content == data
        assert response.headers["content-type"].partition(";")[0] == stored
        assert response.headers["content-disposition"] == "attachment"
        assert response.headers["content-security-policy"].startswith("sandbox")
        assert "no-store" not in response.headers["cache-control"]
        assert response.headers["cache-control"].startswith("private")


@pytest.mark.parametrize(
    ("status", "file"),
    [
        (422, _file(b"GIF89a", "image/png")),
        (422, _file(b"<svg onload=alert(1)>", "image/jpeg")),
        (422, _file(b"RIFF\0\0\0\0WAVE", "image/webp")),
        (422, _file(b"MZ", "application/pdf")),
        (422, _file(b"\xff\xfe", "text/plain")),
        (422, _file(b"a\0b", "text/plain")),
        (422, _file(b" \n", "text/plain")),
        (422, _file(b"", "text/plain")),
        (422, _file(PNG, "image/png") | {"data": "not base64!"}),
        (422, _file(PNG, "image/png") | {"data": "é"}),
        (422, _file(PNG, "image/png") | {"name": ""}),
        (422, _file(PNG, "image/png") | {"url": "http://169.254.169.254/"}),
        (415, _file(b"<svg/>", "image/svg+xml")),
        (415, _file(b"MZ", "application/octet-stream")),
        (415, _file(PNG, "a" * 200)),
        (413, _file(JPEG + b"\0" * 4_000_000, "image/jpeg")),
        (413, _file(b"a" * 2_000, "text/plain")),
    ],
)
async def test_what_is_not_taken_is_refused_clearly(tmp_path: Path, status: int, file: dict[str, Any]) -> None:
    async with service(tmp_path, limits=Limits(text_characters=1_000)) as place:
        id = await place.create()
        problem = await place.post(f"/api/sessions/{id}/turns", _body(file), status)
        assert len(problem["detail"]) < 300
        assert (await place.show(id))["entries"] == []


async def test_a_files_name_is_text_of_one_line(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        names = {"../../etc/passwd": "passwd", "C:\\x\\a.pdf": "a.pdf", "<b>\r\n\0\u202ex": "<b>x", "\0": "file"}
        for name, kept in names.items():
            (shown, _) = await _sent(place, await place.create(), _file(PDF, "application/pdf", name))
            assert shown["name"] == kept


async def test_a_message_may_be_files_alone_and_is_titled_by_them(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        id = await place.create()
        body = {"id": "m", "content": [_file(PDF, "application/pdf", "report.pdf")]}
        await place.events(await place.post(f"/api/sessions/{id}/turns", body, 202))
        assert (await place.show(id))["session"]["title"] == "report.pdf"


async def test_only_what_is_there_is_given_out(tmp_path: Path) -> None:
    async with service(tmp_path) as place:
        id = await place.create()
        (shown, _) = await _sent(place, id, _file(PNG, "image/png"))
        base, _, _ = shown["url"].rpartition("/")
        for place_ in ("1", "2", "-1", "x", "٣", "9" * 5_000, "0x0", "%00"):
            await place.get(f"/{base}/{place_}", 404)
        await place.get(f"/api/sessions/{id}/files/nothing/0", 404)
