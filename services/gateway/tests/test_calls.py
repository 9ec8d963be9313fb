"""What crosses a gRPC call besides its messages: who calls, and what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import copy_context
from typing import Any

import grpc
import pytest
from verbatim.meetings.v1 import accounts_pb2, accounts_pb2_grpc, meetings_pb2, meetings_pb2_grpc

from chassis.errors import AppError, Kind
from chassis.rpc import Identity, Peer, Server
from chassis.second_try import SecondTry

KEY = "k" * 32


class Accounts(accounts_pb2_grpc.AccountsServiceServicer):
    async def Login(self, _: accounts_pb2.LoginRequest, __: object) -> accounts_pb2.LoginResponse:  # noqa: N802
        raise AppError(Kind.UNAUTHORIZED, "The address or the password is wrong.")


class Meetings(meetings_pb2_grpc.MeetingsServiceServicer):
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.left = asyncio.Event()
        self.left_in_its_own_context = False

    async def GetMeeting(  # noqa: N802
        self, request: meetings_pb2.GetMeetingRequest, context: Any
    ) -> meetings_pb2.GetMeetingResponse:
        await self._answer(request.meeting_id, context)
        return meetings_pb2.GetMeetingResponse()

    async def DeleteMeeting(  # noqa: N802
        self, request: meetings_pb2.DeleteMeetingRequest, context: Any
    ) -> meetings_pb2.DeleteMeetingResponse:
        await self._answer(request.meeting_id, context)
        return meetings_pb2.DeleteMeetingResponse()

    async def _answer(self, wanted: str, context: Any) -> None:
        """Answer; the first of those who ask for "broken" gets what a broken connection gives, without our trailer."""
        self.asked.append(wanted)
        await asyncio.sleep(0.005)
        if wanted == "broken" and self.asked.count(wanted) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
        if wanted == "refused":
            raise AppError(Kind.UNAVAILABLE, "The database does not answer.")

    async def ExportMeeting(  # noqa: N802
        self, request: meetings_pb2.ExportMeetingRequest, __: object
    ) -> AsyncIterator[meetings_pb2.ExportMeetingResponse]:
        if request.meeting_id == "endless":
            mine = dict(copy_context().items())
            try:
                while True:
                    yield meetings_pb2.ExportMeetingResponse(piece=bytes(64 * 1024))
            finally:
                self.left_in_its_own_context = dict(copy_context().items()) == mine
                self.left.set()
        yield meetings_pb2.ExportMeetingResponse(piece=b"one")
        if request.meeting_id == "broken":
            raise AppError(Kind.UNAVAILABLE, "The database does not answer.")
        yield meetings_pb2.ExportMeetingResponse(piece=b"two")


@pytest.fixture
def meetings() -> Meetings:
    return Meetings()  # type: ignore[abstract]  # only what is tested


async def serving(meetings: Meetings, port: int = 0) -> Server:
    server = Server("127.0.0.1", port, Identity("meetings", KEY))
    server.add(accounts_pb2_grpc.add_AccountsServiceServicer_to_server, Accounts())  # type: ignore[abstract]  # only what is tested
    server.add(meetings_pb2_grpc.add_MeetingsServiceServicer_to_server, meetings)
    await server.start()
    return server


@pytest.fixture
async def server(meetings: Meetings) -> AsyncIterator[Server]:
    server = await serving(meetings)
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


@pytest.mark.req("R-WS-8", "R-SVC-6")
@pytest.mark.parametrize("read", [0, 1, 40])
async def test_a_stream_whose_caller_leaves_is_over_at_once_and_where_it_began(
    server: Server, meetings: Meetings, read: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left while its last message was being sent, the handler was ended by the garbage collector: late, in another
    context (`ValueError: <Token …> was created in a different Context`), and the session kept its client meanwhile."""
    mishaps: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, mishap: mishaps.append(mishap))
    door = Peer(f"127.0.0.1:{server.port}", Identity("gateway", KEY))
    stub = meetings_pb2_grpc.MeetingsServiceStub(door.channel)
    call = stub.ExportMeeting(
        meetings_pb2.ExportMeetingRequest(meeting_id="endless"), timeout=30, metadata=door.metadata()
    )
    await call.wait_for_connection()
    for _ in range(read):
        await call.read()
    await asyncio.sleep(0.05)  # until the caller's window is full, and the handler waits in the midst of sending
    call.cancel()
    async with asyncio.timeout(2):
        await meetings.left.wait()
    assert meetings.left_in_its_own_context
    assert mishaps == []
    assert "stream failed" not in capsys.readouterr().out
    await door.close()


@pytest.mark.req("R-HEAL-2")
async def test_a_read_that_met_a_broken_connection_is_asked_once_more_and_nothing_else_is(
    server: Server, meetings: Meetings
) -> None:
    door = Peer(f"127.0.0.1:{server.port}", Identity("gateway", KEY))
    stub = meetings_pb2_grpc.MeetingsServiceStub(door.channel)

    async def get(meeting_id: str) -> None:
        await door.call(stub.GetMeeting, meetings_pb2.GetMeetingRequest(meeting_id=meeting_id), timeout_s=5)

    await get("broken")
    assert meetings.asked == ["broken", "broken"]
    with pytest.raises(AppError):
        await get("refused")  # the peer has answered: that it cannot
    assert meetings.asked.count("refused") == 1
    meetings.asked.clear()
    with pytest.raises(AppError) as caught:
        await door.call(stub.DeleteMeeting, meetings_pb2.DeleteMeetingRequest(meeting_id="broken"), timeout_s=5)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert meetings.asked == ["broken"]  # it may have happened
    await door.close()


@pytest.mark.req("R-HEAL-2")
async def test_second_tries_are_few_when_much_is_broken() -> None:
    method, broken = "/verbatim.meetings.v1.MeetingsService/GetMeeting", grpc.StatusCode.UNAVAILABLE
    tries = SecondTry()
    assert sum(tries.allows(method, broken) for _ in range(100)) == 10
    for _ in range(100):
        tries.earn()
    assert sum(tries.allows(method, broken) for _ in range(100)) == 10
    assert not SecondTry().allows(method, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert not SecondTry().allows("/verbatim.meetings.v1.MeetingsService/CreateMeeting", broken)
    assert not SecondTry().allows("unknown", broken)


async def both_are_asked(replicas: list[Meetings]) -> None:
    for replica in replicas:
        replica.asked.clear()
    async with asyncio.timeout(20):
        while not all(len(replica.asked) > 50 for replica in replicas):
            await asyncio.sleep(0.01)


@pytest.mark.req("R-SVC-7", "R-RUN-4")
@pytest.mark.parametrize("told", [True, False], ids=["callers are told", "control: callers are not told"])
async def test_no_call_fails_while_replicas_restart_one_by_one(*, told: bool) -> None:
    """A replica that stopped cancelled what arrived in that moment; also what may not be asked twice."""
    meetings = [Meetings(), Meetings()]  # type: ignore[abstract]
    replicas = [await serving(one) for one in meetings]
    target = "ipv4:" + ",".join(f"127.0.0.1:{replica.port}" for replica in replicas)
    door = Peer(target, Identity("gateway", KEY))
    stub = meetings_pb2_grpc.MeetingsServiceStub(door.channel)
    failures: list[str] = []
    enough = asyncio.Event()

    async def ask() -> None:
        while not enough.is_set():
            try:
                await door.call(stub.DeleteMeeting, meetings_pb2.DeleteMeetingRequest(meeting_id="one"), timeout_s=5)
            except AppError as error:
                failures.append(str(error))

    asking = [asyncio.create_task(ask()) for _ in range(20)]
    for place in (0, 1, 0, 1):
        await both_are_asked(meetings)
        if told:
            await replicas[place].retire()
        port = replicas[place].port
        await replicas[place].stop(2.0)
        replicas[place] = await serving(meetings[place], port)
    enough.set()
    await asyncio.gather(*asking)
    await door.close()
    for replica in replicas:
        await replica.stop(0)
    assert bool(failures) is not told


@pytest.mark.req("R-ERR-1")
@pytest.mark.parametrize("kind", [Kind.BAD_GATEWAY, Kind.UNAVAILABLE, Kind.TIMEOUT])
def test_what_may_pass_by_itself_says_when_to_try_again(kind: Kind) -> None:
    assert AppError(kind, "Later.").retry_after_s == 1.0
