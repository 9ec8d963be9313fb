from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
import pytest
from verbatim.meetings.v1 import accounts_pb2 as accounts_pb
from verbatim.meetings.v1 import meetings_pb2 as meetings_pb
from verbatim.meetings.v1 import tasks_pb2 as tasks_pb
from verbatim.meetings.v1.accounts_pb2_grpc import AccountsServiceStub, add_AccountsServiceServicer_to_server
from verbatim.meetings.v1.api_keys_pb2_grpc import add_ApiKeysServiceServicer_to_server
from verbatim.meetings.v1.logins_pb2_grpc import add_LoginsServiceServicer_to_server
from verbatim.meetings.v1.meetings_pb2_grpc import MeetingsServiceStub, add_MeetingsServiceServicer_to_server
from verbatim.meetings.v1.tasks_pb2_grpc import TasksServiceStub, add_TasksServiceServicer_to_server

from chassis import ids, rpc
from chassis.errors import AppError, Kind, Problem
from chassis.idempotency import IdempotencyKeys
from chassis.postgres import Database
from chassis.rpc import Identity, Peer, Server
from services.meetings.accounts_api import AccountsApi, ApiKeysApi, LoginsApi
from services.meetings.accounts_store import AccountsStore
from services.meetings.api import MeetingsApi, TasksApi
from services.meetings.api_keys_store import ApiKeysStore
from services.meetings.entries_store import EntriesStore
from services.meetings.export import PIECE_BYTES
from services.meetings.login import Login
from services.meetings.logins_store import LoginsStore
from services.meetings.meetings_store import MeetingsStore
from services.meetings.segments_store import SegmentsStore
from services.meetings.tasks_store import TasksStore
from services.meetings.tests.conftest import KEY, Calendar
from services.meetings.tests.logbook import Logbook, meeting_log, numbered
from services.meetings.transcript_store import TranscriptStore

WITHIN_S = 10.0


@pytest.fixture
async def server(  # noqa: PLR0917
    accounts: AccountsStore, meetings: MeetingsStore, segments: SegmentsStore, tasks: TasksStore,
    entries: EntriesStore, keys: IdempotencyKeys, login: Login, logins: LoginsStore, api_keys: ApiKeysStore,
    database: Database, calendar: Calendar,
) -> AsyncIterator[Server]:  # fmt: skip
    opened = Server("127.0.0.1", 0, Identity("meetings", KEY))
    opened.add(add_AccountsServiceServicer_to_server, AccountsApi(login, accounts, calendar))
    opened.add(add_ApiKeysServiceServicer_to_server, ApiKeysApi(api_keys, accounts, keys, b"a secret", calendar))
    opened.add(add_LoginsServiceServicer_to_server, LoginsApi(logins, database, calendar))
    opened.add(add_MeetingsServiceServicer_to_server, MeetingsApi(meetings, segments, entries, keys))
    opened.add(add_TasksServiceServicer_to_server, TasksApi(tasks, keys))
    await opened.start()
    yield opened
    await opened.stop(0)


@pytest.fixture
async def peer(server: Server) -> AsyncIterator[Peer]:
    async with rpc.peer(f"127.0.0.1:{server.port}", Identity("gateway", KEY)) as opened:
        yield opened


async def refused(peer: Peer, method: object, request: object) -> AppError:
    with pytest.raises(AppError) as caught:
        await peer.call(method, request, timeout_s=WITHIN_S)  # type: ignore[arg-type]
    return caught.value


async def exported(peer: Peer, owner: str, meeting_id: str, form: meetings_pb.ExportFormat.ValueType) -> list[bytes]:
    request = meetings_pb.ExportMeetingRequest(owner_id=owner, meeting_id=meeting_id, format=form)
    stub = MeetingsServiceStub(peer.channel)
    return [answer.piece async for answer in stub.ExportMeeting(request, metadata=peer.metadata(), timeout=WITHIN_S)]


@pytest.mark.req("R-AUTH-1")
async def test_account_lives_its_life_over_the_wire(peer: Peer) -> None:
    stub = AccountsServiceStub(peer.channel)
    register = accounts_pb.RegisterRequest(email="ann@example.com", username="ann", password="12345678")
    account = (await peer.call(stub.Register, register, timeout_s=WITHIN_S)).account
    login = accounts_pb.LoginRequest(email="ann@example.com", password="12345678")
    tokens = (await peer.call(stub.Login, login, timeout_s=WITHIN_S)).tokens
    refresh = accounts_pb.RefreshRequest(refresh_token=tokens.refresh_token)
    renewed = (await peer.call(stub.Refresh, refresh, timeout_s=WITHIN_S)).tokens
    assert renewed.expires_in_s == 900
    logout = accounts_pb.LogoutRequest(refresh_token=renewed.refresh_token)
    await peer.call(stub.Logout, logout, timeout_s=WITHIN_S)
    error = await refused(peer, stub.Refresh, accounts_pb.RefreshRequest(refresh_token=renewed.refresh_token))
    assert error.kind == Kind.UNAUTHORIZED
    found = await peer.call(stub.GetAccount, accounts_pb.GetAccountRequest(account_id=account.id), timeout_s=WITHIN_S)
    assert found.account == account
    for unknown in (ids.new_id(), "no id", ""):
        error = await refused(peer, stub.GetAccount, accounts_pb.GetAccountRequest(account_id=unknown))
        assert error.kind == Kind.NOT_FOUND


@pytest.mark.req("R-ERR-1")
async def test_errors_cross_the_wire_whole(peer: Peer, owner: str) -> None:
    stub = MeetingsServiceStub(peer.channel)
    error = await refused(peer, stub.CreateMeeting, meetings_pb.CreateMeetingRequest(owner_id=owner, title=" "))
    assert error.kind == Kind.VALIDATION_FAILED
    assert error.details == (Problem("meeting_id", "must be a UUID"), Problem("title", "must not be empty"))
    create = meetings_pb.CreateMeetingRequest(owner_id=owner, meeting_id=ids.new_id(), title="Plan")
    made = (await peer.call(stub.CreateMeeting, create, timeout_s=WITHIN_S)).meeting
    update = meetings_pb.UpdateMeetingRequest(owner_id=owner, meeting_id=made.id, expected_version=1, title="New")
    await peer.call(stub.UpdateMeeting, update, timeout_s=WITHIN_S)
    error = await refused(peer, stub.UpdateMeeting, update)
    assert (error.kind, error.version) == (Kind.PRECONDITION_FAILED, 2)
    many = meetings_pb.ListMeetingsRequest(owner_id=owner, limit=201)
    assert (await refused(peer, stub.ListMeetings, many)).details == (Problem("limit", "must be from 1 to 200"),)


@pytest.mark.req("R-SVC-6")
async def test_caller_without_the_shared_key_is_refused(server: Server, owner: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await MeetingsServiceStub(channel).ListMeetings(meetings_pb.ListMeetingsRequest(owner_id=owner))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.req("R-API-1")
async def test_meeting_lives_its_life_over_the_wire(peer: Peer, transcripts: TranscriptStore, owner: str) -> None:
    stub = MeetingsServiceStub(peer.channel)
    log = meeting_log(owner)
    await transcripts.apply(numbered(log.entries))
    get = meetings_pb.GetMeetingRequest(owner_id=owner, meeting_id=log.meeting_id)
    meeting = (await peer.call(stub.GetMeeting, get, timeout_s=WITHIN_S)).meeting
    assert (meeting.status, meeting.segments, meeting.draft_segments) == ("completed", 4, 1)
    assert meeting.HasField("coverage")
    assert meeting.started_at.ToJsonString() == "2026-11-23T12:00:00Z"
    request = meetings_pb.ListSegmentsRequest(owner_id=owner, meeting_id=log.meeting_id, limit=3)
    page = await peer.call(stub.ListSegments, request, timeout_s=WITHIN_S)
    request.cursor = page.next_cursor
    rest = await peer.call(stub.ListSegments, request, timeout_s=WITHIN_S)
    assert [segment.index for segment in [*page.segments, *rest.segments]] == [0, 1, 2, 3]
    assert rest.next_cursor == ""
    update = meetings_pb.UpdateMeetingRequest(owner_id=owner, meeting_id=log.meeting_id, expected_version=1)
    update.participants.names.extend(["Ann", "Ben"])
    changed = (await peer.call(stub.UpdateMeeting, update, timeout_s=WITHIN_S)).meeting
    assert (list(changed.participants), changed.title, changed.version) == (["Ann", "Ben"], "Weekly", 2)
    query = meetings_pb.ListMeetingsRequest(owner_id=owner, query="friday")
    assert [m.id for m in (await peer.call(stub.ListMeetings, query, timeout_s=WITHIN_S)).meetings] == [log.meeting_id]
    getattr(query, "from").FromJsonString("2027-01-01T00:00:00Z")
    assert list((await peer.call(stub.ListMeetings, query, timeout_s=WITHIN_S)).meetings) == []
    delete = meetings_pb.DeleteMeetingRequest(owner_id=owner, meeting_id=log.meeting_id, expected_version=2)
    await peer.call(stub.DeleteMeeting, delete, timeout_s=WITHIN_S)
    assert (await refused(peer, stub.GetMeeting, get)).kind == Kind.NOT_FOUND


@pytest.mark.req("R-AUTH-2")
async def test_another_owner_finds_nothing_over_the_wire(peer: Peer, transcripts: TranscriptStore, owner: str) -> None:
    log = meeting_log(owner)
    await transcripts.apply(numbered(log.entries))
    other, stub = ids.new_id(), MeetingsServiceStub(peer.channel)
    theirs = log.meeting_id
    for method, request in (
        (stub.GetMeeting, meetings_pb.GetMeetingRequest(owner_id=other, meeting_id=theirs)),
        (stub.ListSegments, meetings_pb.ListSegmentsRequest(owner_id=other, meeting_id=theirs)),
        (
            stub.UpdateMeeting,
            meetings_pb.UpdateMeetingRequest(owner_id=other, meeting_id=theirs, expected_version=1, title="Mine"),
        ),
        (stub.DeleteMeeting, meetings_pb.DeleteMeetingRequest(owner_id=other, meeting_id=theirs, expected_version=1)),
    ):
        fault = await refused(peer, method, request)
        assert fault.kind == Kind.NOT_FOUND, (method, str(fault))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await exported(peer, other, log.meeting_id, meetings_pb.EXPORT_FORMAT_TXT)
    assert rpc.app_error(caught.value, "meetings").kind == Kind.NOT_FOUND


@pytest.mark.req("R-API-1")
async def test_long_export_comes_in_small_pieces_and_whole(
    peer: Peer, transcripts: TranscriptStore, owner: str
) -> None:
    log = Logbook(owner)
    for number in range(1203):
        log.say(f"{number} " + "word " * 40)
    await transcripts.apply(numbered(log.entries))
    for form in (f for f in meetings_pb.ExportFormat.values() if f):
        pieces = await exported(peer, owner, log.meeting_id, form)
        text = b"".join(pieces).decode()
        assert len(pieces) > 3
        assert max(map(len, pieces)) <= PIECE_BYTES
        places = [text.index(f"{number} word") for number in range(1203)]
        assert places == sorted(places)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await exported(peer, owner, log.meeting_id, meetings_pb.EXPORT_FORMAT_UNSPECIFIED)
    assert rpc.app_error(caught.value, "meetings").details[0].field == "format"


async def test_export_that_is_given_up_leaves_no_connection_taken(
    peer: Peer, transcripts: TranscriptStore, database: object, owner: str
) -> None:
    log = Logbook(owner)
    for _ in range(600):
        log.say("word " * 500)
    await transcripts.apply(numbered(log.entries))
    request = meetings_pb.ExportMeetingRequest(
        owner_id=owner, meeting_id=log.meeting_id, format=meetings_pb.EXPORT_FORMAT_TXT
    )
    for _ in range(30):
        call = MeetingsServiceStub(peer.channel).ExportMeeting(request, metadata=peer.metadata())
        async with aclosing(aiter(call)) as pieces:  # type: ignore[type-var]
            await anext(pieces)
        call.cancel()
    assert await exported(peer, owner, log.meeting_id, meetings_pb.EXPORT_FORMAT_TXT)


@pytest.mark.req("R-API-2")
async def test_task_lives_its_life_over_the_wire(peer: Peer, owner: str) -> None:
    stub = TasksServiceStub(peer.channel)
    create = tasks_pb.CreateTaskRequest(owner_id=owner, task_id=ids.new_id(), title="Report", due="2026-11-27")
    task = (await peer.call(stub.CreateTask, create, timeout_s=WITHIN_S)).task
    assert (task.due, task.status, task.version, task.meeting_id) == ("2026-11-27", "open", 1, "")
    update = tasks_pb.UpdateTaskRequest(owner_id=owner, task_id=task.id, expected_version=1, status="done", due="")
    done = (await peer.call(stub.UpdateTask, update, timeout_s=WITHIN_S)).task
    assert (done.due, done.status, done.version) == ("", "done", 2)
    listed = tasks_pb.ListTasksRequest(owner_id=owner, status="done")
    assert list((await peer.call(stub.ListTasks, listed, timeout_s=WITHIN_S)).tasks) == [done]
    get = tasks_pb.GetTaskRequest(owner_id=owner, task_id=task.id)
    assert (await peer.call(stub.GetTask, get, timeout_s=WITHIN_S)).task == done
    old = tasks_pb.DeleteTaskRequest(owner_id=owner, task_id=task.id, expected_version=1)
    assert (await refused(peer, stub.DeleteTask, old)).version == 2
    delete = tasks_pb.DeleteTaskRequest(owner_id=owner, task_id=task.id, expected_version=2)
    await peer.call(stub.DeleteTask, delete, timeout_s=WITHIN_S)
    assert (await refused(peer, stub.GetTask, get)).kind == Kind.NOT_FOUND
