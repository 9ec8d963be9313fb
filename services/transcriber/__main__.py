"""The transcriber process: start, ready, drain, stop."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from nats.aio.msg import Msg
from verbatim.transcriber.v1 import recordings_pb2_grpc, transcriber_pb2_grpc

from chassis import bus, lifecycle, rpc
from chassis.breaker import BreakerSettings
from chassis.controls import Controls
from chassis.jobs import JOBS
from chassis.lifecycle import Lifecycle
from chassis.objects import Objects
from chassis.retry import RetrySettings
from chassis.settings import load
from services.transcriber import metrics
from services.transcriber.aftercare import Aftercare
from services.transcriber.api import TranscriberService
from services.transcriber.audio_log import AudioLog
from services.transcriber.captions import Captions
from services.transcriber.cutting import CuttingSettings
from services.transcriber.ears import Ears
from services.transcriber.heal_jobs import HealJobs, HealJobSettings
from services.transcriber.logs import streams
from services.transcriber.media import MediaDecoder, MediaLimits
from services.transcriber.recognition import Recogniser, RecognitionSettings
from services.transcriber.recordings import Recordings, RecordingSettings
from services.transcriber.recordings_api import RecordingsService
from services.transcriber.session import LiveSession, Ports, SessionSettings
from services.transcriber.sessions import Sessions
from services.transcriber.settings import Settings
from services.transcriber.slow_start import SlowStartSettings
from services.transcriber.speech import OpenAISpeech
from services.transcriber.sphinx import PocketSphinxSpeech
from services.transcriber.transcript import BYTES_PER_SECOND
from services.transcriber.transcript_log import TranscriptLog
from services.transcriber.uploads import BUCKET, AudioStreamDrafts, Uploads, scratch_folder
from services.transcriber.vendor import Vendor, VendorSettings


async def start(
    settings: Settings,
    life: Lifecycle,
    *,
    transcript_log: type[TranscriptLog] = TranscriptLog,
    audio_log: type[AudioLog] = AudioLog,
    live_session: type[LiveSession] = LiveSession,
    aftercare_type: type[Aftercare] = Aftercare,
) -> None:
    """Connect, serve until told to stop, hand the sessions over.

    The fault tests leave a defence out by a class of their own, to see that its absence is noticed.
    """
    recogniser, vendor = await _recogniser(settings, life)

    broker = await life.exits.enter_async_context(
        bus.connect(settings.nats_url, name=life.replica, replicas=settings.nats_replicas)
    )
    logs = (*streams(settings.audio_log_bytes, settings.transcript_log_bytes, settings.log_age_s), JOBS)
    for stream in logs:
        await broker.declared(stream)
    objects = Objects(lambda: broker, BUCKET)
    await broker.declared(objects.stream(settings.uploads_bytes_max))
    audio = audio_log(broker, coalesce_s=settings.audio_coalesce_s)
    captions = Captions(broker.client.publish)
    ears = Ears()
    transcripts = transcript_log(broker)
    aftercare = aftercare_type(transcripts, audio, recogniser, life.replica)
    heal_jobs = HealJobs(broker, aftercare, HealJobSettings(concurrency=settings.heal_sessions))
    ports = Ports(
        transcripts=transcripts,
        audio=audio,
        recogniser=recogniser,
        announce=broker.client.publish,
        captions=captions,
        replica=life.replica,
        clock=time.monotonic,
        ears=ears,
        ask_to_heal=heal_jobs.ask,
    )
    sessions = Sessions(
        ports, _session_settings(settings), sessions_max=settings.sessions_max,
        tight=lambda: life.resources.tight, live_session=live_session,
    )  # fmt: skip
    metrics.AUDIO_PENDING.labels("durable").set_function(lambda: audio.pending_bytes)
    metrics.AUDIO_PENDING.labels("transcribed").set_function(lambda: sessions.pending_bytes)
    await broker.client.subscribe("stored.*", cb=_on_message(sessions.note_stored))
    await broker.client.subscribe("sessions.adopted", cb=_on_message(sessions.note_adopted))
    controls = Controls(broker, replicas=settings.nats_replicas)
    life.orders.obey(controls)
    controls.watch(recogniser.obey)
    if vendor is not None:
        controls.watch(vendor.breaker.obey)
    life.spawn(controls.run(), "controls")
    life.spawn(broker.until_closed(), "broker")
    life.spawn(broker.keep(logs), "streams")
    life.spawn(audio.run(), "audio log")
    life.spawn(ears.run(), "ears")
    life.spawn(captions.run(), "captions")
    life.spawn(sessions.run(), "sessions")
    life.spawn(heal_jobs.run(), "healing")

    server = rpc.Server(
        settings.grpc_host, settings.grpc_port,
        rpc.Identity.of("transcriber", settings),
    )  # fmt: skip
    service = TranscriberService(sessions, aftercare, heal_jobs)
    server.add(transcriber_pb2_grpc.add_TranscriberServiceServicer_to_server, service)
    files = _recordings(settings, ports, objects, AudioStreamDrafts(broker, heals=recogniser.heals))
    server.add(recordings_pb2_grpc.add_RecordingsServiceServicer_to_server, files)
    await server.start()
    life.require("nats", broker.ping)
    life.ready()

    await life.until_stop()
    service.retire()
    files.retire()
    await server.retire()
    await sessions.drain(settings.drain_s * 0.6)
    service.hang_up()
    await server.stop(settings.drain_s * 0.2)


async def _recogniser(settings: Settings, life: Lifecycle) -> tuple[Recogniser, Vendor | None]:
    """Start the engines: the embedded one always, the speech API if there is a key for it."""
    embedded = PocketSphinxSpeech(workers=settings.embedded_workers, memory_limit_bytes=settings.embedded_memory_bytes)
    life.exits.push_async_callback(embedded.close)
    await embedded.start()
    vendor = None
    if settings.openai_api_key is not None:
        api = OpenAISpeech(
            api_key=settings.openai_api_key.get_secret_value(),
            base_url=settings.openai_base_url,
            model=settings.whisper_model,
        )
        life.exits.push_async_callback(api.close)
        await api.start()
        vendor = Vendor(api, _vendor_settings(settings), chance=random.random)
    recognition = RecognitionSettings(
        draft_within_s=settings.draft_within_s,
        endpoint_s=settings.end_silence_ms / 1000.0,
        embedded_workers=settings.embedded_workers,
    )
    recogniser = Recogniser(embedded, vendor, recognition)
    life.exits.push_async_callback(recogniser.close)
    return recogniser, vendor


def _vendor_settings(settings: Settings) -> VendorSettings:
    return VendorSettings(
        concurrency_max=settings.speech_concurrency,
        deadline_s_max=settings.speech_deadline_s,
        retry=RetrySettings(
            attempts=settings.speech_attempts,
            wait_min_s=settings.speech_retry_min_s,
            wait_max_s=settings.speech_retry_max_s,
            budget_share=settings.speech_retry_budget,
        ),
        breaker=BreakerSettings(
            failures_in_row=settings.breaker_failures,
            window_s=settings.breaker_window_s,
            calls_min=settings.breaker_calls_min,
            failure_rate=settings.breaker_failure_rate,
            slow_s=settings.breaker_slow_s,
            slow_rate=settings.breaker_slow_rate,
            open_s=settings.breaker_open_s,
            probes=settings.breaker_probes,
            probes_needed=settings.breaker_probes_needed,
            ramp_s=settings.breaker_ramp_s,
        ),
        slow_start=SlowStartSettings(
            hold_s=settings.heal_hold_s,
            share=settings.heal_share,
            least_per_s=settings.heal_per_s_min,
            double_s=max(1e-3, settings.heal_hold_s / 6),
        ),
    )


def _recordings(settings: Settings, ports: Ports, objects: Objects, drafts: AudioStreamDrafts) -> RecordingsService:
    limits = MediaLimits(
        memory_bytes=settings.decode_memory_bytes,
        cpu_s=settings.decode_cpu_s,
        wall_s=settings.decode_s,
        audio_s=settings.recording_s_max,
    )
    decoder = MediaDecoder(scratch_folder(settings.verbatim_data_dir), limits, _cutting(settings))
    recordings = Recordings(ports.recogniser, RecordingSettings(parallel=settings.recording_parallel))
    return RecordingsService(
        Uploads(objects, decoder, recordings, ports.transcripts, drafts, ports.ask_to_heal, ports.replica),
        decoder,
        recordings,
        uploads_max=settings.uploads_max,
        files_max=settings.transcriptions_max,
        file_bytes_max=settings.transcription_bytes_max,
    )


def _cutting(settings: Settings) -> CuttingSettings:
    return CuttingSettings(
        end_silence_ms=settings.end_silence_ms,
        soft_cap_ms=settings.soft_cap_ms,
        hard_cap_ms=settings.hard_cap_ms,
    )


def _session_settings(settings: Settings) -> SessionSettings:
    return SessionSettings(
        window_bytes=int(settings.window_s * BYTES_PER_SECOND),
        backlog_hold_s=settings.backlog_hold_s,
        partial_every_s=settings.partial_every_s,
        parallel_utterances=settings.parallel_utterances,
        idle_s=settings.session_idle_s,
        cutting=_cutting(settings),
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
