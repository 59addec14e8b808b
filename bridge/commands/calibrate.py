"""`frameloom calibrate`: where a depth sensor stands to a camera, and how late its data is, from ordinary footage.

    frameloom calibrate --camera stage --points lidar          two live channels: stage.in, lidar.in
    frameloom calibrate --recording FOLDER                     what --record kept
    frameloom calibrate --kitti 2011_09_26/2011_09_26_drive_0005_sync --mask labels:FOLDER

Writes the rig as JSON and, beside it, a film of the points before and after and two plots.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bridge.commands.arguments import (
    Parser,
    add_json_option,
    parse_channel,
    parse_count,
    parse_file,
    parse_folder,
    parse_seed,
)
from bridge.commands.signals import Stop, ending_signals
from bridge.control.statistics import peak_memory_mb
from bridge.ring.errors import RingError
from bridge.terminal import print_result, say, status

CLASSES = ("car", "person", "bicyclist", "bus", "truck")
MASKS = "plane, moving, labels:FOLDER, or MODULE:FUNCTION"
POINTS = ("labels", "moving", "ground", "mask")
AXES = ("lidar", "camera")
ONE_CLOCK_S = 1.0
"""Clocks that seem further apart than this by the times of publication are two."""


def _numbers(count: int) -> Callable[[str], tuple[float, ...]]:
    def parse(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count or not all(np.isfinite(values)):
            raise argparse.ArgumentTypeError(f"{text!r}: use {count} numbers with commas between them")
        return values

    return parse


def _values(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: use whole numbers with commas between them") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "calibrate",
        description="Find where a depth sensor stands to a camera, and how late its data is, without targets: let "
        "people walk about in both views for 15 seconds, near and far, or drive past parked cars, stop and go.",
    )
    source = parser.add_argument_group("what to calibrate from: two channels, a recording, or a KITTI folder")
    source.add_argument("--camera", type=parse_channel, metavar="NAME", help="pictures are read from NAME.in")
    source.add_argument(
        "--points", type=parse_channel, metavar="NAME", help="clouds are read from NAME.in; may be the camera's channel"
    )
    source.add_argument("--seconds", type=float, default=15.0, help="how long to record two channels (default 15)")
    source.add_argument("--record", type=parse_folder, metavar="FOLDER", help="keep what is recorded in this folder")
    source.add_argument("--recording", type=Path, metavar="FOLDER", help="a folder that --record kept")
    source.add_argument("--kitti", type=Path, metavar="FOLDER", help="one KITTI raw drive or odometry sequence")
    source.add_argument(
        "--kitti-camera", type=int, choices=range(4), default=2, help="number of the KITTI camera (default 2)"
    )
    source.add_argument(
        "--labels", type=Path, metavar="FOLDER", help="labels of the KITTI clouds, in SemanticKITTI's form"
    )
    marks = parser.add_argument_group("what both must show")
    marks.add_argument("--mask", metavar="HOW", help=f"pictures: {MASKS} (default: plane where one comes, else moving)")
    marks.add_argument("--mask-values", type=_values, default=(), help="values of the class (default: all but 0)")
    marks.add_argument(
        "--class-of-points", choices=POINTS, help="clouds (default: labels where KITTI has them, else moving)"
    )
    marks.add_argument("--point-values", type=_values, default=(), help="labels or intensities of the class")
    marks.add_argument(
        "--class", dest="name", choices=CLASSES, default="car", help="class of SemanticKITTI (default car)"
    )
    guess = parser.add_argument_group("first guess, right to some 12 degrees and 0.6 m")
    guess.add_argument("--start", type=Path, metavar="RIG", help="a rig file to begin from")
    guess.add_argument(
        "--axes",
        choices=AXES,
        default="lidar",
        help="axes of the sensor: x ahead, z up; or x right, z ahead (default lidar)",
    )
    guess.add_argument(
        "--position",
        type=_numbers(3),
        default=(0.0, 0.0, 0.0),
        metavar="X,Y,Z",
        help="of the sensor, metres right of, "
        "below and in front of the camera (default 0,0,0); write --position=-0.2,0,0 for a negative first number",
    )
    guess.add_argument(
        "--turn",
        type=_numbers(3),
        default=(0.0, 0.0, 0.0),
        metavar="X,Y,Z",
        help="how the sensor is turned against the camera, degrees about the camera's axes",
    )
    guess.add_argument("--offset-ms", type=float, help="how much later pictures are taken than scans of equal stamps")
    guess.add_argument(
        "--fov", type=float, metavar="DEG", help="horizontal field of view, where the client gives no lens"
    )
    guess.add_argument(
        "--focal", type=_numbers(4), metavar="FX,FY,CX,CY", help="intrinsics in pixels, in place of --fov"
    )
    work = parser.add_argument_group("work")
    work.add_argument("--frames", type=parse_count, default=20, help="pairs of picture and scan (default 20)")
    work.add_argument(
        "--passes", type=int, choices=(1, 2, 3), default=2, help="pair anew by what was found (default 2)"
    )
    work.add_argument("--seed", type=parse_seed, default=0, help="seed of the random samples (default 0)")
    work.add_argument("--out", type=parse_file, default=Path("rig.json"), help="rig file to write (default rig.json)")
    work.add_argument("--no-pictures", action="store_true", help="write neither film nor plots")
    add_json_option(parser)
    return parser


def _checked(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    ways = [args.camera is not None or args.points is not None, args.recording is not None, args.kitti is not None]
    if sum(ways) != 1:
        parser.error("give --camera and --points, or --recording, or --kitti")
    if ways[0] and (args.camera is None or args.points is None):
        parser.error("--camera and --points belong together; they may name the same channel")
    if args.record is not None and not ways[0]:
        parser.error("--record keeps what comes through --camera and --points")
    if not 1.0 <= args.seconds <= 600.0:
        parser.error("--seconds must be 1 to 600")
    if args.fov is not None and not 5.0 <= args.fov <= 170.0:
        parser.error("--fov is the horizontal field of view in degrees, 5 to 170")
    if args.offset_ms is not None and not np.isfinite(args.offset_ms):
        parser.error("--offset-ms must be a finite number")


def _intrinsics(args: argparse.Namespace, size: tuple[int, int] | None) -> Any:
    """(3,3) as the options say, None when they do not."""
    if args.focal is not None:
        fx, fy, cx, cy = args.focal
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    if args.fov is None or size is None:
        return None
    focal = 0.5 * size[0] / np.tan(np.radians(0.5 * args.fov))
    return np.array([[focal, 0, 0.5 * size[0]], [0, focal, 0.5 * size[1]], [0, 0, 1.0]])


def _segmenter(word: str) -> Callable[[Any], Any]:
    """`MODULE:FUNCTION`, from the current folder or anything installed. Raises `FootageError`."""
    from core.calibration.footage import FootageError

    module, _, name = word.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise FootageError(f"--mask {word}: {error}; use {MASKS}") from None
    finally:
        sys.path.pop(0)
    return found


def _masks(args: argparse.Namespace, footage: Any) -> Callable[[int], Any]:
    from core.calibration import segmentation as seg

    how = args.mask
    if how is None:
        how = "plane" if footage.camera_ns and footage.classes(0) is not None else "moving"
        say(f"calibrate: pictures by --mask {how}")
    if how == "plane":
        return seg.from_mask_plane(footage, args.mask_values)
    if how == "moving":
        return seg.changed(footage)
    if how.startswith("labels:"):
        return seg.from_pictures(Path(how.removeprefix("labels:")), args.mask_values)
    return seg.by_segmenter(footage, _segmenter(how))


def _chosen(args: argparse.Namespace, footage: Any, masks: Any, T: Any, offset_s: float) -> Callable[..., Any]:
    from core.calibration import segmentation as seg

    labelled = args.kitti is not None and footage.has_labels
    how = args.class_of_points or ("labels" if labelled else "moving")
    if args.class_of_points is None:
        say(f"calibrate: clouds by --class-of-points {how}")
    if how == "labels":
        return seg.by_label(args.point_values or (seg.SEMANTIC_KITTI[args.name] if labelled else ()))
    if how == "moving":
        return seg.away_from_background(footage)
    if how == "mask":
        return seg.InMasks(footage, masks, T, offset_s)
    up = np.array([0.0, 0.0, 1.0]) if args.axes == "lidar" else np.array([0.0, -1.0, 0.0])
    return seg.above_ground(up)


def _start(args: argparse.Namespace, footage: Any) -> tuple[Any, float]:
    """First guess of pose and offset in seconds."""
    from core.calibration.geometry import T_CAMERA_AXES, rigid, rotation
    from core.calibration.rig import load_rig

    offset_s = 0.0
    if args.start is not None:
        rig = load_rig(args.start)
        T, offset_s = rig.T_cam_lidar, rig.offset_s
    elif args.kitti is not None:
        T = footage.T_cam_lidar
    else:
        axes = T_CAMERA_AXES if args.axes == "lidar" else np.eye(3)
        T = rigid(rotation(np.radians(args.turn)) @ axes, np.array(args.position))
    if args.offset_ms is not None:
        return T, args.offset_ms * 1e-3
    if args.kitti is None and abs(footage.clocks_apart_s - offset_s) > ONE_CLOCK_S:
        offset_s = footage.clocks_apart_s
        say(f"calibrate: the two clocks are about {offset_s:.1f} s apart, by when the frames were published")
    return T, offset_s


def _footage(args: argparse.Namespace, folder: Path) -> Any:
    from core.calibration.footage import RecordedFootage, recorded_size
    from core.calibration.kitti import open_kitti

    if args.kitti is not None:
        return open_kitti(args.kitti, args.kitti_camera, args.labels)
    return RecordedFootage(folder, _intrinsics(args, recorded_size(folder)))


class _Progress:
    """Says every tenth of the way."""

    def __init__(self) -> None:
        self._said = 0

    def __call__(self, share: float) -> None:
        tenth = int(share * 10 + 1e-6)
        if tenth > self._said:
            self._said = tenth
            status(f"calibrate: solving, {10 * tenth} %")


def _solve(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything after recording; the summary for people and programs."""
    from core.calibration.calibrate import calibrate_recording
    from core.calibration.footage import Segmented
    from core.calibration.segmentation import InMasks
    from core.calibration.solver import SolverSettings

    footage = _footage(args, folder)
    T, offset_s = _start(args, footage)
    masks = _masks(args, footage)
    chosen = _chosen(args, footage, masks, T, offset_s)
    recording = Segmented(footage, masks, chosen)
    say(
        f"calibrate: {len(recording.camera_ns)} pictures of {footage.size[0]}x{footage.size[1]} and "
        f"{len(recording.lidar_ns)} clouds; motion by {recording.moves_by}"
    )
    started = time.monotonic()

    def better(rig: Any) -> None:
        if isinstance(chosen, InMasks):
            chosen.estimate(rig.T_cam_lidar, rig.offset_s)

    result = calibrate_recording(
        recording, T, offset_s, args.frames, args.passes, SolverSettings(seed=args.seed), _Progress(), better
    )
    rig = result.rig
    summary: dict[str, Any] = {
        "rig": None,
        "accepted": rig.accepted,
        "offset_ms": None if rig.offset_ns is None else rig.offset_ns * 1e-6,
        "sigma": {k: float(f"{v:.4g}") if np.isfinite(v) else None for k, v in rig.sigma().items()},
        "residual_px": float(f"{rig.residual_px:.4g}"),
        "fit": float(f"{result.fit:.4g}"),
        "flags": list(rig.flags),
        "solve_seconds": round(time.monotonic() - started, 2),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if not args.no_pictures:
        summary["pictures"] = _draw(args, recording, result)
    if rig.accepted:
        rig.save(args.out)
        summary["rig"] = str(args.out)
    return summary


def _draw(args: argparse.Namespace, recording: Any, result: Any) -> list[str]:
    from core.calibration import pictures as draw
    from core.calibration.calibrate import checked, loss_curves
    from core.calibration.recording import pair

    say("calibrate: drawing the points before and after, and the loss")
    stem = args.out.with_suffix("")
    film, losses, search = (Path(f"{stem}-{name}") for name in ("points.mp4", "loss.png", "search.png"))
    draw.write_film(film, draw.before_and_after(recording, result, max(args.frames, 20)))
    pairs, _ = checked(pair(recording, result.rig.offset_s, args.frames), recording.size)
    draw.write_picture(losses, draw.losses(result, loss_curves(pairs, result.rig, draw.HALF_WIDTHS)))
    draw.write_picture(search, draw.convergence(result))
    return [str(film), str(losses), str(search)]


def _told(summary: dict[str, Any]) -> None:
    sigma = summary["sigma"]
    for flag in summary["flags"]:
        say(f"calibrate: note: {flag}")
    if summary["offset_ms"] is None:
        offset = "no clock offset"
    else:
        offset = f"pictures {summary['offset_ms']:+.1f} ms after scans of equal stamps, to {sigma['offset_ms']:.1f} ms"
    say(
        f"calibrate: turned to {sigma['rotation_deg']:.2f} degrees and placed to {100 * sigma['translation_m']:.1f} cm "
        f"(standard deviations); {offset}; {summary['fit']:.0%} fit"
    )
    if summary["rig"] is None:
        say("calibrate: refused: no rig was written")
    else:
        say(f"calibrate: wrote {', '.join([summary['rig'], *summary.get('pictures', [])])}")


def main(argv: list[str] | None = None) -> int:
    """Calibrate once; the last line of standard output is JSON. 1 when nothing trustworthy was found."""
    parser = _parser()
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    _checked(parser, args)
    # Loaded after the arguments are understood, so that --help and mistakes answer at once.
    from bridge.commands.footage import record
    from core.calibration.calibrate import CalibrationError
    from core.calibration.footage import FootageError
    from core.calibration.recording import ClockError
    from core.calibration.rig import RigError

    before = {number: signal.getsignal(number) for number in ending_signals()}
    try:
        with tempfile.TemporaryDirectory(prefix="frameloom-") as scratch:
            folder = args.recording
            if args.camera is not None:
                folder = args.record or Path(scratch) / "recording"
                stop = Stop()
                for number in ending_signals():
                    signal.signal(number, stop.on_signal)
                say(
                    f"calibrate: recording {args.camera}.in and {args.points}.in for {args.seconds:g} s; Ctrl-C: enough"
                )
                record(args.camera, args.points, args.seconds, folder, stop.event)
                for number, handler in before.items():
                    signal.signal(number, handler)
            summary = _solve(args, folder)
    except (CalibrationError, FootageError, ClockError, RigError, RingError, OSError) as error:
        say(f"calibrate: refused: {error}")
        print_result({"rig": None, "accepted": False, "refused": str(error)}, args.json)
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _told(summary)
    print_result({**summary, "peak_memory_mb": peak_memory_mb()}, args.json)
    return 0 if summary["accepted"] else 1


if __name__ == "__main__":
    sys.exit(main())
