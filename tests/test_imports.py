"""Who may import whom, read from the source: the direction of the layers, and one heavy library in one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ONE_FILE_EACH = (
    "aiohttp",
    "diffusers",
    "transformers",
    "openvino",
    "pythonosc",
    "cv2",
    "simplejpeg",
    "PIL",
    "SharedArray",
    "tensorrt",
    "tensorrt_rtx",
    "ray",
    "mcap",
    "accelerate",
)
"""Libraries that a part of the program can do without; each is imported in at most one file of core and bridge."""

LIGHT = ("bridge.ring.layout", "bridge.ring")
"""What TouchDesigner's Python (standard library and numpy, nothing else) loads as it is."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full here, so that they can be searched for"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(name: str) -> Path | None:
    """The file of a module of this project, or of the module that holds the name; None for everybody else's."""
    parts = name.split(".")
    if parts[0] not in ("bridge", "core"):
        return None
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def closure(name: str) -> dict[Path, set[str]]:
    """Every file of this project that importing `name` reads, with what each imports."""
    first = file_of(name)
    assert first is not None
    todo, done = [first], {}
    while todo:
        path = todo.pop()
        if path in done:
            continue
        done[path] = set(imports(path))
        todo += [found for found in map(file_of, done[path]) if found is not None]
    return done


def test_core_never_imports_bridge() -> None:
    guilty = {str(p) for p in sources("core") for name in imports(p) if name.split(".")[0] == "bridge"}
    assert not guilty
    assert len(sources("core")) > 3


def test_core_has_no_sockets_threads_or_command_line() -> None:
    banned = {"socket", "threading", "multiprocessing", "argparse", "asyncio", "mmap"}
    # What each of the callers' threads has of its own starts none.
    allowed = "threading.local"
    guilty = {
        (str(p), name)
        for p in sources("core")
        for name in imports(p)
        if name.split(".")[0] in banned and name != allowed
    }
    assert not guilty


@pytest.mark.parametrize("library", ONE_FILE_EACH)
def test_one_heavy_library_is_one_file(library: str) -> None:
    users = {
        p for folder in ("core", "bridge") for p in sources(folder) for n in imports(p) if n.split(".")[0] == library
    }
    assert len(users) <= 1, users


@pytest.mark.parametrize("module", LIGHT)
def test_the_ring_needs_numpy_alone(module: str) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "bridge"}
    guilty = {(p.name, n) for p, names in closure(module).items() for n in names if n.split(".")[0] not in allowed}
    assert not guilty


def test_run_py_needs_the_standard_library_alone() -> None:
    assert {n.split(".")[0] for n in imports(ROOT / "run.py")} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "module",
    [
        "bridge.commands.cli",
        "bridge.ring",
        "bridge.commands.source",
        "bridge.commands.demo",
        "core.families.folders",
        "bridge.control.live",
        "core.params",
    ],
)
def test_starting_costs_no_heavy_import(module: str) -> None:
    heavy = ("torch", "diffusers", "transformers", "openvino", "cv2", "aiohttp", "PIL")
    script = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


ROOMS = {
    "ring": set(),
    "control": {"ring"},
    "sources": {"ring"},
    "host": {"ring", "control"},
    "page": {"ring", "control"},
    "interop": {"ring", "control"},
    "recording": {"ring", "page"},
    "commands": {"ring", "control", "sources", "host", "page", "interop", "recording"},
}
"""The folders of bridge and whom each may import beside itself. All arrows of clients end in ring."""


def test_the_rooms_of_bridge_import_in_one_direction() -> None:
    assert {p.name for p in (ROOT / "bridge").iterdir() if p.is_dir() and p.name != "__pycache__"} == set(ROOMS)
    guilty = set()
    for room, allowed in ROOMS.items():
        for path in sources(f"bridge/{room}"):
            files = {file_of(name) for name in imports(path) if name.startswith("bridge.")}
            others = {file.relative_to(ROOT / "bridge").parts[0] for file in files if file.parent != ROOT / "bridge"}
            guilty |= {(str(path), other) for other in others - allowed - {room}}
    assert not guilty
    # What everybody may use at the root of bridge stays as small as this.
    assert {p.name for p in (ROOT / "bridge").glob("*.py")} == {"__init__.py", "__main__.py", "terminal.py"}


CORE_ROOMS = {
    "world": set(),
    "families": set(),
    "backends": set(),
    "calibration": set(),
    "tiny": {"world"},
    "training": {"tiny", "world"},
}
"""The folders of core and whom each may import beside itself and the floor that they stand on."""

FLOOR = {"families", "tiny"}
"""What that floor itself may import of them: what loads a model knows the families and the embedded autoencoder."""

COMMANDS_ALONE = {"training", "calibration"}
"""What no part of bridge but its commands has to do with."""


def test_the_rooms_of_core_import_in_one_direction() -> None:
    assert {p.parent.name for p in (ROOT / "core").glob("*/__init__.py")} == set(CORE_ROOMS)
    guilty = set()
    for path in (*sources("core"), *sources("bridge")):
        top, room = path.relative_to(ROOT).parts[:2]
        used = {name.split(".")[1] for name in imports(path) if name.startswith("core.")} & set(CORE_ROOMS)
        if top == "bridge":
            others = set() if room == "commands" else used & COMMANDS_ALONE
        else:
            others = used - {room} - CORE_ROOMS.get(room, FLOOR)
        guilty |= {(str(path), other) for other in others}
    assert not guilty


def test_one_clock_for_every_stamp() -> None:
    """bridge.ring.clock says which: on Windows another one than `time.monotonic_ns`, and they cannot be compared."""
    guilty = set()
    for folder in ("bridge", "core", "clients"):
        for path in sources(folder):
            if path == ROOT / "bridge" / "ring" / "clock.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = getattr(node, "attr", None) or getattr(node, "name", None)
                if name in ("monotonic_ns", "perf_counter_ns", "time_ns"):
                    guilty.add(f"{path}:{name}")
    assert not guilty


def stored(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The attributes of itself that a method sets."""
    return {
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def test_no_attribute_is_born_outside_the_constructor() -> None:
    """So that a constructor reads as the list of what an object holds."""
    guilty, seen = set(), 0
    for folder in ("core", "bridge"):
        for path in sources(folder):
            for kind in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(kind, ast.ClassDef) or kind.bases:
                    continue
                methods = [node for node in kind.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
                born = {name for method in methods if method.name == "__init__" for name in stored(method)}
                fields = {node.target.id for node in kind.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
                later = {name for method in methods for name in stored(method)} - born - fields
                guilty |= {f"{path}: {kind.name}.{name}" for name in later}
                seen += len(born)
    assert not guilty
    assert seen > 500
