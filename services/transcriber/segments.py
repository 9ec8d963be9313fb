"""What becomes of an utterance that was recognised: an entry of the transcript log. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from verbatim.transcript.v1 import transcript_pb2 as pb

from services.transcriber.cutting import Utterance
from services.transcriber.filters import FilterSettings, judge, trim_overlap
from services.transcriber.recognition import Recognition
from services.transcriber.transcript import Ledger, seconds


def entry_kind(
    ledger: Ledger,
    utterance: Utterance,
    segment_id: str,
    recognition: Recognition | None,
    *,
    pcm: bytes,
    resumption: dict[str, Any],
    settings: FilterSettings,
) -> dict[str, pb.Segment | pb.Suppressed | pb.Gap]:
    """Return the entry's kind by name: a segment, text that was judged to be no speech, or a gap if there is no text.

    `pcm` is the utterance's own audio, `resumption` what the entry says of where to go on after it.
    """
    start_s, end_s = seconds(utterance.start_byte), seconds(utterance.end_byte)
    start_offset, end_offset = utterance.start_byte, utterance.end_byte
    if recognition is None:
        return {"gap": gap_entry(start_offset, end_offset, pb.GAP_REASON_UNDECODABLE, resumption["entry_point"])}
    heard = recognition.transcription
    context_s = seconds(utterance.start_byte - utterance.context_start_byte)
    if context_s:
        heard = trim_overlap(ledger.tail.split(), heard, context_s=context_s)
    verdict = judge(heard, rms=rms(pcm), settings=settings)
    if verdict.reason is not None:
        suppressed = pb.Suppressed(text=heard.text, reason=verdict.reason, engine=recognition.engine, **resumption)
        suppressed.start_s, suppressed.end_s = start_s, end_s
        suppressed.start_offset, suppressed.end_offset = start_offset, end_offset
        return {"suppressed": suppressed}
    sent_from_s = seconds(utterance.context_start_byte)
    segment = pb.Segment(
        segment_id=segment_id,
        index=ledger.next_index,
        revision=1,
        speaker=ledger.opened.speaker,
        start_s=start_s,
        end_s=end_s,
        text=heard.text,
        confidence=heard.confidence,
        engine=recognition.engine,
        quality=pb.QUALITY_DRAFT if recognition.quality == "draft" else pb.QUALITY_FINAL,
        start_offset=start_offset,
        end_offset=end_offset,
        **resumption,
    )
    for word in heard.words:
        told = segment.words.add(text=word.text, start_s=sent_from_s + word.start_s, end_s=sent_from_s + word.end_s)
        if word.probability is not None:
            told.probability = word.probability
    return {"segment": segment}


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
    return float(np.sqrt(np.mean(samples * samples))) / 32768.0
