"""Adaptor `td`: TouchDesigner's own Shared Mem Out and In TOPs, so that a paid licence needs no component.

    --input td:NAME[:linear]    NAME of a Shared Mem Out TOP (Shared Mem Type: Local); linear: its pictures of 16 and
                                more bits are linear light
    --output td:NAME[:v1]       NAME for a Shared Mem In TOP; v1 is the header of builds before 2025

The format has a mutex and no frame number. Pictures are looked at without the mutex, and it is taken, for a few
milliseconds at most, only to copy one that has changed: a side that stops while holding it costs frames, never the
host. Knows the protocol; `td_format` knows the bytes, `named_memory` the operating system.
"""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import Callable

from bridge.interop.adaptor import AdaptorError, Notices, Novelty, TakenPicture
from bridge.interop.named_memory import (
    AlreadyThere,
    NamedLock,
    NamedMemory,
    check_name,
    create_memory,
    open_lock,
    open_memory,
)
from bridge.interop.td_format import (
    HEADER_BYTES,
    HEADER_SIZES,
    INFO_DETACH,
    INFO_POSTFIX,
    INFO_SIZE,
    INFO_SUPPORTED,
    MAX_SIDE_PX,
    POSTFIX_CHARS,
    REC709,
    FormatError,
    Info,
    TdHeader,
    data_name,
    fill,
    info_names,
    lock_name,
    pack_header,
    pack_info,
    pack_postfix,
    parse_header,
    parse_info,
    picture,
    sendable,
)
from bridge.ring.header import Frame
from bridge.ring.layout import Kind

LOCK_S = 0.004
"""How long a mutex is waited for before the frame is skipped."""
STUCK_S = 1.0
"""A mutex that could not be had for so long is reported."""
LOOK_S = 0.25
"""How often a sender that is not there is looked for."""
REST_S = 2.0
"""After so long without a new picture the memory is let go and looked up again: while it is open here, a sender that
was started anew cannot make its own."""


class _Guarded:
    """A mutex with the count of the times it could not be had."""

    def __init__(self, name: str, notices: Notices) -> None:
        self._name = name
        self._lock: NamedLock = open_lock(name)
        self._notices = notices
        self._since: float | None = None
        self.skipped = 0

    def take(self) -> bool:
        if self._lock.take(LOCK_S):
            self._since = None
            return True
        self.skipped += 1
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since >= STUCK_S:
            self._notices.tell(
                f"{self._name} has been held by another program for over {STUCK_S:g} s; frames are skipped meanwhile "
                "(restart TouchDesigner if this does not end)"
            )
        return False

    def give(self) -> None:
        self._lock.give()

    def close(self) -> None:
        self._lock.close()

    def remove(self) -> None:
        self._lock.remove()


class TdInput:
    """Reads what a Shared Mem Out TOP called `name` writes. `skipped` counts tries that a held mutex cost.

    linear: of `td_format.picture`.
    """

    def __init__(self, name: str, say: Callable[[str], None], linear: bool = False) -> None:
        self.name = check_name(name)
        self._linear = linear
        self._notices = Notices(say)
        self._novelty = Novelty()
        self._info: NamedMemory | None = None
        self._info_lock: _Guarded | None = None
        self._seen_info = b""
        self._data: NamedMemory | None = None
        self._lock: _Guarded | None = None
        self._look_at = 0.0
        self._sound_at = 0.0
        self._news_at = 0.0
        self._skipped_before = 0

    @property
    def skipped(self) -> int:
        return self._skipped_before + (self._lock.skipped if self._lock is not None else 0)

    def poll(self, again: bool = False) -> TakenPicture | None:
        """See `bridge.interop.adaptor.InputEndpoint`."""
        try:
            return self._poll(again)
        except FormatError as error:
            self._notices.tell(f"td:{self.name}: {error}")
        except AdaptorError as error:
            self._notices.tell(f"td:{self.name}: {error}")
            self._let_go()
        return None

    def _poll(self, again: bool) -> TakenPicture | None:
        now = time.monotonic()
        if self._data is None:
            if now < self._look_at:
                return None
            self._look_at = now + LOOK_S
            if not self._attach():
                return None
        if not self._still_there():
            self._let_go()
            self._look_at = now
            return None
        assert self._data is not None and self._lock is not None
        if not again and not self._looks_new():
            if now - self._news_at > REST_S:
                self._let_go()
            return None
        if now < self._sound_at or not self._lock.take():
            return None
        try:
            header = self._header()
            kept = self._novelty.keep(header, self._data.bytes[header.offset : header.offset + header.data_bytes])
        except FormatError:
            self._sound_at = now + LOOK_S
            raise
        finally:
            self._lock.give()
        self._news_at = now
        if header.gamut != REC709:
            self._notices.tell(
                f"td:{self.name}: its colours have primaries number {header.gamut}; they are taken for sRGB's"
            )
        return picture(header, kept, linear=self._linear)

    def _header(self) -> TdHeader:
        assert self._data is not None
        return parse_header(self._data.bytes[:HEADER_BYTES].tobytes(), self._data.bytes.size)

    def _looks_new(self) -> bool:
        """A look without the mutex, which costs the sender nothing; what it sees may be half written."""
        assert self._data is not None
        try:
            seen = self._header()
        except FormatError:
            return True
        return self._novelty.changed(seen, self._data.bytes[seen.offset : seen.offset + seen.data_bytes])

    def _attach(self) -> bool:
        postfix = ""
        for name in info_names(self.name):
            self._info = open_memory(name)
            if self._info is None:
                continue
            self._info_lock = _Guarded(lock_name(name), self._notices)
            if not self._info_lock.take():
                self._let_go()
                return False
            try:
                known = parse_info(self._info.bytes[:INFO_SIZE].tobytes())
                self._info.bytes[INFO_SUPPORTED] = 1
                self._seen_info = self._info.bytes[:INFO_SIZE].tobytes()
            except FormatError as error:
                # Without a sound one there may still be pictures under the plain name.
                self._notices.tell(f"td:{self.name}: {error}")
                known = None
            finally:
                self._info_lock.give()
            if known is None:
                self._let_go()
                continue
            if known.detach:
                self._let_go()
                self._waiting()
                return False
            postfix = known.postfix
            break
        self._data = open_memory(data_name(self.name, postfix))
        if self._data is None:
            self._let_go()
            self._waiting()
            return False
        self._lock = _Guarded(lock_name(data_name(self.name)), self._notices)
        return True

    def _waiting(self) -> None:
        self._notices.tell(
            f"waiting for a Shared Mem Out TOP called {self.name} (Shared Mem Type: Local; paid licences only)"
        )

    def _still_there(self) -> bool:
        """Whether the mapped memory is the one that the sender writes now."""
        assert self._data is not None
        if not self._data.current():
            return False
        if self._info is None or self._info_lock is None:
            return True
        if not self._info.current():
            return False
        # Changed in any way (resized, left, taken over): look everything up anew, under its mutex.
        return self._info.bytes[:INFO_SIZE].tobytes() == self._seen_info

    def _let_go(self) -> None:
        if self._lock is not None:
            self._skipped_before += self._lock.skipped
        for part in (self._info, self._info_lock, self._data, self._lock):
            if part is not None:
                part.close()
        self._info = self._info_lock = self._data = self._lock = None

    def blank(self) -> TakenPicture | None:
        """See `bridge.interop.adaptor.InputEndpoint`: the sender says how large its pictures are, so None."""
        return None

    def switch(self, name: str) -> None:
        """See `bridge.interop.adaptor.InputEndpoint`."""
        self.close()
        self.name, self._look_at, self._sound_at = name, 0.0, 0.0
        self._novelty = Novelty()

    def close(self) -> None:
        """See `bridge.interop.adaptor.InputEndpoint`."""
        self._let_go()
        if self._skipped_before:
            self._notices.tell(f"td:{self.name}: its mutex was held by others at {self._skipped_before} tries to read")
        self._skipped_before = 0


class TdOutput:
    """Writes what a Shared Mem In TOP called `name` reads. `skipped` counts frames lost to a held mutex.

    version: of the header, 1 or 2. Raises AdaptorError where names cannot be reached.
    """

    def __init__(self, name: str, say: Callable[[str], None], version: int = 2) -> None:
        self.name = check_name(name)
        self._version = version
        self._notices = Notices(say)
        self._infos: list[tuple[NamedMemory, _Guarded]] = []
        self._postfix = ""
        self._former_left = False
        """Whether the sender whose memory was found had left in order; then it lives on only in a receiver."""
        self._data: NamedMemory | None = None
        # The mutexes before the memory, as owners do.
        self._lock = _Guarded(lock_name(data_name(name)), self._notices)

    @property
    def skipped(self) -> int:
        return self._lock.skipped

    def put(self, frame: Frame) -> bool:
        """See `bridge.interop.adaptor.OutputEndpoint`."""
        try:
            return self._put(frame)
        except AdaptorError as error:
            self._notices.tell(f"td:{self.name}: {error}")
            return False

    def _put(self, frame: Frame) -> bool:
        pixels = frame.planes.get(Kind.COLOUR)
        if pixels is None:
            return False
        height, width = pixels.shape[:2]
        if max(width, height) > MAX_SIDE_PX:
            raise AdaptorError(
                f"a picture of {width} x {height} is beyond the {MAX_SIDE_PX} of a TOP; use a smaller size"
            )
        pixels, number = sendable(pixels, frame.formats[Kind.COLOUR], frame.colour_space)
        header = pack_header(self._version, width, height, number)
        offset = HEADER_SIZES[self._version]
        size = parse_header(header, 1 << 62).data_bytes
        if not self._make_room(offset + size):
            return False
        assert self._data is not None
        if not self._lock.take():
            return False
        try:
            whole = self._data.bytes
            whole[:offset] = memoryview(header)
            fill(whole[offset : offset + size], pixels, frame.origin)
        finally:
            self._lock.give()
        return True

    def _make_room(self, size: int) -> bool:
        """Have memory of at least `size` bytes that receivers know of; False when that has to wait."""
        if self._data is not None and self._data.current() and self._data.bytes.size >= size:
            return True
        first = self._data is None
        taken: list[_Guarded] = []
        try:
            for _, lock in self._open_infos():
                if not lock.take():
                    return False
                taken.append(lock)
            if self._data is not None:
                self._data.remove()
                self._data = None
            followed = any(info.bytes[INFO_SUPPORTED] for info, _ in self._infos)
            postfix = "" if not followed else _random_postfix()
            try:
                self._data = create_memory(data_name(self.name, postfix), size)
            except AlreadyThere:
                # A receiver or a former sender still has it: move to a name of our own, as after a resize.
                if not first:
                    self._notices.tell(
                        f"td:{self.name}: a receiver that cannot follow a larger picture holds the old memory; "
                        "make its Shared Mem In TOP look again (change its name and back)"
                    )
                elif not self._former_left:
                    self._notices.tell(self._taken_over)
                postfix = _random_postfix()
                self._data = create_memory(data_name(self.name, postfix), size)
            self._postfix = postfix
            for info, _ in self._infos:
                info.bytes[INFO_POSTFIX : INFO_POSTFIX + 64] = memoryview(pack_postfix(postfix))
        finally:
            for lock in taken:
                lock.give()
        return True

    def _open_infos(self) -> list[tuple[NamedMemory, _Guarded]]:
        """Both info blocks, made anew unless they are there. A former sender's keeps who follows it."""
        if not self._infos:
            for name in info_names(self.name):
                lock = _Guarded(lock_name(name), self._notices)
                try:
                    info = create_memory(name, INFO_SIZE)
                except AlreadyThere:
                    found = open_memory(name)
                    if found is None or found.bytes.size < INFO_SIZE:
                        raise AdaptorError(f"{name} is something else; use another name") from None
                    info = found
                    supported = bool(info.bytes[INFO_SUPPORTED])
                    self._sweep(info)
                else:
                    supported = False
                info.bytes[:INFO_SIZE] = memoryview(pack_info(Info(supported, self._postfix, False)))
                self._infos.append((info, lock))
        return self._infos

    @property
    def _taken_over(self) -> str:
        return (
            f"td:{self.name}: memory of that name is there already and is taken over; if it is another sender's, "
            "give one of the two another name"
        )

    def _sweep(self, info: NamedMemory) -> None:
        """Remove the pictures of a former sender, whose info block is about to be taken over."""
        try:
            former = parse_info(info.bytes[:INFO_SIZE].tobytes())
        except FormatError:
            self._notices.tell(self._taken_over)
            return
        self._former_left = former.detach
        if not former.detach:
            self._notices.tell(self._taken_over)
        left = open_memory(data_name(self.name, former.postfix))
        if left is not None:
            left.remove()

    def close(self) -> None:
        """See `bridge.interop.adaptor.OutputEndpoint`."""
        for info, lock in self._infos:
            # Without its mutex too: nothing is sent after this, whoever holds it.
            held = lock.take()
            info.bytes[INFO_DETACH] = 1
            if held:
                lock.give()
            info.remove()
            lock.remove()
        self._infos.clear()
        if self._data is not None:
            self._data.remove()
            self._data = None
        self._lock.remove()
        if self._lock.skipped:
            self._notices.tell(
                f"td:{self.name}: {self._lock.skipped} results were skipped, its mutex was held by others"
            )
        self._lock.skipped = 0


def _random_postfix() -> str:
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(POSTFIX_CHARS))


def open_input(rest: str, say: Callable[[str], None]) -> TdInput:
    """From what stands after `td:`. Raises AdaptorError."""
    name, _, how = rest.partition(":")
    if how not in ("", "linear"):
        raise AdaptorError(
            f"td:{rest}: write td:NAME, or td:NAME:linear where 16-bit and float pixels are linear light"
        )
    return TdInput(name, say, linear=bool(how))


def open_output(rest: str, say: Callable[[str], None]) -> TdOutput:
    """From what stands after `td:`. Raises AdaptorError."""
    name, _, version = rest.partition(":")
    versions = {"": 2, "v2": 2, "v1": 1}
    if version not in versions:
        raise AdaptorError(f"td:{rest}: write td:NAME, or td:NAME:v1 for TouchDesigner before 2025")
    return TdOutput(name, say, versions[version])
