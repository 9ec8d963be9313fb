"""Files that nobody needs are removed from the object store, and no others."""

from __future__ import annotations

import time
from typing import Any

import pytest
from verbatim.meetings.v1 import uploads_pb2 as pb
from verbatim.meetings.v1 import uploads_pb2_grpc

from chassis import bus, ids
from chassis.errors import AppError
from chassis.objects import Held, Objects
from chassis.rpc import Identity, Server, peer
from chassis.tests.servers import NatsServer
from services.janitor.uploaded import BUCKET, UploadRows, old_names, remove_orphans

pytestmark = pytest.mark.req("R-SVC-5", "R-UP-2")

KEY = "a key that only these tests have ......."


class Rows(uploads_pb2_grpc.UploadsServiceServicer):
    """Needs some of the files."""

    def __init__(self, needed: set[str]) -> None:
        self.needed = needed
        self.asked: list[list[str]] = []

    async def FilterUploads(self, request: pb.FilterUploadsRequest, _: Any) -> pb.FilterUploadsResponse:  # noqa: N802
        self.asked.append(list(request.upload_ids))
        return pb.FilterUploadsResponse(upload_ids=self.needed & set(request.upload_ids))


def test_the_age_of_a_file_is_in_its_name() -> None:
    now = time.time()
    young, strange = ids.new_id(), "not-an-id"
    assert old_names([young, strange], now_s=now + 10, age_s=3600) == [strange]
    assert old_names([young, strange], now_s=now + 4000, age_s=3600) == [strange, young]


async def test_only_old_files_that_nobody_needs_are_removed(nats_server: NatsServer) -> None:
    needed, orphan, strange = ids.new_id(), ids.new_id(), "strange"
    rows = Rows({needed})  # type: ignore[abstract]
    server = Server("127.0.0.1", 0, Identity("meetings", KEY))
    server.add(uploads_pb2_grpc.add_UploadsServiceServicer_to_server, rows)
    await server.start()
    try:
        async with (
            bus.connect(nats_server.url, name="test", replicas=1) as broker,
            peer(f"127.0.0.1:{server.port}", Identity("janitor", KEY)) as meetings,
        ):
            objects, door = Objects(lambda: broker, BUCKET), UploadRows(meetings)
            await broker.declare(objects.stream(1024**2))
            for name in (needed, orphan, strange):
                await objects.append(name, Held(), b"content")
            await remove_orphans(objects, door, age_s=3600, most=10)
            assert await objects.names() == sorted([needed, orphan])
            await remove_orphans(objects, door, age_s=0, most=10)
            assert await objects.names() == [needed]
            # Whoever cannot be asked may need every one of them.
            await server.stop(0)
            with pytest.raises(AppError):
                await remove_orphans(objects, door, age_s=0, most=10)
            assert await objects.names() == [needed]
    finally:
        await server.stop(0)
