"""A camera or a video, read with OpenCV and repainted; what went in and what came back, side by side, become a video.

    python3 run.py host --channel demo
    .venv/bin/python examples/02_camera.py              your camera
    .venv/bin/python examples/02_camera.py clip.mp4     a video, or the address of a network camera

You see the repainted pictures on the host's page (http://127.0.0.1:8790) and, after Ctrl-C or at the video's end, the
file out/before_after.mp4. Every result is shown beside the very picture that it was made from: they share a number.
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from bridge.ring import Kind, RingError, RingReader, RingWriter, State, now_ns

KEPT = 64
"""So many pictures are kept until their results come: two seconds of a camera."""


def square(bgr: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture (height, width, BGR) as size x size pixels."""
    height, width = bgr.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(bgr[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)


def main() -> None:
    parser = argparse.ArgumentParser(description="Repaints a camera or a video; see the top of this file.")
    parser.add_argument("source", nargs="?", default="0", help="number of a camera (default 0), a file or an address")
    parser.add_argument("--channel", default="demo")
    parser.add_argument("--size", type=int, default=192, help="side of the pictures that are sent, in pixels")
    parser.add_argument("--save", type=Path, default=Path("out/before_after.mp4"), metavar="FILE")
    args = parser.parse_args()

    camera = cv2.VideoCapture(int(args.source) if args.source.isdigit() else args.source)
    if not camera.isOpened():
        sys.exit(f"no camera or video {args.source!r}: give the number of a camera or the path of a video")
    with RingWriter(f"{args.channel}.in") as to_host, RingReader(f"{args.channel}.out") as from_host:
        if from_host.state is State.LIVE:
            seconds = play(camera, to_host, from_host, args.size, args.save)
            print(f"{args.save}: {seconds:.1f} s, before on the left, after on the right")
        if from_host.state is not State.LIVE:
            sys.exit(
                f"no host is there for channel {args.channel!r}: start one with  "
                f"python3 run.py host --channel {args.channel}"
            )


def play(camera: cv2.VideoCapture, to_host: RingWriter, from_host: RingReader, size: int, path: Path) -> float:
    """Send pictures and save what comes back, until either side ends; the length of the saved video in seconds."""
    fps = camera.get(cv2.CAP_PROP_FPS) or 30.0
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (2 * size, size))
    started_ns = now_ns()
    sent: dict[int, np.ndarray] = {}
    pair = None
    number = saved = 0
    due_s = time.monotonic()
    try:
        while from_host.state is State.LIVE:
            # Until the host has loaded its model the first picture is sent again and again, and no film is missed.
            if number == 0 or pair is not None:
                there, bgr = camera.read()
                if not there:
                    break
            number += 1
            sent[number] = square(bgr, size)
            sent.pop(number - KEPT, None)
            to_host.write({Kind.COLOUR: cv2.cvtColor(sent[number], cv2.COLOR_BGR2RGB)}, source_frame_id=number)
            due_s = max(due_s + 1 / fps, time.monotonic())  # a file is read no faster than it plays
            frame = from_host.read(timeout_s=max(0.0, due_s - time.monotonic()))
            if frame is not None and frame.capture_ns > started_ns and frame.source_frame_id in sent:
                painted = cv2.cvtColor(frame.planes[Kind.COLOUR], cv2.COLOR_RGBA2BGR)
                pair = np.hstack([sent[frame.source_frame_id], cv2.resize(painted, (size, size))])
            if pair is not None:
                video.write(pair)
                saved += 1
            time.sleep(max(0.0, due_s - time.monotonic()))
    except KeyboardInterrupt:
        pass
    video.release()
    return saved / fps


if __name__ == "__main__":
    try:
        main()
    except RingError as error:
        sys.exit(str(error))
