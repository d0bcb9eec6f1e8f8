"""Protocol Buffers' wire format, as far as an ONNX file needs it: messages taken apart and put together again.

Source: the Protocol Buffers encoding guide. Errors speak of ONNX, since that is what the caller was given.
"""

from __future__ import annotations

from collections.abc import Iterator

LENGTH_DELIMITED = 2

Field = tuple[int, int, bytes, bytes]
"""Number, wire type, payload, and the whole field as it stands in the message."""


def text_of(message: bytes, wanted: int) -> bytes:
    """The payload of the last field of that number; empty where there is none."""
    found = b""
    for number, _, payload, _ in fields_of(message):
        if number == wanted:
            found = payload
    return found


def fields_of(message: bytes) -> Iterator[Field]:
    """The fields of a message, in order.

    Raises:
        ValueError: it is cut short, or no message.
    """
    view, position, end = memoryview(message), 0, len(message)
    while position < end:
        start = position
        key, position = varint_at(view, position)
        number, wire_type = key >> 3, key & 7
        payload_start = position
        if wire_type == 0:
            _, position = varint_at(view, position)
        elif wire_type == 1:
            position += 8
        elif wire_type == LENGTH_DELIMITED:
            length, payload_start = varint_at(view, position)
            position = payload_start + length
        elif wire_type == 5:
            position += 4
        else:
            raise ValueError(f"the file is no ONNX model: wire type {wire_type} at byte {start}")
        if position > end:
            raise ValueError("the file is no ONNX model, or is cut short")
        yield number, wire_type, bytes(view[payload_start:position]), bytes(view[start:position])


def varint_at(view: memoryview, position: int) -> tuple[int, int]:
    """The number that begins there, and where it ends. Raises ValueError where there is none."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise ValueError("the file is no ONNX model, or is cut short")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise ValueError("the file is no ONNX model: a number longer than ten bytes")


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return _encode(number << 3 | LENGTH_DELIMITED) + _encode(len(payload)) + payload


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
