"""A client in Python: writes pictures into a channel and reads what the host makes of them.

    python3 run.py host --channel demo        the host, which also serves a page
    .venv/bin/python examples/01_client.py    this program, in another terminal (Windows: .venv\\Scripts\\python)

You see a line for every result: of which frame it was made, and how many milliseconds ago that was written. The page
(http://127.0.0.1:8790) shows a disc that moves in a circle, repainted. The program ends after 300 results.
"""

import math
import sys

import numpy as np

from bridge.ring import Kind, RingReader, RingWriter, State, now_ns

channel = sys.argv[1] if len(sys.argv) > 1 else "demo"
y, x = np.mgrid[0:192, 0:192]
started_ns = now_ns()
number = results = 0
print("waiting for the first result: it comes when the host has loaded its model")
with RingWriter(f"{channel}.in") as to_host, RingReader(f"{channel}.out") as from_host:
    while results < 300 and from_host.state is State.LIVE:
        number += 1
        disc = np.hypot(x - 96 - 50 * math.cos(number / 30), y - 96 - 50 * math.sin(number / 30)) < 32
        picture = np.where(disc[..., None], (210, 210, 210), (70, 80, 100)).astype(np.uint8)  # height, width, RGB
        to_host.write({Kind.COLOUR: picture}, source_frame_id=number)
        # The newest result, or None: the model is slower, or still being loaded. Waiting here sets the pace.
        frame = from_host.read(timeout_s=1 / 30)
        if frame is None or frame.capture_ns < started_ns:  # made from a frame of an earlier client
            continue
        results += 1
        painted = frame.planes[Kind.COLOUR]  # uint8, height, width, RGBA, of the size that the host works at
        age_ms = (now_ns() - frame.capture_ns) / 1e6
        print(f"result {results}: frame {frame.source_frame_id}, {age_ms:.1f} ms after it was written, {painted.shape}")

if results < 300:
    sys.exit(f"no host is there for channel {channel!r}: start one with  python3 run.py host --channel {channel}")
