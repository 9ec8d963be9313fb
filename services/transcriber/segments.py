"""What becomes of an utterance that was recognised, or heard again: an entry of the transcript log. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from verbatim.transcript.v1 import transcript_pb2 as pb

from services.transcriber.cutting import Utterance
from services.transcriber.drafts import Draft
from services.transcriber.filters import FilterSettings, judge, trim_overlap, trim_run_on
from services.transcriber.recognition import Recognition
from services.transcriber.transcript import Ledger, seconds
from services.transcriber.transcription import Transcription

_NOBODY = "none"


def entry_kind(
    ledger: Ledger,
    utterance: Utterance,
    segment_id: str,
    recognition: Recognition | None,
    *,
    pcm: bytes,
    resumption: dict[str, Any],
    settings: FilterSettings,
    heals: bool = False,
) -> dict[str, pb.Segment | pb.Suppressed | pb.Gap]:
    """Return the entry's kind by name: a segment, text that was judged to be no speech, or a gap if there is no text.

    `pcm` is the utterance's own audio, `resumption` what the entry says of where to go on after it. `heals` says that a
    better engine will hear drafts again: then nothing that only the lesser one has heard is the last word, and what it
    could not hear is a draft without text.
    """
    start_s, end_s = seconds(utterance.start_byte), seconds(utterance.end_byte)
    start_offset, end_offset = utterance.start_byte, utterance.end_byte
    if recognition is None and not heals:
        return {"gap": gap_entry(start_offset, end_offset, pb.GAP_REASON_UNDECODABLE, resumption["entry_point"])}
    segment = pb.Segment(
        segment_id=segment_id,
        index=ledger.next_index,
        revision=1,
        speaker=ledger.opened.speaker,
        start_s=start_s,
        end_s=end_s,
        engine=_NOBODY if recognition is None else recognition.engine,
        quality=pb.QUALITY_DRAFT if recognition is None or recognition.quality == "draft" else pb.QUALITY_FINAL,
        start_offset=start_offset,
        end_offset=end_offset,
        context_offset=utterance.context_start_byte,
        **resumption,
    )
    if recognition is None:
        segment.suppressed.engine = _NOBODY
        return {"segment": segment}
    heard = recognition.transcription
    context_s = seconds(utterance.start_byte - utterance.context_start_byte)
    if context_s:
        heard = trim_overlap(ledger.tail.split(), heard, context_s=context_s)
    verdict = judge(heard, rms=rms(pcm), settings=settings)
    if verdict.reason is not None:
        suppressed = pb.Suppressed(text=heard.text, reason=verdict.reason, engine=recognition.engine)
        if heals and segment.quality == pb.QUALITY_DRAFT:
            segment.suppressed.CopyFrom(suppressed)
            return {"segment": segment}
        suppressed.MergeFrom(pb.Suppressed(start_s=start_s, end_s=end_s, **resumption))
        suppressed.start_offset, suppressed.end_offset = start_offset, end_offset
        return {"suppressed": suppressed}
    _write(segment, heard, heard_from_s=seconds(utterance.context_start_byte))
    return {"segment": segment}


def revision(draft: Draft, recognition: Recognition, *, pcm: bytes, settings: FilterSettings) -> pb.Segment:
    """Return the segment that replaces a draft; without text if what was heard is no speech.

    `pcm` is the audio that was heard, with what comes before the draft's own.
    """
    segment = pb.Segment()
    segment.CopyFrom(draft.segment)
    for place in ("audio_sequence", "entry_point"):
        segment.ClearField(place)
    segment.revision = draft.segment.revision + 1
    segment.engine = recognition.engine
    segment.quality = pb.QUALITY_FINAL
    segment.ClearField("confidence")
    heard = recognition.transcription
    context_bytes = len(pcm) - (segment.end_offset - segment.start_offset)
    if context_bytes:
        heard = trim_overlap(draft.before.split(), heard, context_s=seconds(context_bytes))
    if draft.after:
        heard = trim_run_on(heard, draft.after, audio_s=seconds(len(pcm)))
    verdict = judge(heard, rms=rms(pcm[context_bytes:]), settings=settings)
    if verdict.reason is not None:
        segment.suppressed.CopyFrom(pb.Suppressed(text=heard.text, reason=verdict.reason, engine=recognition.engine))
    else:
        _write(segment, heard, heard_from_s=seconds(segment.start_offset - context_bytes))
    return segment


def _write(segment: pb.Segment, heard: Transcription, *, heard_from_s: float) -> None:
    segment.text = heard.text
    if heard.confidence is not None:
        segment.confidence = heard.confidence
    for word in heard.words:
        told = segment.words.add(text=word.text, start_s=heard_from_s + word.start_s, end_s=heard_from_s + word.end_s)
        if word.probability is not None:
            told.probability = word.probability


def gap_entry(
    start_offset: int, end_offset: int, reason: pb.GapReason.ValueType, entry_point: pb.EntryPoint | None
) -> pb.Gap:
    """Return the entry for audio that is not there."""
    gap = pb.Gap(start_s=seconds(start_offset), end_s=seconds(end_offset), reason=reason, entry_point=entry_point)
    gap.start_offset, gap.end_offset = start_offset, end_offset
    return gap


def rms(pcm: bytes) -> float:
    """Return the root mean square of s16le audio as a fraction of full scale; 0 for none."""
    if not pcm:
        return 0.0
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32)
    return float(np.sqrt(np.dot(samples, samples) / len(samples))) / 32768.0
