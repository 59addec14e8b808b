"""A depth sensor beside a camera: find where it stands and how late it is, then use its points as the camera's depth.

    python3 examples/07_calibration.py                 people walk about for twelve seconds; takes about two minutes
    python3 examples/07_calibration.py --quick         four seconds, with masks and labels that come with the frames

A room in which people walk plays the parts of both: it writes pictures into calib-camera.in and points into
calib-sensor.in, on a clock of its own that runs an hour ahead. With real devices your clients write these channels, and
the two commands are all there is to do:

    python3 run.py calibrate --camera calib-camera --points calib-sensor --out rig.json
    python3 run.py project --rig rig.json --camera calib-camera --points calib-sensor --channel aligned
    python3 run.py host --channel aligned              then: /temporal engine
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bridge.commands import calibrate, project
from bridge.ring import Kind, RingReader, RingWriter
from core.calibration.geometry import T_CAMERA_AXES, angle_deg, rotation_vector
from core.calibration.rig import load_rig
from core.calibration.synthetic import Pinhole, Sequence, room

CAMERA_HZ = 15.0
AHEAD_NS = 3_600_000_000_000


class Devices:
    """Both devices: what they see, played into their channels at its own speed, as often as wanted."""

    def __init__(self, world: Sequence, seconds: float, name: str) -> None:
        self.camera, self.sensor = f"{name}-camera", f"{name}-sensor"
        self._world, self._seconds = world, seconds
        fx, fy, cx, cy = world.K[0, 0], world.K[1, 1], world.K[0, 2], world.K[1, 2]
        self._lens = (fx, fy, cx, cy)
        # (moment, which channel, planes, stamp): made before, so that playing costs nothing.
        self._events = []
        for k, stamp_ns in enumerate(world.camera_ns):
            planes = {Kind.COLOUR: world.picture(k), Kind.MASK: world.true_mask(k).astype(np.uint8)}
            self._events.append((stamp_ns * 1e-9 + world.truth.offset_s, True, planes, stamp_ns))
        for k, stamp_ns in enumerate(world.lidar_ns):
            scan = world.scan(k)
            # In the place of the intensity: whether it is a person, which only --quick looks at.
            cloud = np.column_stack([scan.points, scan.chosen]).astype(np.float32)
            self._events.append((stamp_ns * 1e-9, False, {Kind.POINTS: cloud[None]}, stamp_ns + AHEAD_NS))
        self._events.sort(key=lambda event: event[0])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name="devices")

    def _play(self) -> None:
        with (
            RingWriter(f"{self.camera}.in", capacity_bytes=1 << 20) as pictures,
            RingWriter(f"{self.sensor}.in", capacity_bytes=1 << 20) as clouds,
        ):
            started, first_s = time.monotonic(), self._events[0][0]
            for turn in range(1000):
                # The clocks go on when the scene begins anew.
                gone_s = turn * (self._seconds + 1.0 / CAMERA_HZ)
                for number, (moment_s, is_picture, planes, stamp_ns) in enumerate(self._events):
                    if self._stop.wait(max(0.0, started + gone_s + moment_s - first_s - time.monotonic())):
                        return
                    writer = pictures if is_picture else clouds
                    writer.write(
                        planes,
                        capture_ns=stamp_ns + round(gone_s * 1e9),
                        source_frame_id=number + 1,
                        intrinsics=self._lens if is_picture else None,
                    )

    def __enter__(self) -> Devices:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def depth_of(stamp_ns: int, plane: np.ndarray, world: Sequence, seconds: float) -> float:
    """Median relative error of a depth plane against the truth, for the picture with this stamp."""
    turn_ns = round((seconds + 1.0 / CAMERA_HZ) * 1e9)
    stamps = np.array(world.camera_ns)
    turns = max(0, round((stamp_ns - stamps[0]) // turn_ns))
    true = world.depth(int(np.argmin(np.abs(stamps + turns * turn_ns - stamp_ns))))
    known = plane > 0
    return float(np.median(np.abs(plane[known] - true[known]) / true[known]))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs the whole thing; gives back what was reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four seconds, with masks and labels")
    parser.add_argument("--out", type=Path, default=None, help="folder for the rig, the film and the plots")
    parser.add_argument("--name", default="calib", help="channels NAME-camera, NAME-sensor and NAME-aligned")
    parser.add_argument("--seed", type=int, default=21, help="which room")
    args = parser.parse_args(argv)
    seconds, scans = (4.0, 20) if args.quick else (12.0, 60)
    print(f"rendering {seconds:g} seconds of a room", flush=True)
    world = room(
        args.seed,
        frames=scans,
        seconds=seconds,
        estimated_flow=True,
        camera=Pinhole(320, 180, 250.0),
        camera_hz=CAMERA_HZ,
    )
    # What somebody who mounted the sensor would say: half a metre, and roughly which way.
    true = world.truth.T_cam_lidar
    turn = np.degrees(rotation_vector(true[:3, :3] @ T_CAMERA_AXES.T)) + (2.0, -2.0, 1.5)
    place = true[:3, 3] + (0.1, -0.08, 0.1)
    with tempfile.TemporaryDirectory() as scratch, Devices(world, seconds, args.name) as devices:
        folder = args.out or Path(scratch)
        rig_file, aligned = folder / "rig.json", f"{args.name}-aligned"
        words = ["--camera", devices.camera, "--points", devices.sensor, "--seconds", str(seconds - 0.2)]
        words += [
            "--out",
            str(rig_file),
            "--position=" + ",".join(map(str, place)),
            "--turn=" + ",".join(map(str, turn)),
        ]
        if args.quick:
            words += ["--mask", "plane", "--class-of-points", "labels", "--passes", "1"]
        else:
            words += ["--mask", "moving", "--class-of-points", "moving"]
        if calibrate.main(words) != 0:
            raise SystemExit("nothing trustworthy was found; see above")
        rig = load_rig(rig_file)
        words = ["--rig", str(rig_file), "--camera", devices.camera, "--points", devices.sensor]
        words += ["--channel", aligned, "--frames", "30"]
        errors = []
        thread = threading.Thread(target=lambda: errors.extend(watch(aligned, world, seconds)), name="watch")
        thread.start()
        project.main(words)
        thread.join()
    reached = {
        "rotation_deg": angle_deg(rig.T_cam_lidar[:3, :3] @ true[:3, :3].T),
        "translation_cm": 100.0 * float(np.linalg.norm(rig.T_cam_lidar[:3, 3] - true[:3, 3])),
        "offset_ms": 1e3 * abs(rig.offset_s - AHEAD_NS * 1e-9 - world.truth.offset_s),
        "depth": float(np.median(errors)),
    }
    print(
        f"off by {reached['rotation_deg']:.2f} degrees, {reached['translation_cm']:.1f} cm and "
        f"{reached['offset_ms']:.1f} ms; depth in the camera's frames off by {reached['depth']:.1%} (median)"
    )
    return reached


def watch(channel: str, world: Sequence, seconds: float) -> list[float]:
    """Errors of the depth planes that come through, until their writer is gone."""
    errors = []
    with RingReader(f"{channel}.in") as reader:
        patience = 60
        while patience:
            frame = reader.read(timeout_s=0.5)
            if frame is None:
                patience = min(patience - 1, 4) if errors else patience - 1
            elif (frame.planes[Kind.DEPTH] > 0).any():
                errors.append(depth_of(frame.capture_ns, frame.planes[Kind.DEPTH], world, seconds))
    return errors


if __name__ == "__main__":
    main()
