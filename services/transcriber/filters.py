"""Judge what an engine heard, and join it to what was said before.

Whisper-like engines invent text for silence and noise, and fall into loops. The numbers are those of
Whisper itself (no-speech 0.6, log probability -1.0, compression 2.4) and of products that run it live.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from services.transcriber.transcription import Transcription, Word

SuppressionReason = Literal["empty", "no_speech", "unlikely", "compressible", "repetition", "phrase"]

# What Whisper says to silence, in the languages where it was met most; compared without case and punctuation.
SILENCE_PHRASES = (
    "thank you",
    "thank you very much",
    "thank you for watching",
    "thanks for watching",
    "please subscribe",
    "like and subscribe",
    "see you in the next video",
    "you",
    "bye",
    "subtitles by the amara org community",
    "untertitel der amara org community",
    "untertitel im auftrag des zdf für funk",
    "vielen dank fürs zuschauen",
    "sous titres réalisés par la communauté d amara org",
    "sous titrage st 501",
    "subtítulos realizados por la comunidad de amara org",
    "sottotitoli creati dalla comunità amara org",
    "продолжение следует",
    "субтитры сделал dimatorzok",
    "спасибо за просмотр",
    "ご視聴ありがとうございました",
    "请不吝点赞 订阅 转发 打赏支持明镜与点点栏目",
)


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """When text is suppressed. RMS is a fraction of full scale.

    The phrase list counts only for audio below `quiet_rms` or with a no-speech probability above
    `doubtful_no_speech`: people do say "thank you". `loop_repeats` is how often a phrase of 1, 2 and 3 to 6
    words must follow itself to be a loop.
    """

    no_speech_max: float = 0.6
    no_speech_logprob_min: float = -1.0
    logprob_min: float = -1.3
    compression_ratio_max: float = 2.4
    loop_repeats: tuple[int, int, int] = (6, 4, 3)
    loop_words_min: int = 6
    quiet_rms: float = 0.006
    doubtful_no_speech: float = 0.2
    phrases: tuple[str, ...] = SILENCE_PHRASES


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether text goes into the transcript. `reason` is None exactly when it does."""

    keep: bool
    reason: SuppressionReason | None = None


KEEP = Verdict(keep=True)


def judge(transcription: Transcription, *, rms: float, settings: FilterSettings) -> Verdict:
    """Say whether the text was spoken or invented. `rms` is that of the audio, as a fraction of full scale.

    Figures that the engine did not give are not held against it; a missing compression ratio is computed.
    """
    words = _plain_words(transcription.text)
    # A missing figure is taken as one that is beyond doubt.
    no_speech = transcription.no_speech_probability or 0.0
    logprob = transcription.average_logprob or 0.0
    ratio = transcription.compression_ratio
    if ratio is None:
        ratio = _compression_ratio(transcription.text)
    doubtful = rms < settings.quiet_rms or no_speech > settings.doubtful_no_speech
    findings: dict[SuppressionReason, bool] = {
        "empty": not words,
        "no_speech": no_speech > settings.no_speech_max and logprob < settings.no_speech_logprob_min,
        "unlikely": logprob < settings.logprob_min,
        "compressible": ratio > settings.compression_ratio_max,
        "repetition": _has_loop(words, settings),
        "phrase": doubtful and " ".join(words) in settings.phrases,
    }
    return next((Verdict(keep=False, reason=reason) for reason, found in findings.items() if found), KEEP)


def _compression_ratio(text: str) -> float:
    """Return bytes per compressed byte, as `whisper/utils.py` computes it."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded))


def _has_loop(words: Sequence[str], settings: FilterSettings) -> bool:
    if len(words) < settings.loop_words_min:
        return False
    for length in range(1, 7):
        repeats = settings.loop_repeats[min(length, 3) - 1]
        # So many words in a row equal to those one phrase before are a phrase that was said `repeats` times.
        matches_needed = length * (repeats - 1)
        run = 0
        for earlier, later in zip(words, words[length:], strict=False):
            run = run + 1 if earlier == later else 0
            if run >= matches_needed:
                return True
    return False


# A word's time is this uncertain (whisper_streaming, online_asr.py).
_WORD_TIME_TOLERANCE_S = 0.1
_DOUBLED_WITHIN_S = 1.0
_NGRAM_MAX = 5
# Without times, the first words of the context may be half words that match nothing.
_BROKEN_WORDS_MAX = 2


def trim_overlap(previous_tail: Sequence[str], transcription: Transcription, *, context_s: float) -> Transcription:
    """Take away what is already told, after a forced cut.

    `previous_tail` are the last words of the text before the cut, `context_s` is how much of the
    transcribed audio lies before it. Words that begin before the cut go, then a run of up to five words
    that the text before ends with. Word times stay relative to the audio that was sent. Not for cuts in a
    pause: they carry no context.
    """
    told = [_plain(word) for word in previous_tail][-_NGRAM_MAX:]
    words = transcription.words
    if not words:
        tokens = transcription.text.split()
        kept_tokens = tokens[_told_without_times(told, [_plain(token) for token in tokens]) :]
        return replace(transcription, text=" ".join(kept_tokens))
    before_cut = len(list(takewhile(lambda w: w.start_s < context_s - _WORD_TIME_TOLERANCE_S, words)))
    kept = words[before_cut:]
    if kept and kept[0].start_s < context_s + _DOUBLED_WITHIN_S:
        kept = kept[_told(told, [_plain(word.text) for word in kept[:_NGRAM_MAX]]) :]
    return replace(transcription, text=_text_of(kept, transcription), words=kept)


def trim_run_on(transcription: Transcription, following: Sequence[str], *, audio_s: float) -> Transcription:
    """Take away from the end what the text behind a forced cut begins with: it is told there.

    `following` are the first words of that text; `audio_s` is how long the audio was, which ends at the cut.
    """
    words = transcription.words
    if words:
        last = [word for word in words if word.start_s > audio_s - _DOUBLED_WITHIN_S]
        spoken = [_plain(word.text) for word in last]
    else:
        spoken = [_plain(token) for token in transcription.text.split()]
    count = _told(spoken, [_plain(word) for word in following])
    if not count:
        return transcription
    tokens, kept = transcription.text.split(), words[: len(words) - count]
    aligned = not words or len(tokens) == len(words)
    text = " ".join(tokens[: len(tokens) - count]) if aligned else " ".join(word.text for word in kept)
    return replace(transcription, text=text, words=kept)


def _told(told: Sequence[str], words: Sequence[str]) -> int:
    """Return the length of the longest run that `told` ends with and `words` begin with."""
    longest = min(len(told), len(words), _NGRAM_MAX)
    return next((n for n in range(longest, 0, -1) if list(told[-n:]) == list(words[:n])), 0)


def _told_without_times(told: Sequence[str], words: Sequence[str]) -> int:
    for skipped in range(_BROKEN_WORDS_MAX + 1):
        count = _told(told, words[skipped : skipped + _NGRAM_MAX])
        # One word after broken ones is too weak a sign: "the" is everywhere.
        if count > (1 if skipped else 0):
            return skipped + count
    return 0


def _text_of(kept: Sequence[Word], whole: Transcription) -> str:
    """Return the text of the kept words, with its punctuation where text and words can be aligned."""
    dropped = len(whole.words) - len(kept)
    if dropped == 0:
        return whole.text
    tokens = whole.text.split()
    if len(tokens) == len(whole.words):
        return " ".join(tokens[dropped:])
    # A script without spaces is joined without them.
    separator = " " if len(tokens) > 1 else ""
    return separator.join(word.text for word in kept)


def next_prompt(
    vocabulary: Sequence[str],
    finals_tail: str,
    *,
    silence_s: float,
    suppressed: bool,
    tail_chars_max: int = 200,
    vocabulary_chars_max: int = 400,
    silence_s_max: float = 3.0,
) -> str:
    """Return the prompt for the next utterance: the words to expect, then the end of what was said.

    `silence_s` is the time since the last final, `suppressed` whether the last text was suppressed: then,
    or after a long silence, what was said before leads an engine to invent more than it helps.
    """
    expected = ""
    for term in filter(None, map(str.strip, vocabulary)):
        longer = f"{expected}, {term}" if expected else term
        if len(longer) > vocabulary_chars_max:
            break
        expected = longer
    tail = "" if suppressed or silence_s > silence_s_max else _tail(finals_tail, tail_chars_max)
    return ". ".join(filter(None, (expected, tail)))


def _tail(text: str, chars_max: int) -> str:
    text = text.strip()
    if len(text) <= chars_max:
        return text
    cut = text[-chars_max:]
    # Not in the middle of a word, unless there is nothing but one.
    broken, space, whole = cut.partition(" ")
    return whole if space else broken


def stable_prefix(previous_partial: str, partial: str) -> int:
    """Return how many characters of `partial` are stable: the words it shares with the partial before.

    That is LocalAgreement-2 (Liu et al. 2020, "Low-latency sequence-to-sequence speech recognition").
    """
    stable = position = 0
    for before, now in zip(previous_partial.split(), partial.split(), strict=False):
        if before != now:
            break
        position = partial.index(now, position) + len(now)
        stable = position
    return stable


def _plain(word: str) -> str:
    return "".join(_plain_words(word))


def _plain_words(text: str) -> list[str]:
    kept = "".join(char if char.isalnum() else " " for char in text.casefold().replace("'", ""))
    return kept.split()
