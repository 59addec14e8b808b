"""`frameloom project`: a sensor's points become the depth plane of each camera frame, in space and time.

    frameloom project --rig rig.json --camera stage --points lidar --channel aligned

Reads stage.in and lidar.in, writes aligned.in: the camera's frames with depth and motion, which a host with
`--channel aligned` and `temporal engine` follows, and any model that asks for depth.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bridge.commands.arguments import Parser, add_json_option, parse_channel, parse_count
from bridge.commands.signals import Stop, ending_signals
from bridge.control.statistics import peak_memory_mb
from bridge.ring.errors import RingError
from bridge.terminal import print_result, say, status, status_every_s

READ_S = 0.1
REPORT_EVERY_S = 10.0
ENDED_S = 5.0
"""A camera that is gone for so long ends this command when it was told how many frames to write."""
MOTIONS = ("auto", "none")


class ProjectError(Exception):
    """Frames that cannot be aligned. The message says why and what to do."""


class Aligned:
    """The camera's frames, one after another, with the depth of their own moment."""

    def __init__(self, rig: Any, fill_px: int | None, motion: str) -> None:
        from core.calibration.align import Aligner, Motion

        self.aligner = Aligner(rig, fill_px)
        self._motion = Motion() if motion == "auto" else None
        self._size = rig.size
        self._pose: tuple[Any, int] | None = None
        self._last_ns: int | None = None
        self.without_depth = 0

    def planes(self, frame: Any) -> dict[Any, Any]:
        """Planes of one camera frame to write: colour, mask and motion as they came, depth, estimated motion.

        Raises `ProjectError` for a frame of another size than the rig's.
        """
        from bridge.commands.footage import picture_of, upright
        from bridge.ring import Kind
        from core.calibration.geometry import twist_between

        rgb = picture_of(frame)
        if rgb is None or (rgb.shape[1], rgb.shape[0]) != self._size:
            shown = "no colour plane" if rgb is None else f"{rgb.shape[1]}x{rgb.shape[0]} pixels"
            width, height = self._size
            raise ProjectError(f"the camera sends {shown} and the rig is for {width}x{height}; calibrate at that size")
        out = {Kind.COLOUR: rgb}
        mask, back = upright(frame, Kind.MASK), upright(frame, Kind.MOTION)
        if mask is not None:
            out[Kind.MASK] = mask
        if back is None and self._motion is not None:
            back = self._motion.back(rgb)
        seconds = 0.0 if self._last_ns is None else (frame.capture_ns - self._last_ns) * 1e-9
        self._last_ns = frame.capture_ns
        twist = None
        if frame.T_world_camera is not None:
            if self._pose is not None and 0 < seconds < 1.0:
                twist = twist_between(self._pose[0], frame.T_world_camera.astype(float), seconds)
            self._pose = (frame.T_world_camera.astype(float), frame.capture_ns)
        flow = None
        if back is not None:
            out[Kind.MOTION] = back
            if 0 < seconds < 1.0:
                flow = np.nan_to_num(-np.asarray(back, np.float32) / np.float32(seconds), posinf=0.0, neginf=0.0)
        if twist is not None and np.abs(twist).max() < 0.02:
            # A rig that stands still: what moves is in the picture.
            twist = None
        depth = self.aligner.plane(frame.capture_ns, twist, flow)
        if depth is None:
            self.without_depth += 1
            depth = np.zeros(self._size[::-1], np.float32)
        out[Kind.DEPTH] = depth
        return out


def run(args: argparse.Namespace, rig: Any, stop: threading.Event) -> dict[str, Any]:
    """Align until `stop` or until `args.frames` frames are written; what was done. Raises RingError, ProjectError."""
    from bridge.commands.footage import RingFollower, points_of
    from bridge.ring import RingReader, RingWriter

    aligned = Aligned(rig, args.fill, args.motion)

    def take_cloud(frame: Any) -> None:
        points = points_of(frame)
        if points is not None:
            aligned.aligner.add(points, frame.capture_ns)

    ended = threading.Event()
    clouds = RingFollower(args.points, take_cloud, ended)
    K, (width, height) = rig.K, rig.size
    lens = (K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    written, spent_s = 0, 0.0
    began = reported = came = time.monotonic()
    try:
        # 3 bytes a pixel for colour, 1 for the mask, 4 each for depth and motion.
        room = width * height * 12 + 65536
        with RingReader(f"{args.camera}.in") as camera, RingWriter(f"{args.channel}.in", capacity_bytes=room) as writer:
            while not stop.is_set() and not ended.is_set() and (args.frames is None or written < args.frames):
                frame = camera.read(READ_S)
                now = time.monotonic()
                if frame is not None:
                    came = now
                    planes = aligned.planes(frame)
                    writer.write(
                        planes,
                        source_frame_id=frame.source_frame_id,
                        capture_ns=frame.capture_ns,
                        T_world_camera=frame.T_world_camera,
                        intrinsics=lens,
                    )
                    written += 1
                    spent_s += time.monotonic() - now
                elif args.frames is not None and written and now - came > ENDED_S:
                    break
                if now - reported >= status_every_s(REPORT_EVERY_S):
                    reported = now
                    status(f"project: {written} frames, {aligned.without_depth} without a scan near in time")
    finally:
        clouds.join()
    return {
        "frames": written,
        "without_depth": aligned.without_depth,
        "fill_px": aligned.aligner.fill_px,
        "ms_per_frame": round(1e3 * spent_s / max(written, 1), 2),
        "seconds": round(time.monotonic() - began, 2),
        "peak_memory_mb": peak_memory_mb(),
    }


def main(argv: list[str] | None = None) -> int:
    """Align until stopped; the last line of standard output is JSON, on a terminal only where that is asked for."""
    parser = Parser("project", description="Write a camera's frames with depth from another sensor's points.")
    parser.add_argument("--rig", type=Path, required=True, help="rig file that calibrate wrote")
    parser.add_argument(
        "--camera", type=parse_channel, metavar="NAME", required=True, help="pictures are read from NAME.in"
    )
    parser.add_argument(
        "--points", type=parse_channel, metavar="NAME", required=True, help="clouds are read from NAME.in"
    )
    parser.add_argument(
        "--channel", type=parse_channel, metavar="NAME", required=True, help="frames with depth go to NAME.in"
    )
    parser.add_argument(
        "--fill", type=int, default=None, metavar="PX", help="widest hole to fill; 0: none (default: measured)"
    )
    parser.add_argument(
        "--motion", choices=MOTIONS, default="auto", help="auto: estimate motion where the camera sends none"
    )
    parser.add_argument("--frames", type=parse_count, default=None, help="stop after so many frames")
    add_json_option(parser)
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if args.fill is not None and not 0 <= args.fill <= 99:
        parser.error("--fill is a width in pixels, 0 to 99")
    if args.channel in (args.camera, args.points):
        parser.error("--channel must be another one than those that are read")
    # Loaded after the arguments are understood, so that --help and mistakes answer at once.
    from core.calibration.rig import RigError, load_rig

    before = {number: signal.getsignal(number) for number in ending_signals()}
    stop = Stop()
    try:
        rig = load_rig(args.rig)
        if not rig.accepted:
            raise RigError(f"{args.rig} was not accepted by its own calibration; calibrate again")
        if rig.offset_ns is None:
            say("project: the rig knows no clock offset, so scans are matched by their stamps as they are")
        for number in ending_signals():
            signal.signal(number, stop.on_signal)
        done = run(args, rig, stop.event)
    except (RigError, RingError, ProjectError) as error:
        say(f"project: {error}")
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    say(f"project: {done['frames']} frames in {done['seconds']:.0f} s")
    print_result(done, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
