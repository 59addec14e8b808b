"""The command line: one table of commands, each loaded only when it is called.

Knows what the commands are called and nothing of what they do. Importing this module imports no heavy library, so that
`frameloom --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bridge.commands.signals import let_ctrl_c_in
from bridge.terminal import PROGRAM

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: frameloom is an application run from one, not a published wheel."""


@dataclass(frozen=True)
class Command:
    """One command of the command line. `run` takes the arguments after it and returns the exit status."""

    usage: str
    help: str
    run: Callable[[list[str]], int]


def _module(name: str) -> Callable[[list[str]], int]:
    def run(arguments: list[str]) -> int:
        status: int = importlib.import_module(name).main(arguments)
        return status

    return run


def _world(arguments: list[str]) -> int:
    status: int = importlib.import_module("bridge.commands.source").main(arguments, "world")
    return status


def benches() -> list[str]:
    """The names of the benchmarks in this checkout: the files of tests/bench that have a `main`."""
    folder = ROOT / "tests" / "bench"
    return sorted(f.stem for f in folder.glob("[!_]*.py") if "\ndef main(" in f.read_text(encoding="utf-8"))


def _bench(arguments: list[str]) -> int:
    known = benches()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{PROGRAM} bench NAME [options]; NAME is one of: " + ", ".join(known))
        return 0 if arguments else 2
    if arguments[0] not in known:
        return _unknown("benchmark", arguments[0], known)
    sys.path.insert(0, str(ROOT))
    return _module(f"tests.bench.{arguments[0]}")(arguments[1:])


TRAININGS = {
    "autoencoder": "bridge.commands.train_autoencoder",
    "painter": "bridge.commands.train_painter",
    "look": "bridge.commands.train_look",
    "model": "bridge.commands.train_model",
}


def _train(arguments: list[str]) -> int:
    if arguments and arguments[0] in TRAININGS:
        return _module(TRAININGS[arguments[0]])(arguments[1:])
    if arguments[:1] in (["-h"], ["--help"]):
        print(
            f"{PROGRAM} train {' | '.join(TRAININGS)} [options]: trains a part of the embedded model, teaches it a"
            " look from pictures, or makes a model of its size from them; --help after the name lists the options"
        )
        return 0
    return _unknown("model to train", arguments[0] if arguments else "", list(TRAININGS))


def _params(arguments: list[str]) -> int:
    """Print the live parameters as a table."""
    if arguments:
        print(f"{PROGRAM} params takes no arguments; it prints the live parameters", file=sys.stderr)
        return 0 if arguments[0] in ("-h", "--help") else 2
    from core.params import SPECS

    def text(value: object) -> str:
        if isinstance(value, tuple):
            return " ".join(map(str, value)) or "(none)"
        return str(value) if value != "" else '""'

    rows = [("address", "default", "accepts", "what it does")]
    for spec in SPECS.values():
        if spec.choices:
            accepts = " | ".join(spec.choices)
        elif spec.kind == "str":
            accepts = f"text up to {spec.high:g} characters"
        elif spec.kind == "bool":
            accepts = "0 or 1"
        else:
            accepts = f"{spec.low:.10g} to {spec.high:.10g}{' ' + spec.unit if spec.unit else ''}"
            if spec.step and spec.kind == "ints":
                accepts += f" in steps of {spec.step}"
            if spec.kind == "ints":
                accepts = f"up to {spec.max_items} of {accepts}"
        rows.append((f"/{spec.name}", text(spec.default), accepts, spec.help))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + "  " + row[3])
    return 0


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "demo [options]", "a moving scene, repainted live, in the browser", _module("bridge.commands.demo")
    ),
    "host": Command(
        "host --channel NAME [options]",
        "repaint what a client writes into NAME.in (or --input td:NAME)",
        _module("bridge.commands.host"),
    ),
    "scene": Command("scene [options]", "a room with live screens in the browser", _module("bridge.commands.scene")),
    "source": Command(
        "source WHAT --channel NAME",
        "write a camera, video, folder or world into NAME.in",
        _module("bridge.commands.source"),
    ),
    "world": Command("world --channel NAME", "the same as: source world", _world),
    "calibrate": Command(
        "calibrate --camera NAME --points NAME",
        "where a depth sensor stands to a camera, and how late its data is",
        _module("bridge.commands.calibrate"),
    ),
    "project": Command(
        "project --rig FILE --camera NAME --points NAME --channel NAME",
        "a sensor's points as a depth plane in the camera's frames",
        _module("bridge.commands.project"),
    ),
    "record": Command(
        "record NAME FILE",
        "both rings of a channel, parameters and times, into an MCAP file",
        _module("bridge.commands.record"),
    ),
    "replay": Command(
        "replay FILE",
        "play a recording into a channel, with its own times",
        _module("bridge.commands.replay"),
    ),
    "doctor": Command(
        "doctor [--channel NAME]", "what this machine can do, and what is wrong", _module("bridge.commands.doctor")
    ),
    "params": Command("params", "the live parameters, their ranges and OSC addresses", _params),
    "bench": Command("bench NAME [options]", "measure; the last line is JSON", _bench),
    "generate": Command(
        "generate",
        "write the files for other languages anew, after a change of a definition",
        _module("bridge.commands.generate"),
    ),
    "fetch": Command("fetch ORG/NAME", "download a model of the Hugging Face hub", _module("bridge.commands.fetch")),
    "train": Command(
        "train autoencoder|painter|look|model [options]",
        "train a part of the embedded model, teach it a look, or a model of one's own",
        _train,
    ),
}


def _help() -> str:
    width = max(len(c.usage) for c in COMMANDS.values())
    lines = [f"  {c.usage.ljust(width)}  {c.help}" for c in COMMANDS.values()]
    return "\n".join(
        [
            "frameloom repaints live frames with a diffusion model.",
            "",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help lists its options.",
        ]
    )


def _unknown(what: str, word: str, known: list[str]) -> int:
    import difflib

    near = difflib.get_close_matches(word, known, 1)
    hint = f"did you mean {near[0]}?" if near else "use one of " + ", ".join(known)
    print(f"frameloom: no {what} {word!r}; {hint}", file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    """Run one command; `argv` without the program's name. Returns the exit status: 2 for arguments not understood."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments:
        print(_help())
        return 2
    if arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print("frameloom", version("frameloom"))
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        return _unknown("command", arguments[0], list(COMMANDS))
    try:
        let_ctrl_c_in()
        return command.run(arguments[1:])
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`frameloom params | head`); nothing is left to tell it. Standard output
        # is pointed at nothing so that the interpreter's own flush at exit does not complain.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
