"""What a speech engine makes of an utterance."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its times in seconds from the start of the audio that was sent to the engine.

    `probability` is in 0..1; None where the engine does not tell.
    """

    text: str
    start_s: float
    end_s: float
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Transcription:
    """The text of one piece of audio. Only `text` and `words` are sure to be there, and `words` may be empty.

    `confidence` and `no_speech_probability` are in 0..1, `average_logprob` is the mean natural logarithm of
    the tokens' probabilities (at most 0), `compression_ratio` is bytes of text per byte of it compressed.
    `language` is as the engine names it (a code or an English word).
    """

    text: str
    words: tuple[Word, ...] = ()
    confidence: float | None = None
    language: str | None = None
    no_speech_probability: float | None = None
    average_logprob: float | None = None
    compression_ratio: float | None = None
