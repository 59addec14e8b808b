"""Everybody who looks at the channels of a gateway or sends to them, and what each is owed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from bridge.page import limits
from bridge.page.lines import Line, Viewer
from bridge.page.packet import Encoding
from bridge.page.picture import Packet
from bridge.page.ring_view import RingView
from bridge.page.room import Room
from bridge.ring.clock import now_ns


class Audience:
    """viewers, senders: those who are there now, of all `rooms` (by the channel's name) together."""

    def __init__(self, rooms: Mapping[str, Room]) -> None:
        self.rooms = rooms
        self.viewers: set[Viewer] = set()
        self.senders: set[Line] = set()

    def snapshot(self, channel: str | None = None) -> dict[str, Any]:
        """The statistics of the channel's host and what the gateway itself did, as plain JSON-able values."""
        room = self.rooms[channel or next(iter(self.rooms))]
        statistics = room.about.statistics
        rings = {
            s.name: {"state": s.state, "message": s.message, "encoded": s.encoded, "sent": s.sent}
            for s in room.views.values()
        }
        return {
            **(statistics.snapshot(limits.STATS_LOOK_BACK_S) if statistics is not None else {}),
            "now_ns": now_ns(),
            "viewers": len(self.viewers),
            "senders": len(self.senders),
            "rings": rings,
            "phase": room.phase,
            **room.model(),
            "travelling": room.about.presets is not None and room.about.presets.travelling,
            "recording": None if room.about.recordings is None else room.about.recordings.state(),
        }

    def offer(self, view: RingView, packets: dict[Encoding, Packet], state: str) -> None:
        """Hand a view's new frame and state to those who look at it. On the loop's thread, as all below."""
        if packets:
            view.packets = packets
        for viewer in self.viewers:
            if viewer.view is not view:
                continue
            if viewer.state_told != state:
                viewer.state_told = state
                viewer.tell("state", state)
            packet = view.packets.get(viewer.codec)
            if packet is not None and packet.key != viewer.shown and viewer.credits > 0:
                viewer.offered = packet
                viewer.wake.set()
        self.want(view)

    def want(self, view: RingView) -> None:
        """Tell a view what its viewers wait for."""
        view.wanted = frozenset(v.codec for v in self.viewers if v.view is view and v.waits)
        if view.wanted:
            view.wake.set()

    def params_changed(self, room: Room) -> None:
        """Tell the viewers of a channel what anybody set."""
        text = json.dumps(room.params())
        for viewer in self.viewers:
            if viewer.view.channel == room.about.name:
                viewer.tell("params", text)

    def presets_changed(self, room: Room) -> None:
        """Tell the viewers of a channel that its presets are others."""
        for viewer in self.viewers:
            if viewer.view.channel == room.about.name:
                viewer.tell("presets", json.dumps({"type": "presets"}))

    async def tick(self) -> None:
        """Send the statistics, for ever."""
        while True:
            await asyncio.sleep(limits.STATS_EVERY_S)
            for name in {viewer.view.channel for viewer in self.viewers}:
                text = json.dumps({"type": "stats", **self.snapshot(name)})
                for viewer in self.viewers:
                    if viewer.view.channel == name:
                        viewer.tell("stats", text)

    @property
    def full(self) -> bool:
        """Whether there is room for nobody more."""
        return len(self.viewers) + len(self.senders) >= limits.MAX_VIEWERS

    @contextlib.contextmanager
    def watching(self, viewer: Viewer) -> Iterator[None]:
        """A viewer counts as long as this lasts."""
        self.viewers.add(viewer)
        try:
            yield
        finally:
            self.viewers.discard(viewer)
            self.want(viewer.view)

    async def picture_for(self, viewer: Viewer, timeout_s: float) -> Packet | None:
        """The newest frame that the viewer has not had; None after `timeout_s` seconds without one."""
        viewer.credits = 1
        self.want(viewer.view)
        try:
            async with asyncio.timeout(timeout_s):
                while (packet := viewer.take()) is None:
                    viewer.wake.clear()
                    await viewer.wake.wait()
        except TimeoutError:
            return None
        return packet
