"""OSC messages as bytes, and what their arguments mean for a parameter: the only user of the OSC library.

Knows nothing of sockets and senders. Reading is strict about sizes and lenient about how programs write numbers and
texts.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from typing import Any

from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message import OscMessage, ParseError
from pythonosc.osc_message_builder import OscMessageBuilder

from core.params import SWITCH_WORDS, ParamError, Spec

SHOWN_CHARS = 120
_MAX_ARGUMENTS = 64
# No parameter takes a blob, a colour or a MIDI packet; and a blob of negative size would send the library's reader
# backwards through the datagram.
_TYPE_TAGS = frozenset(b"ifshdTFNSI[]")
_NUMBERS = {ord("i"): 4, ord("f"): 4, ord("h"): 8, ord("d"): 8}
# A symbol is a text of another name; an impulse carries nothing but that it came, as true does.
_ALIKE = bytes.maketrans(b"SI", b"sT")
_COMMA = re.compile(r"^(\s*[+-]?\d*),(\d+\s*)$")
"""A number in text as much of the world writes it."""
_WHOLE = re.compile(r"[0-9]{1,9}(\.0*)?")
_ROUNDING = 1e-4
"""How far from a whole number a fader's value may be, which was scaled in 32 bits on its way."""
_BETWEEN = str.maketrans("[](),x", " " * 6)
"""What stands around and between the numbers of a list that is sent as text."""


class OscRefused(ValueError):
    """A datagram or message that is answered by /error <address> <message>."""

    def __init__(self, address: str, message: str) -> None:
        super().__init__(message)
        self.address = address


def messages_in(data: bytes) -> list[bytes]:
    """The messages of a datagram, those of nested bundles in order. Raises `OscRefused` when it is not OSC."""
    # No recursion: 64 kB hold 3,000 nested bundles. Every size is checked, so that each step moves forward.
    messages: list[bytes] = []
    pending = [memoryview(data)]
    while pending:
        part = pending.pop()
        if part[:1] == b"/":
            messages.append(bytes(part))
            continue
        if part[:8] != b"#bundle\0" or len(part) < 16:
            raise OscRefused("-", "malformed datagram: neither a message (starts with /) nor a whole #bundle")
        inner = []
        at = 16
        while at < len(part):
            size = int.from_bytes(part[at : at + 4], "big")
            at += 4
            if size == 0 or size % 4 or size > len(part) - at:
                raise OscRefused(
                    "-", f"malformed bundle: an element of {size} bytes where {max(0, len(part) - at)} are"
                )
            inner.append(part[at : at + size])
            at += size
        pending.extend(reversed(inner))
    return messages


def parse(data: bytes) -> tuple[str, list[Any]]:
    """Address and arguments of one message. Raises `OscRefused`."""
    end = data.find(b"\0")
    address = data[: max(0, end)].decode("utf-8", "replace")
    tags_at = (end // 4 + 1) * 4
    tags = data[tags_at : data.find(b"\0", tags_at)] if end >= 0 else b""
    unknown = set(tags[1:]) - _TYPE_TAGS
    if unknown:
        # The library would skip some of these and read the following arguments from the wrong place.
        raise OscRefused(address, f"type tag {chr(min(unknown))!r} is not taken; send numbers, text, true or false")
    if len(tags) > _MAX_ARGUMENTS + 1:
        raise OscRefused(address, f"{len(tags) - 1} arguments; send at most {_MAX_ARGUMENTS}")
    try:
        message = OscMessage(_as_standard(data, tags_at, tags))
    except (ParseError, ValueError, OverflowError, IndexError) as error:
        raise OscRefused(address, f"malformed message: {str(error)[:SHOWN_CHARS]}") from error
    return address, message.params


def _as_standard(data: bytes, tags_at: int, tags: bytes) -> bytes:
    """A message with text of other makes as the library reads it: symbols and impulses under their standard tags, text
    that is no UTF-8 taken for Windows' and Max's 8-bit characters. What is malformed stays so, for the library to say.
    """
    standard = tags.translate(_ALIKE)
    data = data[:tags_at] + standard + data[tags_at + len(tags) :]
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return data
    at = tags_at + (len(tags) // 4 + 1) * 4
    out = bytearray(data[:at])
    for tag in standard[1:]:
        if tag == ord("s"):
            end = data.find(b"\0", at)
            if end < 0:
                return data
            text = data[at:end]
            try:
                text.decode("utf-8")
            except UnicodeDecodeError:
                text = text.decode("cp1252", "replace").encode("utf-8")
            out += text + b"\0" * (4 - len(text) % 4)
            at += ((end - at) // 4 + 1) * 4
        else:
            size = _NUMBERS.get(tag, 0)
            out += data[at : at + size]
            at += size
    return bytes(out)


def _flat(arguments: list[Any]) -> list[Any]:
    """The arguments without the lists around them."""
    return [
        value for argument in arguments for value in (_flat(argument) if isinstance(argument, list) else [argument])
    ]


def _plain(choice: str) -> str:
    return re.sub(r"[\s_-]+", "-", choice.strip().lower())


def _as_text(value: Any) -> str:
    """One argument as a word of a text: patchers send every word, and numbers among them, as arguments of their own."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.7g}"
    return str(value)


def value_of(spec: Spec, arguments: list[Any]) -> Any:
    """What the arguments of one message mean for `spec`, still unchecked. Raises `ParamError`."""
    if spec.kind == "ints":
        if arguments and all(isinstance(argument, str) for argument in arguments):
            words = " ".join(arguments).translate(_BETWEEN).split()
            if not all(_WHOLE.fullmatch(word) for word in words):
                raise ParamError(
                    f'{spec.name}: got {shown(" ".join(arguments))}; send numbers, or one text such as "18,26"'
                )
            return [int(word.partition(".")[0]) for word in words]
        if len(arguments) == 1 and isinstance(arguments[0], list):
            return arguments[0]
        return arguments
    if spec.kind == "str":
        words = _flat(arguments)
        if words and None not in words:
            return " ".join(map(_as_text, words)).removeprefix("\ufeff")
    if len(arguments) != 1:
        raise ParamError(f"{spec.name}: got {len(arguments)} values; send exactly one")
    value = arguments[0]
    if spec.kind == "bool" and isinstance(value, str):
        value = SWITCH_WORDS.get(value.strip().lower(), value)
    if spec.kind in ("float", "int", "bool") and isinstance(value, str):
        # Patchers and show controllers send numbers as text, too.
        with contextlib.suppress(ValueError):
            value = float(_COMMA.sub(r"\1.\2", value))
    if spec.kind == "choice" and isinstance(value, str):
        spoken = {_plain(choice): choice for choice in spec.choices}
        return spoken.get(_plain(value), value)
    if spec.kind in ("int", "bool") and isinstance(value, float) and abs(value) < 1e6:
        return round(value) if abs(value - round(value)) < _ROUNDING else value
    if spec.kind == "float" and isinstance(value, float):
        # Seven digits are what a 32-bit float carries: 0.02 arrives as 0.019999999552965164, below a bound of 0.02.
        return float(f"{value:.7g}")
    return value


def datagram(address: str, *values: Any) -> bytes:
    """One OSC message as bytes; values are text, whole numbers, floats or booleans."""
    builder = OscMessageBuilder(address)
    for value in values:
        builder.add_arg(value)
    return builder.build().dgram


def bundle(messages: Iterable[bytes]) -> bytes:
    """Messages that take effect together, as one datagram."""
    builder = OscBundleBuilder(IMMEDIATELY)
    for message in messages:
        builder.add_content(OscMessage(message))
    return builder.build().dgram


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "..."


def shown_address(address: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in address[:SHOWN_CHARS])
    return clean if len(address) <= SHOWN_CHARS else clean + "..."
