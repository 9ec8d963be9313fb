"""Files come in: of the right kind, not too long, each byte once; of those that do not arrive nothing is left."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed
from tusclient.uploader.uploader import Uploader

from chassis import bus
from chassis.errors import AppError, Kind
from chassis.tests.servers import NatsServer
from services.gateway.tests.conftest import Gateway, problem, running
from services.gateway.uploading import BUCKET
from tests.corpus import recordings as make
from tests.corpus.specimens import CORPUS, Specimen

LIMIT = 1_000_000
SLACK = 64 * 1024
MIB = 1024**2


@asynccontextmanager
async def receiving(server: NatsServer, **changed: Any) -> AsyncIterator[Gateway]:
    """Run a gateway with a broker that has room for files."""
    settings = {"upload_bytes_max": LIMIT, **changed}
    async with running(nats_url=server.url, **settings) as gateway, bus.connect(server.url, name="t", replicas=1) as b:
        await b.declare(gateway.objects.stream(64 * MIB))
        await until_connected(gateway)
        yield gateway


async def until_connected(gateway: Gateway) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await gateway.objects.names()
            except AppError:
                await asyncio.sleep(0.02)
            else:
                return


async def stored(gateway: Gateway) -> dict[str, bytes]:
    """Return all files in the object store."""
    found = {}
    for name in await gateway.objects.names():
        size = (await gateway.objects.held(name)).offset
        found[name] = b"".join([piece async for piece in gateway.objects.read(name, size)])
    return found


def form(data: bytes, name: str = "a.wav", declared: str | None = "audio/wav") -> dict[str, Any]:
    return {"file": (name, io.BytesIO(data), declared) if declared else (name, io.BytesIO(data))}


def wav(size: int) -> bytes:
    """Return a file of a size that begins as a recording does."""
    return make.wav(make.tone(0.1)).ljust(size, b"\x55")[:size]


@pytest.mark.req("R-UP-1", "R-UP-3")
async def test_a_file_is_stored_and_handed_over(nats_server: NatsServer) -> None:
    data = wav(900_000)
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()
        answer = await gateway.client.post("/api/uploads?title=Weekly&language=en", files=form(data), headers=who)
        assert answer.status_code == 202, answer.text
        [upload] = gateway.uploads.uploads.values()
        assert answer.json() == {"job_id": upload.job_id, "meeting_id": upload.meeting_id}
        assert answer.headers["location"] == f"/api/jobs/{upload.job_id}"
        assert await stored(gateway) == {upload.id: data}
        [asked] = gateway.uploads.asked
        assert (asked.title, asked.language, asked.file_name, asked.container) == ("Weekly", "en", "a.wav", "wav")
        job = await gateway.client.get(answer.headers["location"], headers=who)
        assert (job.json()["kind"], job.json()["status"]) == ("upload", "running")
        assert (await gateway.client.get(answer.headers["location"], headers=gateway.as_account())).status_code == 404


@pytest.mark.req("R-API-6", "R-UP-1")
async def test_a_file_that_is_sent_again_with_its_key_is_one_recording(nats_server: NatsServer) -> None:
    data = wav(300_000)
    async with receiving(nats_server) as gateway:
        who = gateway.as_account() | {"Idempotency-Key": "mine"}
        first = await gateway.client.put("/api/uploads/a.wav", content=data, headers=who)
        again = await gateway.client.put("/api/uploads/a.wav", content=data, headers=who)
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.json() == first.json()
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        for url, content in (("a.wav", data + b"x"), ("b.wav", data), ("a.wav?title=Other", data)):
            other = await gateway.client.put(f"/api/uploads/{url}", content=content, headers=who)
            assert (other.status_code, problem(other)["error"]) == (422, "validation_failed"), url
        [upload] = gateway.uploads.uploads.values()
        assert await stored(gateway) == {upload.id: data}, "copies are thrown away"
        # The control: without the key each is a recording of its own.
        del who["Idempotency-Key"]
        await gateway.client.put("/api/uploads/a.wav", content=data, headers=who)
        assert len(gateway.uploads.uploads) == 2


@pytest.mark.req("R-API-6", "R-UP-3")
async def test_a_recording_that_is_announced_again_with_its_key_has_one_place(nats_server: NatsServer) -> None:
    async with receiving(nats_server) as gateway:
        who = gateway.as_account() | {
            "Idempotency-Key": "mine",
            "Tus-Resumable": "1.0.0",
            "Upload-Length": "300000",
            "Upload-Metadata": "filename YS53YXY=",
        }
        first = await gateway.client.post("/api/uploads/tus", headers=who)
        again = await gateway.client.post("/api/uploads/tus", headers=who)
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["idempotent-replayed"] == "true"
        other = await gateway.client.post("/api/uploads/tus", headers=who | {"Upload-Length": "300001"})
        assert other.status_code == 422


@pytest.mark.req("R-UP-1")
async def test_a_file_can_be_sent_as_it_is(nats_server: NatsServer) -> None:
    data = wav(300_000)
    async with receiving(nats_server) as gateway:
        url = "/api/uploads/Besprechung%20M%C3%A4rz%201.wav"
        answer = await gateway.client.put(url, content=data, headers=gateway.as_account())
        assert answer.status_code == 202, answer.text
        assert list((await stored(gateway)).values()) == [data]
        assert gateway.uploads.asked[0].file_name == "Besprechung März 1.wav"
        wrong = await gateway.client.put("/api/uploads/a.mp3", content=data, headers=gateway.as_account())
        assert problem(wrong)["error"] == "unsupported_media_type"


@pytest.mark.req("R-UP-2")
async def test_the_corpus_is_refused_at_the_door_as_its_table_says(nats_server: NatsServer) -> None:
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()

        async def answered(specimen: Specimen) -> int:
            files = form(specimen.make(), specimen.name, specimen.declared)
            answer = await gateway.client.post("/api/uploads", files=files, headers=who)
            if answer.status_code != 202:
                assert problem(answer)["details"][0]["field"] == "file"
            return answer.status_code

        wrong = {}
        small = [specimen for specimen in CORPUS if len(specimen.make()) < LIMIT]
        for specimen in small:
            status = await answered(specimen)
            if status != specimen.edge:
                wrong[str(specimen)] = f"{status}, not {specimen.edge}"
        assert wrong == {}
        assert len(small) >= 100
        taken = sum(specimen.edge == 202 for specimen in small)
        assert len(await stored(gateway)) == len(gateway.uploads.uploads) == taken


# -- how much --------------------------------------------------------------------------------------------------------


class Sender:
    """Speaks HTTP by hand, a piece at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.sent = 0

    async def piece(self, data: bytes, *, chunked: bool) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
        await self.writer.drain()
        self.sent += len(data)

    async def answer(self, within_s: float = 5.0) -> tuple[int, bytes]:
        async with asyncio.timeout(within_s):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), head.lower()


@asynccontextmanager
async def sending(gateway: Gateway, head: str) -> AsyncIterator[Sender]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        token = gateway.as_account()["Authorization"]
        writer.write(f"{head}\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode())
        yield Sender(reader, writer)
    finally:
        writer.close()


FORM_HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
FORM = "POST /api/uploads HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b"
RAW = "PUT /api/uploads/a.wav HTTP/1.1"


@pytest.mark.req("R-UP-1")
@pytest.mark.parametrize("way", [FORM, RAW])
async def test_a_file_without_a_length_is_refused_as_soon_as_it_is_too_long(nats_server: NatsServer, way: str) -> None:
    async with receiving(nats_server) as gateway:
        async with sending(gateway, f"{way}\r\nTransfer-Encoding: chunked") as sender:
            data = (FORM_HEAD if way == FORM else b"") + wav(LIMIT)
            for start in range(0, len(data), 16_384):
                await sender.piece(data[start : start + 16_384], chunked=True)
            # All that is allowed has come: nothing is refused yet, and what comes now is too much.
            for _ in range(SLACK // 16_384):
                await sender.piece(bytes(16_384), chunked=True)
            status, head = await sender.answer()
        assert status == 413
        assert b"connection: close" in head
        await settled(gateway)
        assert await stored(gateway) == {}
        assert gateway.uploads.uploads == {}


@pytest.mark.req("R-UP-1")
async def test_a_file_of_just_the_length_that_is_allowed_is_taken(nats_server: NatsServer) -> None:
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()
        taken = await gateway.client.post("/api/uploads", files=form(wav(LIMIT)), headers=who)
        assert taken.status_code == 202, taken.text
        for data in (wav(LIMIT + 1), wav(LIMIT + 200_000)):
            refused = await gateway.client.post("/api/uploads", files=form(data), headers=who)
            assert problem(refused)["error"] == "payload_too_large"
        assert len(await stored(gateway)) == 1


@pytest.mark.req("R-UP-1")
async def test_an_announced_length_is_refused_before_anything_is_read(nats_server: NatsServer) -> None:
    async with receiving(nats_server) as gateway:
        async with sending(gateway, f"{RAW}\r\nContent-Length: {LIMIT * 10}") as sender:
            status, head = await sender.answer()
        assert (status, sender.sent) == (413, 0)
        assert b"connection: close" in head
        assert gateway.uploads.asked == []


@pytest.mark.req("R-UP-1")
async def test_a_length_that_lies_leaves_nothing(nats_server: NatsServer) -> None:
    async with receiving(nats_server, upload_idle_s=0.5) as gateway:
        # Fewer bytes than announced: the client falls silent.
        async with sending(gateway, f"{RAW}\r\nContent-Length: 500000") as sender:
            await sender.piece(wav(100_000), chunked=False)
            assert (await sender.answer())[0] == 400
        # Fewer bytes than announced: the client leaves.
        async with sending(gateway, f"{RAW}\r\nContent-Length: 500000") as sender:
            await sender.piece(wav(100_000), chunked=False)
        # More bytes than announced: what is beyond is no part of the file.
        async with sending(gateway, f"{RAW}\r\nContent-Length: 100000") as sender:
            await sender.piece(wav(200_000), chunked=False)
            assert (await sender.answer())[0] in {202, 400}
        await settled(gateway)
        assert {len(data) for data in (await stored(gateway)).values()} <= {100_000}


async def settled(gateway: Gateway) -> None:
    """Wait until every file that arrived is complete, and all others are forgotten."""
    async with asyncio.timeout(10):
        while any(not upload.job_id for upload in gateway.uploads.uploads.values()) or len(
            await gateway.objects.names()
        ) > len(gateway.uploads.uploads):
            await asyncio.sleep(0.02)


@pytest.mark.req("R-UP-1")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not a form",
        b'--b\r\nContent-Disposition: form-data; name="title"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="other"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n',
        FORM_HEAD + wav(5000),
        FORM_HEAD + wav(5000) + b"\r\n" + FORM_HEAD + wav(5000) + b"\r\n--b--\r\n",
        b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\n--b--\r\n",
        b"--b\r\n\r\nx\r\n--b--\r\n",
    ],
    ids=["empty", "prose", "no-file", "other-name", "without-end", "two-files", "long-header", "no-name"],
)
async def test_forms_that_do_not_hold_are_refused_and_leave_nothing(nats_server: NatsServer, body: bytes) -> None:
    async with receiving(nats_server) as gateway:
        headers = {**gateway.as_account(), "Content-Type": "multipart/form-data; boundary=b"}
        answer = await gateway.client.post("/api/uploads", content=body, headers=headers)
        assert problem(answer)["error"] in {"bad_request", "validation_failed"}
        await settled(gateway)
        assert await stored(gateway) == {}


@pytest.mark.req("R-UP-1")
async def test_what_cannot_be_stored_is_said_and_leaves_nothing(nats_server: NatsServer) -> None:
    async with receiving(nats_server, uploads_at_once_max=1) as gateway:
        who = gateway.as_account()
        gateway.uploads.refusal = AppError(Kind.RATE_LIMIT_EXCEEDED, "Too much is under way.", retry_after_s=60)
        answer = await gateway.client.post("/api/uploads", files=form(wav(5000)), headers=who)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
        gateway.uploads.refusal = None
        gateway.uploads.completion_faults = [AppError(Kind.UNAVAILABLE, "The database does not answer.")]
        answer = await gateway.client.post("/api/uploads", files=form(wav(5000)), headers=who)
        assert answer.status_code == 503
        assert await stored(gateway) == {}
        async with sending(gateway, f"{RAW}\r\nContent-Length: 500000") as sender:
            await sender.piece(wav(100_000), chunked=False)
            async with asyncio.timeout(5):
                while not gateway.uploads.uploads:
                    await asyncio.sleep(0.01)
            busy = await gateway.client.post("/api/uploads", files=form(wav(5000)), headers=who)
            assert problem(busy)["error"] == "service_unavailable"
        no_type = await gateway.client.post("/api/uploads", content=b"x", headers=who)
        assert problem(no_type)["error"] == "unsupported_media_type"


@pytest.mark.req("R-UP-3", "R-HEAL-2")
async def test_a_broker_that_starts_again_in_the_midst_of_a_file_changes_nothing(nats_server: NatsServer) -> None:
    data = wav(4 * MIB)
    async with receiving(nats_server, upload_bytes_max=8 * MIB) as gateway:
        half = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 65_536):
                yield data[start : start + 65_536]
                if start == 2 * MIB:
                    half.set()
                    await asyncio.sleep(0.2)

        sending_it = asyncio.create_task(
            gateway.client.put("/api/uploads/a.wav", content=slowly(), headers=gateway.as_account(), timeout=60)
        )
        await half.wait()
        nats_server.kill()
        nats_server.start()
        answer = await sending_it
        assert answer.status_code == 202, answer.text
        assert list((await stored(gateway)).values()) == [data]


# -- in several requests, with a client of others --------------------------------------------------------------------


def tus(gateway: Gateway, data: bytes, *, who: dict[str, str] | None = None, url: str | None = None) -> Uploader:
    client = TusClient(f"http://127.0.0.1:{gateway.port}/api/uploads/tus", headers=who or gateway.as_account())
    metadata = {"filename": "Weekly.wav", "filetype": "audio/wav", "title": "Weekly", "language": "en"}
    return client.uploader(file_stream=io.BytesIO(data), chunk_size=200_000, metadata=metadata, url=url, retries=0)


@pytest.mark.req("R-UP-3")
async def test_a_client_of_others_sends_a_file_in_pieces_and_goes_on_after_a_break(nats_server: NatsServer) -> None:
    data = wav(900_000)
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()
        uploader = await asyncio.to_thread(tus, gateway, data, who=who)
        await asyncio.to_thread(uploader.upload, stop_at=400_000)
        assert gateway.uploads.asked[0].title == "Weekly"
        assert not next(iter(gateway.uploads.uploads.values())).job_id

        again = await asyncio.to_thread(tus, gateway, data, who=who, url=uploader.url)
        assert again.offset == 400_000
        await asyncio.to_thread(again.upload)
        [upload] = gateway.uploads.uploads.values()
        assert upload.job_id
        assert await stored(gateway) == {upload.id: data}
        assert again.request is not None
        assert again.request.response_headers["verbatim-job-id"] == upload.job_id

        head = await gateway.client.head(str(uploader.url), headers={**who, "Tus-Resumable": "1.0.0"})
        assert (head.headers["upload-offset"], head.headers["verbatim-job-id"]) == ("900000", upload.job_id)
        async with bus.connect(nats_server.url, name="looks", replicas=1) as other:
            store = await other.js.object_store(BUCKET)
            assert (await store.get_info(upload.id)).size == 900_000


SPEAK = {"Tus-Resumable": "1.0.0"}
PATCH = {**SPEAK, "Content-Type": "application/offset+octet-stream"}


async def created(gateway: Gateway, who: dict[str, str], size: int, name: str = "a.wav") -> str:
    metadata = f"filename {base64.b64encode(name.encode()).decode()}"
    headers = {**who, **SPEAK, "Upload-Length": str(size), "Upload-Metadata": metadata}
    answer = await gateway.client.post("/api/uploads/tus", headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["upload-expires"].endswith("GMT")
    return str(answer.headers["location"])


@pytest.mark.req("R-UP-3")
async def test_as_many_bytes_as_came_before_a_break_are_kept(nats_server: NatsServer) -> None:
    data = wav(900_000)
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()
        url = await created(gateway, who, len(data))
        lines = "\r\n".join(f"{name}: {value}" for name, value in PATCH.items())
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        head = f"PATCH {url} HTTP/1.1\r\nHost: x\r\nAuthorization: {who['Authorization']}\r\n{lines}\r\n"
        writer.write(f"{head}Upload-Offset: 0\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data[:700_000])
        await writer.drain()
        writer.close()

        async def offset() -> int:
            answer = await gateway.client.head(url, headers={**who, **SPEAK})
            return int(answer.headers["upload-offset"])

        async with asyncio.timeout(10):
            while await offset() < 700_000:
                await asyncio.sleep(0.02)
        del reader
        rest = {**who, **PATCH, "Upload-Offset": "700000"}
        answer = await gateway.client.patch(url, content=data[700_000:], headers=rest)
        assert answer.status_code == 204, answer.text
        assert list((await stored(gateway)).values()) == [data]


@pytest.mark.req("R-UP-3")
async def test_a_handover_that_failed_is_made_up_for_when_the_client_asks(nats_server: NatsServer) -> None:
    data = wav(5000)
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()
        url = await created(gateway, who, len(data))
        gateway.uploads.completion_faults = [AppError(Kind.UNAVAILABLE, "The database does not answer.")]
        answer = await gateway.client.patch(url, content=data, headers={**who, **PATCH, "Upload-Offset": "0"})
        assert answer.status_code == 503
        assert answer.headers["tus-resumable"] == "1.0.0"
        answer = await gateway.client.head(url, headers={**who, **SPEAK})
        assert (answer.headers["upload-offset"], "verbatim-job-id" in answer.headers) == ("5000", True)
        assert list((await stored(gateway)).values()) == [data]


@pytest.mark.req("R-UP-3", "R-UP-2")
async def test_pieces_that_do_not_fit_are_refused(nats_server: NatsServer) -> None:
    data = wav(10_000)
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()
        url = await created(gateway, who, len(data))

        async def patched(content: bytes, offset: str, **headers: str) -> int:
            sent = {**who, **PATCH, "Upload-Offset": offset, **headers}
            return int((await gateway.client.patch(url, content=content, headers=sent)).status_code)

        assert await patched(data[:6000], "0") == 204
        assert await patched(data[6000:], "5000") == 409
        assert await patched(data[6000:], "x") == 422
        assert await patched(data, "6000") == 413
        assert await patched(data[6000:], "6000", **{"Content-Type": "audio/wav"}) == 415
        assert await patched(data[6000:], "6000", **{"Tus-Resumable": "0.2.1"}) == 412
        assert await patched(data[6000:], "6000") == 204
        assert list((await stored(gateway)).values()) == [data]
        assert (await gateway.client.head(url, headers={**gateway.as_account(), **SPEAK})).status_code == 404
        deleted = await gateway.client.delete(url, headers={**who, **SPEAK})
        assert deleted.status_code == 409


@pytest.mark.req("R-UP-2")
@pytest.mark.parametrize("sizes", [(10_000,), (1000, 9000)])
async def test_a_resumable_file_of_another_kind_is_refused_and_leaves_nothing(
    nats_server: NatsServer, sizes: tuple[int, ...]
) -> None:
    data = b"<html>".ljust(10_000, b" ")
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()
        url = await created(gateway, who, len(data))
        offset, status = 0, 0
        for size in sizes:
            headers = {**who, **PATCH, "Upload-Offset": str(offset)}
            answer = await gateway.client.patch(url, content=data[offset : offset + size], headers=headers)
            status, offset = answer.status_code, offset + size
        assert status == 415
        assert await stored(gateway) == {}
        assert (await gateway.client.head(url, headers={**who, **SPEAK})).status_code == 404


@pytest.mark.req("R-UP-3")
async def test_a_resumable_file_can_be_given_up(nats_server: NatsServer) -> None:
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()
        url = await created(gateway, who, 10_000)
        await gateway.client.patch(url, content=wav(10_000)[:500], headers={**who, **PATCH, "Upload-Offset": "0"})
        assert len(await stored(gateway)) == 1
        assert (await gateway.client.delete(url, headers={**who, **SPEAK})).status_code == 204
        assert await stored(gateway) == {}


@pytest.mark.req("R-UP-1", "R-UP-2")
async def test_what_is_announced_is_checked_before_a_byte_comes(nats_server: NatsServer) -> None:
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()
        told = await gateway.client.options("/api/uploads/tus")
        assert told.headers["tus-extension"] == "creation,expiration,termination"
        assert told.headers["tus-max-size"] == str(LIMIT)

        async def status(size: object, metadata: str) -> int:
            headers = {**who, **SPEAK, "Upload-Length": str(size), "Upload-Metadata": metadata}
            return int((await gateway.client.post("/api/uploads/tus", headers=headers)).status_code)

        good = "filename YS53YXY="  # a.wav
        assert await status(LIMIT + 1, good) == 413
        assert await status(0, good) == 422
        assert await status(-1, good) == 422
        assert await status(100, "filename YS50eHQ=") == 415  # a.txt
        assert await status(100, "filename ***") == 422
        assert await status(100, f"{good},meeting_id eA==") == 422  # x
        assert await status(100, f"{good},filetype aW1hZ2UvcG5n") == 415  # image/png
        assert gateway.uploads.asked == []
        with pytest.raises((TusCommunicationError, TusUploadFailed)):
            await asyncio.to_thread(tus(gateway, wav(LIMIT + 1)).upload)


@pytest.mark.req("R-RES-3", "R-UP-1")
async def test_while_a_disk_is_full_files_are_refused_politely_and_then_let_in(nats_server: NatsServer) -> None:
    data = wav(100_000)
    async with receiving(nats_server) as gateway:
        who = gateway.as_account()
        head = {**who, "Tus-Resumable": "1.0.0", "Upload-Length": str(len(data))}
        head["Upload-Metadata"] = f"filename {base64.b64encode(b'a.wav').decode()}"
        place = (await gateway.client.post("/api/uploads/tus", headers=head)).headers["location"]
        go_on = {
            **who,
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
        }
        calls: list[Callable[[], Awaitable[httpx2.Response]]] = [
            lambda: gateway.client.post("/api/uploads", files=form(data), headers=who),
            lambda: gateway.client.put("/api/uploads/a.wav", content=data, headers=who),
            lambda: gateway.client.post("/api/uploads/tus", headers=head),
            lambda: gateway.client.patch(place, content=data, headers=go_on),
        ]
        gateway.full = True
        for call in calls:
            answer = await call()
            assert (answer.status_code, problem(answer)["error"]) == (507, "insufficient_storage")
            assert answer.headers["retry-after"] == "60"
        assert await stored(gateway) == {}
        gateway.full = False
        assert [(await call()).status_code for call in calls] == [202, 202, 201, 204]
