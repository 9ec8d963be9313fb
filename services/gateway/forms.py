"""Forms with a file in them (multipart/form-data), read as they come: nothing is spooled, memory stays flat."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from chassis.errors import AppError, Kind, Problem

_VALUE_BYTES_MAX = 16 * 1024
_PARTS_MAX = 64


@dataclass(frozen=True, slots=True)
class Field:
    """A plain value of the form."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileBegins:
    """The head of a file; its bytes follow until something else comes."""

    name: str
    file_name: str
    media_type: str | None


@dataclass(frozen=True, slots=True)
class FileBytes:
    """The next bytes of the file."""

    data: bytes


FormItem = Field | FileBegins | FileBytes


async def body_of(request: Request, *, idle_s: float) -> AsyncIterator[bytes]:
    """Yield the body as it comes. Raises AppError if nothing comes for `idle_s`, or the client leaves."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(idle_s):
                data = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise AppError(Kind.BAD_REQUEST, "The file does not arrive.") from None
        except ClientDisconnect:
            raise AppError(Kind.BAD_REQUEST, "The file did not arrive completely.") from None
        if data:
            yield data


async def read_form(request: Request, *, idle_s: float) -> AsyncGenerator[FormItem, None]:
    """Yield what is in a form, in order.

    Raises AppError: UNSUPPORTED_MEDIA_TYPE if the body is no such form, BAD_REQUEST if it cannot be read or does not
    arrive, VALIDATION_FAILED for a value that is too long.
    """
    media_type, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if media_type != b"multipart/form-data" or not boundary:
        raise AppError(Kind.UNSUPPORTED_MEDIA_TYPE, "The body must be a form with a file, sent as multipart/form-data.")
    reader = _Reader(boundary)
    try:
        async for data in body_of(request, idle_s=idle_s):
            reader.parse(data)
            for item in reader.taken():
                yield item
        reader.end()
    except FormParserError:
        raise _unreadable() from None
    for item in reader.taken():
        yield item


class _Reader:
    """Makes items of what the parser calls back with."""

    def __init__(self, boundary: bytes) -> None:
        self._items: deque[FormItem] = deque()
        self._parts = 0
        self._header = bytearray()
        self._header_value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._field: str | None = None
        self._value = bytearray()
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def parse(self, data: bytes) -> None:
        self._parser.write(data)

    def end(self) -> None:
        self._parser.finalize()
        if not self._ended:
            raise _unreadable()

    def taken(self) -> list[FormItem]:
        items = list(self._items)
        self._items.clear()
        return items

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _PARTS_MAX:
            raise AppError(Kind.VALIDATION_FAILED, "The form has too many parts.")
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[bytes(self._header).strip().lower()] = bytes(self._header_value).strip()
        self._header.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        name = options.get(b"name")
        if disposition != b"form-data" or name is None:
            raise _unreadable()
        file_name = options.get(b"filename")
        if file_name is None:
            self._field = _text(name)
            self._value.clear()
            return
        self._field = None
        declared = self._headers.get(b"content-type")
        self._items.append(FileBegins(_text(name), _text(file_name), declared.decode("latin-1") if declared else None))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._items.append(FileBytes(data[start:end]))
            return
        self._value += data[start:end]
        if len(self._value) > _VALUE_BYTES_MAX:
            problem = Problem("form", "Has a value that is too long")
            raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(problem,))

    def _on_part_end(self) -> None:
        if self._field is not None:
            self._items.append(Field(self._field, _text(bytes(self._value))))
            self._field = None

    def _on_end(self) -> None:
        self._ended = True


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")


def _unreadable() -> AppError:
    return AppError(Kind.BAD_REQUEST, "The form cannot be read.")
