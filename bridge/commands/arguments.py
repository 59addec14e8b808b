"""Words of the command line that several commands read."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from bridge.control.access import name_of, origin_of
from bridge.ring.errors import InvalidChannel
from bridge.ring.segment import MAX_CHANNEL_BYTES, check_name
from bridge.terminal import PROGRAM
from core.params import CONTROL_SOURCES

MAX_FPS = 1000.0
MAX_PORT = 65535
MAX_SECONDS = 1e6
MIN_SIDE_PX, MAX_SIDE_PX = 8, 8192


class Parser(argparse.ArgumentParser):
    """Of the arguments of one command. A mistake is told in one line, however many options there are; an option that
    nearly is one is named. Half an option's name is none: what it stands for would change with the next option.

    command: as it is typed, such as "train look". Further arguments: see `argparse.ArgumentParser`.
    """

    def __init__(self, command: str, **options: Any) -> None:
        super().__init__(prog=f"{PROGRAM} {command}", allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        for word in message.split() if message.startswith("unrecognized arguments") else ():
            near = difflib.get_close_matches(word.partition("=")[0], self._option_string_actions, 1, 0.7)
            if word.startswith("-") and near:
                message = f"there is no {word}; did you mean {near[0]}?"
                break
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists the options)\n")


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


def parse_channel(text: str) -> str:
    """The name of a channel, whose rings are NAME.in and NAME.out. Raises `argparse.ArgumentTypeError`."""
    try:
        check_name(f"{text}.out")
    except InvalidChannel:
        most = MAX_CHANNEL_BYTES - len(".out")
        raise argparse.ArgumentTypeError(
            f"{text[:60]!r}: use 1 to {most} letters, digits, dots, dashes or underscores, the first a letter or digit"
        ) from None
    return text


def _is_there(text: str, path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise argparse.ArgumentTypeError(f"{text[:200]!r} can be no path ({why}); give another one") from None
    return True


def parse_folder(text: str) -> Path:
    """A folder to write into, which need not be there yet. Raises `argparse.ArgumentTypeError`: told now, and not when
    there is something to write."""
    path = Path(text)
    there = path.absolute()
    while not _is_there(text, there):
        there = there.parent
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: {there} is no folder; give another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r}: {there} may not be written; give another place")
    return path


def parse_file(text: str) -> Path:
    """A file to write, in a folder as `parse_folder` takes it. Raises `argparse.ArgumentTypeError`."""
    path = Path(text)
    if not path.name or os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; give the name of a file")
    parse_folder(str(path.parent))
    return path


def parse_origin(text: str) -> str:
    """What `bridge.control.access.origin_of` makes of it. Raises `argparse.ArgumentTypeError`."""
    try:
        return origin_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text[:200]!r} is not an address of a page; write it like https://example.org"
        ) from None


def parse_host_name(text: str) -> str:
    """What `bridge.control.access.name_of` makes of it. Raises `argparse.ArgumentTypeError`."""
    try:
        return name_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text[:200]!r} is no name or address of a machine; write it like studio.example.org or 127.0.0.1"
        ) from None


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """For commands that end with `bridge.terminal.print_result`."""
    parser.add_argument("--json", action="store_true", help="print the last line, of JSON, on a terminal too")
