"""The transcriber process: start, ready, drain, stop."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from nats.aio.msg import Msg
from verbatim.transcriber.v1 import transcriber_pb2_grpc

from chassis import bus, lifecycle, rpc
from chassis.jobs import JOBS
from chassis.lifecycle import Lifecycle
from chassis.settings import load
from services.transcriber.aftercare import Aftercare
from services.transcriber.api import TranscriberService
from services.transcriber.captions import Captions
from services.transcriber.cutting import CuttingSettings
from services.transcriber.heal_jobs import HealJobs, HealJobSettings
from services.transcriber.logs import AudioLog, TranscriptLog, streams
from services.transcriber.recognition import Recogniser
from services.transcriber.session import LiveSession, Ports, SessionSettings
from services.transcriber.sessions import Sessions
from services.transcriber.settings import Settings
from services.transcriber.speech import OpenAISpeech, SpeechEngine
from services.transcriber.sphinx import PocketSphinxSpeech
from services.transcriber.transcript import BYTES_PER_SECOND


async def start(
    settings: Settings,
    life: Lifecycle,
    *,
    transcript_log: type[TranscriptLog] = TranscriptLog,
    audio_log: type[AudioLog] = AudioLog,
    live_session: type[LiveSession] = LiveSession,
) -> None:
    """Connect, serve until told to stop, hand the sessions over.

    The fault tests leave a defence out by a class of their own, to see that its absence is noticed.
    """
    engines = _engines(settings)
    for engine in engines:
        life.exits.push_async_callback(engine.close)
        await engine.start()

    broker = await life.exits.enter_async_context(
        bus.connect(settings.nats_url, name=life.replica, replicas=settings.nats_replicas)
    )
    for stream in (*streams(settings.audio_log_bytes, settings.transcript_log_bytes, settings.log_age_s), JOBS):
        await broker.declare(stream)
    audio = audio_log(broker, coalesce_s=settings.audio_coalesce_s)
    captions = Captions(broker.client.publish)
    concurrency = settings.speech_concurrency if len(engines) > 1 else settings.embedded_workers
    recogniser = Recogniser(engines, concurrency=concurrency, deadline_s_max=settings.speech_deadline_s)
    transcripts = transcript_log(broker)
    aftercare = Aftercare(transcripts, audio, recogniser, life.replica)
    heal_jobs = HealJobs(broker, aftercare, HealJobSettings(concurrency=settings.heal_sessions))
    ports = Ports(
        transcripts=transcripts,
        audio=audio,
        recogniser=recogniser,
        announce=broker.client.publish,
        captions=captions,
        replica=life.replica,
        clock=time.monotonic,
        ask_to_heal=heal_jobs.ask,
    )
    sessions = Sessions(
        ports, _session_settings(settings), sessions_max=settings.sessions_max, live_session=live_session
    )
    await broker.client.subscribe("stored.*", cb=_on_message(sessions.note_stored))
    await broker.client.subscribe("sessions.adopted", cb=_on_message(sessions.note_adopted))
    life.spawn(broker.until_closed(), "broker")
    life.spawn(audio.run(), "audio log")
    life.spawn(captions.run(), "captions")
    life.spawn(sessions.run(), "sessions")
    life.spawn(heal_jobs.run(), "healing")

    server = rpc.Server(
        settings.grpc_host, settings.grpc_port,
        rpc.Identity("transcriber", settings.service_auth_key.get_secret_value()),
    )  # fmt: skip
    service = TranscriberService(sessions, aftercare, heal_jobs)
    server.add(transcriber_pb2_grpc.add_TranscriberServiceServicer_to_server, service)
    await server.start()
    life.require("nats", broker.ping)
    life.ready()

    await life.until_stop()
    await server.retire()
    service.retire()
    await sessions.drain(settings.drain_s * 0.6)
    service.hang_up()
    await server.stop(settings.drain_s * 0.2)


def _engines(settings: Settings) -> list[SpeechEngine]:
    """Return the engines, best first; the embedded one is always last."""
    embedded = PocketSphinxSpeech(workers=settings.embedded_workers, memory_limit_bytes=settings.embedded_memory_bytes)
    if settings.openai_api_key is None:
        return [embedded]
    api = OpenAISpeech(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        model=settings.whisper_model,
    )
    return [api, embedded]


def _session_settings(settings: Settings) -> SessionSettings:
    return SessionSettings(
        window_bytes=int(settings.window_s * BYTES_PER_SECOND),
        backlog_hold_s=settings.backlog_hold_s,
        partial_every_s=settings.partial_every_s,
        parallel_utterances=settings.parallel_utterances,
        idle_s=settings.session_idle_s,
        cutting=CuttingSettings(
            end_silence_ms=settings.end_silence_ms,
            soft_cap_ms=settings.soft_cap_ms,
            hard_cap_ms=settings.hard_cap_ms,
        ),
    )


def _on_message(handle: Callable[[bytes], None]) -> Callable[[Msg], Awaitable[None]]:
    async def callback(message: Msg) -> None:
        handle(message.data)

    return callback


def main() -> None:
    """Run the service."""
    settings = load(Settings)
    Path(settings.verbatim_data_dir).mkdir(parents=True, exist_ok=True)
    lifecycle.run("transcriber", settings, partial(start, settings))


if __name__ == "__main__":
    main()
