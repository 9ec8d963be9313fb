"""What crosses a gRPC call besides its messages: who calls, and what went wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from verbatim.meetings.v1 import accounts_pb2, accounts_pb2_grpc, meetings_pb2, meetings_pb2_grpc

from chassis.errors import AppError, Kind
from chassis.rpc import Identity, Peer, Server

KEY = "k" * 32


class Accounts(accounts_pb2_grpc.AccountsServiceServicer):
    async def Login(self, _: accounts_pb2.LoginRequest, __: object) -> accounts_pb2.LoginResponse:  # noqa: N802
        raise AppError(Kind.UNAUTHORIZED, "The address or the password is wrong.")


class Meetings(meetings_pb2_grpc.MeetingsServiceServicer):
    async def ExportMeeting(  # noqa: N802
        self, request: meetings_pb2.ExportMeetingRequest, __: object
    ) -> AsyncIterator[meetings_pb2.ExportMeetingResponse]:
        yield meetings_pb2.ExportMeetingResponse(piece=b"one")
        if request.meeting_id == "broken":
            raise AppError(Kind.UNAVAILABLE, "The database does not answer.")
        yield meetings_pb2.ExportMeetingResponse(piece=b"two")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server("127.0.0.1", 0, Identity("meetings", KEY))
    server.add(accounts_pb2_grpc.add_AccountsServiceServicer_to_server, Accounts())  # type: ignore[abstract]  # only what is tested
    server.add(meetings_pb2_grpc.add_MeetingsServiceServicer_to_server, Meetings())  # type: ignore[abstract]
    await server.start()
    yield server
    await server.stop(0)


async def login(server: Server, key: str) -> AppError:
    door = Peer(f"127.0.0.1:{server.port}", Identity("gateway", key))
    stub = accounts_pb2_grpc.AccountsServiceStub(door.channel)
    with pytest.raises(AppError) as caught:
        await door.call(stub.Login, accounts_pb2.LoginRequest(), timeout_s=5)
    await door.close()
    return caught.value


@pytest.mark.req("R-SVC-6")
async def test_a_persons_wrong_password_stays_their_fault(server: Server) -> None:
    assert (await login(server, KEY)).kind is Kind.UNAUTHORIZED


@pytest.mark.req("R-SVC-6")
async def test_a_service_with_the_wrong_key_is_not_told_that_its_clients_token_is_bad(server: Server) -> None:
    """The refusal travelled as UNAUTHORIZED, so a wrong SERVICE_AUTH_KEY logged every user out."""
    error = await login(server, "x" * 32)
    assert error.kind is Kind.INTERNAL
    assert isinstance(error.__cause__, grpc.aio.AioRpcError)
    assert error.__cause__.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.req("R-ERR-1")
async def test_a_stream_yields_its_messages_and_then_the_peers_own_error(server: Server) -> None:
    door = Peer(f"127.0.0.1:{server.port}", Identity("gateway", KEY))
    stub = meetings_pb2_grpc.MeetingsServiceStub(door.channel)

    async def pieces(meeting_id: str) -> list[bytes]:
        request = meetings_pb2.ExportMeetingRequest(meeting_id=meeting_id)
        return [answer.piece async for answer in door.stream(stub.ExportMeeting, request, timeout_s=5)]

    assert await pieces("whole") == [b"one", b"two"]
    with pytest.raises(AppError) as caught:
        await pieces("broken")
    assert caught.value.kind is Kind.UNAVAILABLE
    await door.close()


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize("kind", [Kind.BAD_GATEWAY, Kind.UNAVAILABLE, Kind.TIMEOUT])
def test_what_may_pass_by_itself_says_when_to_try_again(kind: Kind) -> None:
    assert AppError(kind, "Later.").retry_after_s == 1.0
