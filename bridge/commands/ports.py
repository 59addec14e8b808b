"""Where the servers of a command listen, and what happens when somebody else does there already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from bridge.control.ports import OSC_PORT, PAGE_PORT
from bridge.terminal import say

__all__ = ["OSC_PORT", "PAGE_PORT", "started"]


class Server(Protocol):
    """What listens. port: the one it has, once it has started."""

    port: int

    def start(self) -> None: ...


Made = TypeVar("Made", bound=Server)


def started(make: Callable[[int], Made], port: int, taken: type[Exception], note: str | None) -> Made:
    """The server, made for `port` and started; with a note on any free port when that one is `taken`.

    note: said then, with the two ports put in for {wanted} and {port}; None: `taken` is raised instead.
    """
    server = make(port)
    try:
        server.start()
    except taken:
        if note is None:
            raise
        server = make(0)
        server.start()
        say(note.format(wanted=port, port=server.port))
    return server
