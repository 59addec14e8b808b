"""Words of the command line that several commands read."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from core.params import CONTROL_SOURCES

MAX_FPS = 1000.0
MAX_PORT = 65535
MAX_SECONDS = 1e6
MIN_SIDE_PX, MAX_SIDE_PX = 8, 8192


def parse_size(text: str) -> tuple[int, int]:
    """`128` or `640x360` to (width, height) in pixels. Raises `argparse.ArgumentTypeError`."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in size):
        raise argparse.ArgumentTypeError(f"{text!r}: use 128 or 640x360, each side from {MIN_SIDE_PX} to {MAX_SIDE_PX}")
    return size


def parse_fps(text: str) -> float:
    """Frames per second above 0. Raises `argparse.ArgumentTypeError`."""
    try:
        fps = float(text)
    except ValueError:
        fps = 0.0
    if not 0.01 <= fps <= MAX_FPS:
        raise argparse.ArgumentTypeError(f"{text!r}: use a number from 0.01 to {MAX_FPS:g}")
    return fps


def parse_count(text: str) -> int:
    """A number of frames, at least 1. Raises `argparse.ArgumentTypeError`."""
    if not re.fullmatch(r"\d{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: use a whole number from 1 to 999999999")
    return int(text)


def parse_seed(text: str) -> int:
    """The number of a world, at least 0. Raises `argparse.ArgumentTypeError`."""
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: use a whole number from 0 to 999999999")
    return int(text)


def parse_control(text: str) -> tuple[str, Path]:
    """`depth=FOLDER` to (what a ControlNet is shown, its folder). Raises `argparse.ArgumentTypeError`."""
    source, separator, folder = text.partition("=")
    if not separator or not folder or source not in CONTROL_SOURCES:
        raise argparse.ArgumentTypeError(f"{text!r}: write WHAT=FOLDER with one of {', '.join(CONTROL_SOURCES)}")
    return source, Path(folder)


def parse_port(text: str) -> int:
    """A port, 0 for any that is free. Raises `argparse.ArgumentTypeError`."""
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r}: use a whole number from 0 (any that is free) to {MAX_PORT}")
    return int(text)


def parse_seconds(text: str) -> float:
    """A time of at least 0 s. Raises `argparse.ArgumentTypeError`."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r}: use a number of seconds from 0 to {MAX_SECONDS:g}")
    return seconds


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """For commands that end with `bridge.terminal.print_result`."""
    parser.add_argument("--json", action="store_true", help="end with a line of JSON on a terminal too")
