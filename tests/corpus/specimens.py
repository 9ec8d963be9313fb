"""The corpus: files by name, with what the edge and the decoder must say to each."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from tests.corpus import recordings as make

ROOT = Path(__file__).parents[2]

FITS: dict[str, str] = {
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".webm": "audio/webm",
    ".mp4": "video/mp4",
    ".m4a": "audio/mp4",
}
CONTAINER = {".mp3": "mp3", ".wav": "wav", ".ogg": "ogg", ".webm": "webm", ".mp4": "mp4", ".m4a": "mp4"}
ANY = "any"


@dataclass(frozen=True)
class Specimen:
    """A file. `edge` is what the gateway answers if it refuses at once; `verdict` what the decoder says: "" if it takes
    the file, a word of `UnreadableError`, several with bars between them, or ANY if only that it survives matters."""

    kind: str
    name: str
    make: Callable[[], bytes]
    verdict: str
    edge: int = 202
    media_type: str | None = None

    @property
    def suffix(self) -> str:
        return "." + self.name.rpartition(".")[2]

    @property
    def declared(self) -> str:
        return self.media_type or FITS.get(self.suffix, "application/octet-stream")

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


@cache
def _sound() -> bytes:
    return make.tone(2.0)


@cache
def _mp3() -> bytes:
    return make.mp3(_sound())


@cache
def _plain_mp3() -> bytes:
    return make.mp3(_sound(), write_xing="0", id3v2_version="0")


@cache
def _wav() -> bytes:
    return make.wav(_sound())


@cache
def _ogg() -> bytes:
    return make.ogg(_sound())


@cache
def _webm() -> bytes:
    return make.webm(_sound())


@cache
def _m4a() -> bytes:
    return make.m4a(_sound())


@cache
def _mp4() -> bytes:
    return make.mp4(_sound())


_WHOLE = {"a.mp3": _mp3, "a.wav": _wav, "a.ogg": _ogg, "a.webm": _webm, "a.m4a": _m4a, "a.mp4": _mp4}


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("note.txt", random.Random(1).randbytes(6000))
    return file.getvalue()


def _patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def _wav_head(**changed: int) -> bytes:
    fields = {"tag": 1, "channels": 1, "rate": 16_000, "bytes_s": 32_000, "block": 2, "bits": 16, **changed}
    return _patched(_wav(), _wav().index(b"fmt ") + 8, struct.pack("<HHIIHH", *fields.values()))


def _part(whole: Callable[[], bytes], share: float) -> bytes:
    data = whole()
    return data[: int((len(data) - 1) * share)]


def _with_zip(whole: Callable[[], bytes]) -> bytes:
    return whole() + _zip()


def _noise() -> bytes:
    return random.Random(7).randbytes(20_000)


def _boasting_mp3() -> bytes:
    """An MP3 whose first frame promises a million others."""
    data = _mp3()
    mark = b"Info" if b"Info" in data else b"Xing"
    return _patched(data, data.index(mark) + 8, b"\x00\x0f\x00\x00")


def _flipped(whole: Callable[[], bytes], seed: int) -> bytes:
    chance = random.Random(seed)
    data = whole()
    damaged = bytearray(data)
    for _ in range(max(4, len(data) // 500)):
        damaged[chance.randrange(40, len(data))] = chance.randrange(256)
    return bytes(damaged)


def _reference() -> bytes:
    """An MP4 whose sound is said to be elsewhere (the flag that says otherwise is taken away)."""
    return _patched(_m4a(), _m4a().index(b"url ") + 4, bytes(4))


def _element(name: str, content: bytes) -> bytes:
    return bytes.fromhex(name) + (len(content) | 1 << 56).to_bytes(8, "big") + content


def _deep_webm() -> bytes:
    inner = b""
    for _ in range(2000):
        inner = _element("1941a469", inner)
    head = _element("1a45dfa3", _element("4282", b"webm"))
    return head + _element("18538067", inner)


def _deep_mp4() -> bytes:
    inner = b""
    for _ in range(5000):
        inner = struct.pack(">I4s", 8 + len(inner), b"moov") + inner
    return struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + inner + struct.pack(">I4s", 8, b"mdat")


def _good() -> Iterator[Specimen]:
    yield from (Specimen("good", name, make_it, "") for name, make_it in _WHOLE.items())
    more: dict[str, Callable[[], bytes]] = {
        "stereo.mp3": lambda: make.mp3(_sound(), channels=2, bit_rate=128_000),
        "slow.mp3": lambda: make.mp3(_sound(), rate_hz=16_000, bit_rate=24_000),
        "plain.mp3": _plain_mp3,
        "tagged.mp3": lambda: _mp3() + b"TAG" + b"a title".ljust(125, b"\x00"),
        "padded.mp3": lambda: _plain_mp3() + bytes(5000),
        "stereo44.wav": lambda: make.wav(_sound(), rate_hz=44_100, channels=2),
        "deep.wav": lambda: make.wav(_sound(), codec="pcm_s24le"),
        "float.wav": lambda: make.wav(_sound(), codec="pcm_f32le"),
        "telephone.wav": lambda: make.wav(_sound(), codec="pcm_alaw", rate_hz=8000),
        "piped.wav": lambda: _patched(_wav(), _wav().index(b"data") + 4, b"\xff\xff\xff\xff"),
        "chained.ogg": lambda: _ogg() + _ogg(),
        "appended.mp3": lambda: _plain_mp3() + _plain_mp3(),
        "flac.ogg": lambda: make.ogg(_sound(), codec="flac"),
        "live.webm": lambda: make.webm(_sound(), live=True),
        "film.mp4": lambda: make.mp4(_sound(), video=True),
        "pieces.mp4": lambda: make.mp4(_sound(), fragmented=True),
        "lossless.m4a": lambda: make.m4a(_sound(), codec="alac"),
        "Umlauts äöü & spaces (1).MP3": _mp3,
    }
    yield from (Specimen("good", name, make_it, "") for name, make_it in more.items())
    yield Specimen("good", "alias.mp3", _mp3, "", media_type="audio/mp3")
    yield Specimen("good", "unknown.wav", _wav, "", media_type="application/octet-stream")
    yield Specimen("good", "parameter.webm", _webm, "", media_type="audio/webm;codecs=opus")


def _other_kinds() -> Iterator[Specimen]:
    others: dict[str, Callable[[], bytes]] = {
        "png.mp3": lambda: b"\x89PNG\r\n\x1a\n" + bytes(100),
        "pdf.wav": lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(100),
        "zip.ogg": _zip,
        "program.mp4": lambda: b"\x7fELF\x02\x01\x01" + bytes(100),
        "page.webm": lambda: b"<!doctype html><script>alert(1)</script>",
        "words.mp3": lambda: b"hello, I am a song",
        "wave.mp3": _wav,
        "song.wav": _mp3,
        "web.ogg": _webm,
        "opus.webm": _ogg,
        "matroska.webm": lambda: make.encode(_sound(), "matroska", "libopus"),
        "film.wav": lambda: b"RIFF" + struct.pack("<I", 1000) + b"AVI LIST" + bytes(1000),
        "aiff.wav": lambda: b"FORM\x00\x00\x10\x00AIFFCOMM" + bytes(100),
        "bare.m4a": lambda: make.encode(_sound(), "adts", "aac"),
        "layer2.mp3": lambda: make.encode(_sound(), "mp2", "mp2", bit_rate=64_000),
        "packed.wav": lambda: gzip.compress(_wav()),
        "flac.mp3": lambda: make.encode(_sound(), "flac", "flac"),
    }
    yield from (Specimen("wrong kind", name, make_it, "mismatch", 415) for name, make_it in others.items())
    yield Specimen("wrong kind", "no-suffix", _mp3, ANY, 415)
    yield Specimen("wrong kind", "song.txt", _mp3, ANY, 415)
    yield Specimen("wrong kind", "song.mp3.exe", _mp3, ANY, 415)
    yield Specimen("wrong kind", "picture.mp3", _mp3, "", 415, "image/png")
    yield Specimen("wrong kind", "markup.wav", _wav, "", 415, "text/html")
    yield Specimen("wrong kind", "disagree.mp3", _mp3, "", 415, "audio/wav")


def _playlists() -> Iterator[Specimen]:
    hls = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n%s\n#EXT-X-ENDLIST\n"
    lists: dict[str, bytes] = {
        "hls-file.mp3": hls % b"file:///etc/passwd",
        "hls-metadata.mp4": hls % b"http://169.254.169.254/latest/meta-data/",
        "hls-concat.ogg": hls % b"concat:/etc/passwd|/etc/hosts",
        "concat.wav": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "dash.webm": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>/etc/</BaseURL></MPD>',
        "sdp.mp4": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n",
        "pls.mp3": b"[playlist]\nFile1=http://127.0.0.1:8000/healthz\n",
    }
    for name, data in lists.items():
        yield Specimen("playlist", name, partial(bytes, data), "mismatch", 415)
    tag = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)
    yield Specimen("playlist", "tagged-hls.mp3", lambda: tag + hls % b"file:///etc/passwd", "mismatch")
    yield Specimen("playlist", "reference.m4a", _reference, ANY)


def _polyglots() -> Iterator[Specimen]:
    page = b"<script>fetch('//evil.example')</script>" * 100
    for name, whole in _WHOLE.items():
        yield Specimen("polyglot", f"zip-behind-{name}", partial(_with_zip, whole), "foreign|truncated")
    yield Specimen("polyglot", "page-behind.mp3", lambda: _plain_mp3() + page, "foreign")
    yield Specimen("polyglot", "two-files.wav", lambda: _wav() + _wav(), "foreign")
    yield Specimen("polyglot", "two-files.m4a", lambda: _m4a() + _m4a(), "foreign|damaged")
    yield Specimen("polyglot", "two-files.webm", lambda: _webm() + _webm(), "foreign")
    yield Specimen("polyglot", "pdf-before.mp3", lambda: b"%PDF-1.4\n" + _plain_mp3(), "mismatch", 415)
    yield Specimen("polyglot", "gif-before.mp3", lambda: b"GIF89a" + _plain_mp3(), "mismatch", 415)
    big = b"ID3\x04\x00\x00\x00\x00\x20\x00" + page[:4096]
    yield Specimen("polyglot", "only-a-tag.mp3", lambda: big, "truncated|mismatch")
    odd = b"PK\x03\x04" + struct.pack("<I", 100) + bytes(100)
    yield Specimen("polyglot", "odd-part.wav", lambda: _wav() + odd, "foreign")


def _bombs() -> Iterator[Specimen]:
    yield Specimen("bomb", "ten-hours.ogg", lambda: make.opus_silence(10, lying=False), "too_long")
    yield Specimen("bomb", "ten-hours-that-say-one-second.ogg", lambda: make.opus_silence(10, lying=True), "too_long")
    jump = [*make.opus_head(), make.ogg_page([b"\x19"], 5760, 2), make.ogg_page([b"\x19"], 48_000 * 3600 * 1000, 3, 4)]
    yield Specimen("bomb", "jump-of-a-thousand-hours.ogg", lambda: b"".join(jump), "too_long")
    yield Specimen("bomb", "huge-tag.mp3", lambda: b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + _plain_mp3(), "truncated")
    yield Specimen("bomb", "nested.webm", _deep_webm, "truncated|damaged")
    yield Specimen("bomb", "nested.mp4", _deep_mp4, "damaged|no_sound|truncated")
    yield Specimen(
        "bomb",
        "billion-samples.m4a",
        lambda: _patched(_m4a(), _m4a().index(b"stsz") + 12, b"\x7f\xff\xff\xff"),
        "damaged|no_sound|too_long|truncated|too_costly",
    )
    yield Specimen("bomb", "gzip.mp3", lambda: gzip.compress(bytes(10_000_000)), "mismatch", 415)


def _truncated() -> Iterator[Specimen]:
    for name, whole in _WHOLE.items():
        yield Specimen("truncated", f"half-{name}", partial(_part, whole, 0.5), "truncated")
        yield Specimen("truncated", f"without-last-{name}", partial(_part, whole, 1.0), "truncated")
    yield Specimen("truncated", "half-plain.mp3", lambda: _plain_mp3()[:-100], "truncated")
    yield Specimen("truncated", "head.wav", lambda: _wav()[:44], "truncated")
    yield Specimen("truncated", "without-moov.mp4", lambda: _mp4()[: _mp4().index(b"moov") - 4], "truncated")
    yield Specimen("truncated", "nothing.mp3", lambda: b"", "empty", 422)
    yield Specimen("truncated", "one-byte.ogg", lambda: b"O", "mismatch", 415)
    yield Specimen("truncated", "magic.wav", lambda: b"RIFF\x00\x00\x00\x00WAVE", "truncated")


def _lies() -> Iterator[Specimen]:
    yield Specimen("lie", "no-channel.wav", lambda: _wav_head(channels=0, block=0), "damaged")
    yield Specimen("lie", "many-channels.wav", lambda: _wav_head(channels=65_535, block=65_534), "damaged")
    yield Specimen("lie", "one-hertz.wav", lambda: _wav_head(rate=1), "damaged")
    yield Specimen("lie", "four-gigahertz.wav", lambda: _wav_head(rate=0xFFFFFFFF), "damaged")
    yield Specimen("lie", "wrong-block.wav", lambda: _wav_head(block=0), "damaged")
    yield Specimen("lie", "adpcm.wav", lambda: make.wav(_sound(), codec="adpcm_ms"), "codec")
    yield Specimen(
        "lie", "long.wav", lambda: _patched(_wav(), _wav().index(b"data") + 4, b"\xff\xff\xff\x0f"), "truncated"
    )
    yield Specimen(
        "lie",
        "many-frames.mp3",
        lambda: _patched(
            _mp3(), (_mp3().find(b"Info") if b"Info" in _mp3() else _mp3().index(b"Xing")) + 8, b"\x00\x0f\x00\x00"
        ),
        "truncated",
    )
    channels = [make.opus_head(200)[0], make.opus_head()[1], make.ogg_page([b"\x19"], 5760, 2, 4)]
    yield Specimen("lie", "many-channels.ogg", lambda: b"".join(channels), "damaged|no_sound|codec")
    yield Specimen("lie", "dirac.ogg", lambda: make.ogg_page([b"BBCD\x00" + bytes(40)], 0, 0, 2), "no_sound|damaged")
    yield Specimen("lie", "headers-only.ogg", lambda: b"".join(make.opus_head()), "no_sound|damaged|truncated")
    yield Specimen(
        "lie", "noise.mp3", lambda: b"\xff\xfb" + random.Random(7).randbytes(20_000), "mismatch|foreign|truncated"
    )
    yield Specimen(
        "lie", "noise.webm", lambda: _webm()[:60] + random.Random(7).randbytes(20_000), "damaged|foreign|truncated"
    )
    yield Specimen("lie", "picture-only.mp4", make.silent_film, "no_sound")


def _fuzz() -> Iterator[Specimen]:
    for number, (name, whole) in enumerate(_WHOLE.items()):
        for seed in (number, number + 100):
            yield Specimen("fuzz", f"{seed}-{name}", partial(_flipped, whole, seed), ANY)


CORPUS: tuple[Specimen, ...] = (
    *_good(),
    *_other_kinds(),
    *_playlists(),
    *_polyglots(),
    *_bombs(),
    *_truncated(),
    *_lies(),
    *_fuzz(),
)
