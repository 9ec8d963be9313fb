"""Uploads over a network that breaks, against a server in process that keeps what came."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner
from verbatim_client import ApiError, VerbatimClient
from verbatim_client.backoff import Backoff
from verbatim_client.cli.app import application
from verbatim_client.cli.uploads import BegunUploads
from verbatim_client.uploading import Upload

pytestmark = pytest.mark.req("R-UP-3", "R-UI-2")

CONTENT = bytes(range(256)) * 4000


class TusServer(httpx2.AsyncBaseTransport):
    """Keeps one upload. `breaks` are the offsets at which the connection is lost, once each."""

    def __init__(self, *breaks: int) -> None:
        self.breaks = list(breaks)
        self.kept = bytearray()
        self.created: list[dict[str, str]] = []
        self.refusals: list[httpx2.Response] = []
        self.calls: list[str] = []
        self.forgotten = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.calls.append(request.method)
        if self.refusals:
            return self.refusals.pop(0)
        assert request.headers["Tus-Resumable"] == "1.0.0"
        if request.method == "POST":
            pairs = (pair.split(" ") for pair in request.headers["Upload-Metadata"].split(","))
            self.created.append({name: base64.b64decode(value).decode() for name, value in pairs})
            self.length = int(request.headers["Upload-Length"])
            self.forgotten = False
            return httpx2.Response(201, headers={"Location": f"/api/uploads/tus/{len(self.created)}"})
        if self.forgotten:
            return httpx2.Response(404, json={"error": "not_found"})
        if request.method == "PATCH":
            assert int(request.headers["Upload-Offset"]) == len(self.kept)
            assert isinstance(request.stream, httpx2.AsyncByteStream)
            async for piece in request.stream:
                if self.breaks and len(self.kept) + len(piece) > self.breaks[0]:
                    self.kept += piece[: self.breaks.pop(0) - len(self.kept)]
                    raise httpx2.WriteError("the network broke")
                self.kept += piece
        done = {"Verbatim-Job-Id": "j", "Verbatim-Meeting-Id": "m"} if len(self.kept) == self.length else {}
        return httpx2.Response(204, headers={"Upload-Offset": str(len(self.kept)), **done})


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    file = tmp_path / "Wöchentlich.mp3"
    file.write_bytes(CONTENT)
    return file


def client(server: TusServer) -> VerbatimClient:
    return VerbatimClient("http://platform", access_token="at", transport=server)


async def send(server: TusServer, recording: Path, **more: Any) -> dict[str, str]:
    backoff = Backoff(draw=lambda _low, _high: 0.0)
    place = more.pop("place", None)
    async with client(server) as platform:
        return await Upload(platform, recording, {"title": "Weekly"}, backoff=backoff, **more).send(place)


async def test_a_recording_arrives_whole_however_often_the_network_breaks(recording: Path) -> None:
    server, seen = TusServer(1000, 300_000, 300_001, 900_000), []
    done = await send(server, recording, progress=lambda sent, total: seen.append((sent, total)))
    assert done == {"job_id": "j", "meeting_id": "m"}
    assert bytes(server.kept) == CONTENT
    assert server.created == [{"filename": "Wöchentlich.mp3", "title": "Weekly"}]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


async def test_it_goes_on_where_another_process_stopped(recording: Path) -> None:
    server = TusServer()
    server.length, server.kept = len(CONTENT), bytearray(CONTENT[:600_000])
    await send(server, recording, place="/api/uploads/tus/1")
    assert bytes(server.kept) == CONTENT
    assert server.calls == ["HEAD", "PATCH"]


async def test_an_upload_that_is_too_old_to_go_on_begins_anew(recording: Path) -> None:
    server = TusServer()
    server.forgotten = True
    places: list[str] = []
    await send(server, recording, place="/api/uploads/tus/9", begun=places.append)
    assert bytes(server.kept) == CONTENT
    assert places == ["/api/uploads/tus/1"]


async def test_a_refusal_is_told_at_once(recording: Path) -> None:
    server = TusServer()
    server.refusals = [httpx2.Response(415, json={"error": "unsupported_media_type", "message": "No."})]
    with pytest.raises(ApiError) as caught:
        await send(server, recording)
    assert caught.value.code == "unsupported_media_type"
    assert server.calls == ["POST"]


async def test_it_gives_up_in_the_end(recording: Path) -> None:
    server = TusServer()
    server.refusals = [httpx2.Response(503, json={"error": "service_unavailable"}) for _ in range(20)]
    with pytest.raises(ApiError) as caught:
        await send(server, recording)
    assert caught.value.status == 503
    assert len(server.calls) == 10


def test_the_command_line_remembers_where_uploads_go_on(tmp_path: Path) -> None:
    begun = BegunUploads(tmp_path / "new")
    assert begun.place("a") is None
    begun.keep("a", "/x")
    begun.keep("b", "/y")
    begun.forget("a")
    assert (begun.place("a"), begun.place("b")) == (None, "/y")
    (tmp_path / "new" / "uploads.json").write_text("{")
    assert begun.place("b") is None
    begun.keep("c", "/z")
    assert json.loads((tmp_path / "new" / "uploads.json").read_text()) == {"c": "/z"}


def test_a_file_that_is_not_there_is_a_matter_of_usage(tmp_path: Path) -> None:
    assert CliRunner().invoke(application(), ["upload", str(tmp_path / "none.mp3")]).exit_code == 2
