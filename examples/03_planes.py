"""A client that knows more than colour: it sends depth, motion and a mask with every picture, as a game engine would.

    python3 run.py host --channel demo --set temporal=engine
    .venv/bin/python examples/03_planes.py

You see, once, what is in every plane, then a line per second; on the host's page (http://127.0.0.1:8790) a small world
of moving shapes, repainted. Change "Temporal" there: with engine, which reads motion, depth and the mask (what was
another object is not carried over), the picture is steady; with off every picture is painted by itself and flickers.
"""

import argparse
import sys
import time

import numpy as np
import torch

from bridge.ring import Kind, RingError, RingReader, RingWriter, State, now_ns
from core.world import CLASSES, World

SIZE = 192
FPS = 30.0


def planes_at(world: World, time_s: float) -> dict[Kind, np.ndarray]:
    """What a client may send of one moment; the formats are those of bridge/PROTOCOL.md, section 3."""
    made = world.render(time_s, SIZE, SIZE, planes=("colour", "depth", "motion", "class"), motion_dt_s=1 / FPS)
    scene = {name: plane.numpy() for name, plane in made.items()}
    return {
        Kind.COLOUR: scene["colour"],  # uint8 (height, width, 3), RGB
        Kind.DEPTH: scene["depth"],  # float32 (height, width), metres along the optical axis
        # float16 (height, width, 2), pixels, x to the right, y down: where the surface was in the picture before. This
        # world, like many engines, says where it came from the other way round.
        Kind.MOTION: -scene["motion"].astype(np.float16),
        Kind.MASK: np.where(scene["class"] == CLASSES.index("sphere"), 255, 0).astype(np.uint8),  # the spheres
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Sends depth, motion and a mask with its pictures; see the top.")
    parser.add_argument("--channel", default="demo")
    parser.add_argument("--frames", type=int, default=1800, help="stop after so many; a minute by default")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the world is drawn with torch, and the host's model needs the other cores
    world = World(seed=0)
    started_ns = now_ns()
    results = 0
    with RingWriter(f"{args.channel}.in") as to_host, RingReader(f"{args.channel}.out") as from_host:
        due_s = time.monotonic()
        for number in range(1, args.frames + 1):
            if from_host.state is not State.LIVE:
                sys.exit(
                    f"no host is there for channel {args.channel!r}: start one with  "
                    f"python3 run.py host --channel {args.channel} --set temporal=engine"
                )
            time_s = number / FPS
            captured_ns = now_ns()
            planes = planes_at(world, time_s)
            if number == 1:
                for kind, plane in planes.items():
                    print(f"{kind.name:7}{plane.dtype} {plane.shape}, {plane.min():.2f} to {plane.max():.2f}")
            to_host.write(
                planes,
                source_frame_id=number,
                capture_ns=captured_ns,
                T_world_camera=world.T_world_cam(time_s).numpy(),  # camera: x right, y down, z forward, metres
            )
            due_s = max(due_s + 1 / FPS, time.monotonic())
            frame = from_host.read(timeout_s=max(0.0, due_s - time.monotonic()))
            if frame is not None and frame.capture_ns > started_ns:
                results += 1
            if number % FPS == 0:
                print(f"{number} frames written, {results} results came back")
            time.sleep(max(0.0, due_s - time.monotonic()))


if __name__ == "__main__":
    try:
        main()
    except RingError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
