"""`frameloom doctor`: what this machine can do and what is wrong, each with its fix.

Every check is a function that yields `Check`s and touches nothing that is in use: ports are bound for a moment, the
ring is tried on a channel of its own. What is said of a channel is `channel_doctor`'s. Exit status 1
when something that the program needs is broken.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

from bridge.commands.arguments import Parser
from bridge.commands.channel_doctor import check_channel
from bridge.commands.host import set_library_habits
from bridge.commands.ports import OSC_PORT, PAGE_PORT
from bridge.commands.report import Check, Report
from bridge.ring import Kind, RingError, RingReader, RingWriter, now_ns
from bridge.terminal import PROGRAM

SHM = Path("/dev/shm")
SHM_ENOUGH_MB, SHM_LEAST_MB = 256, 32
"""Four slots of 4K RGBA take 127 MiB, two rings of 512 px RGBA 8 MiB; containers give 64 MiB unless told otherwise."""
COMPILERS = ("c++", "g++", "clang++", "cl")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")


# ---- the machine ---------------------------------------------------------------------------------------------------


def check_python() -> Report:
    where = "in a virtual environment" if sys.prefix != sys.base_prefix else "outside a virtual environment"
    said = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores, {where}"
    yield Check("ok", "python", said)


def check_packages() -> Report:
    """Every direct requirement, as the installed project declares them."""
    try:
        required = metadata.requires("frameloom") or []
    except metadata.PackageNotFoundError:
        yield Check("bad", "packages", "frameloom is not installed here", f"start it with: {PROGRAM} doctor")
        return
    from packaging.requirements import Requirement

    found, missing = [], []
    for text in required:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue  # an extra's, or of another system
        name = requirement.name
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Check("bad", "packages", "not installed: " + ", ".join(missing), f"delete .venv and run {PROGRAM} doctor")
    else:
        yield Check("ok", "packages", ", ".join(found))


def check_devices() -> Report:
    try:
        import torch

        from core.device import available_devices, dtype_name, native_dtypes, pick_device
    except ImportError as error:
        yield Check("bad", "torch", f"cannot be imported ({error})", f"delete .venv and run {PROGRAM} doctor")
        return
    devices = available_devices()
    best = pick_device(devices[0])
    dtypes = ", ".join(map(dtype_name, native_dtypes(best)))
    yield Check("ok", "torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'not in this build'}")
    card = ""
    if "cuda" in devices:
        about = torch.cuda.get_device_properties(0)
        card = f" ({about.name}, {about.total_memory / 2**30:.0f} GiB)"
    yield Check("ok", "device", f"{best.type}{card}, computes in {dtypes}; usable here: {', '.join(devices)}")
    if "cuda" not in devices and shutil.which("nvidia-smi"):
        yield Check(
            "warn",
            "cuda",
            "there is an NVIDIA driver and torch does not use it",
            "update the driver, then delete .venv and start run.py again; it picks the CUDA build",
        )


def check_compiler() -> Report:
    found = [name for name in COMPILERS if shutil.which(name)]
    if found:
        yield Check("ok", "compiler", f"{found[0]}: torch.compile can be used")
    else:
        yield Check(
            "warn",
            "compiler",
            "none found; only torch.compile needs one",
            "install g++ (Linux), Xcode tools or Visual Studio",
        )


def check_speed() -> Report:
    """How the embedded model is run on this processor: what was measured at its first start, or now."""
    try:
        import torch

        from bridge.commands.host import CACHE
        from bridge.host import tuning
        from core.backend import BACKENDS, BackendError, executions, on_cards
        from core.model import ModelError, load_model
        from core.params import params_for
        from core.tiny import WEIGHTS
    except ImportError as error:
        yield Check("bad", "back ends", f"cannot be loaded ({error})", f"delete .venv and run {PROGRAM} doctor")
        return
    cpu = torch.device("cpu")
    # What needs a card is no lack of the processor's.
    here = {name: backend for name, backend in BACKENDS.items() if backend.dtypes is not on_cards}
    missing = [name for name, backend in here.items() if not backend.dtypes(cpu)]
    if missing:
        yield Check(
            "warn",
            "back ends",
            f"{', '.join(missing)} not available on this machine; others do the work, more slowly",
            "use 64-bit Linux, Windows on x86, or a Mac with Apple's own processor",
        )
    yield Check("ok", "back ends", ", ".join(name for name in here if name not in missing))
    tuning.default_threads()
    try:
        model = load_model(WEIGHTS, cpu, torch.float32, "eager")
    except ModelError:
        return  # said by check_weights
    size = (model.native_size, model.native_size)
    memory = tuning.Cache(CACHE / "tuning.json")
    try:
        tuned = tuning.tune(model, executions(cpu, store=CACHE / "networks"), size, params_for("embedded"), memory)
    except BackendError as error:
        yield Check("bad", "speed", str(error), f"delete .venv and run {PROGRAM} doctor; if it stays, report it")
        return
    for number, figure in enumerate(tuned.figures):
        yield Check("ok", "speed", f"{figure}{' (taken)' if number == 0 else ''}")


def check_weights() -> Report:
    """The embedded model, by the check that loading makes."""
    try:
        from core.model import ModelError, check_folder
        from core.tiny import WEIGHTS
    except ImportError as error:
        yield Check("bad", "model", f"cannot be loaded ({error})", f"delete .venv and run {PROGRAM} doctor")
        return
    try:
        check_folder(WEIGHTS)
    except ModelError as error:
        yield Check("bad", "model", str(error), "git checkout -- core/tiny")
        return
    size = sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file())
    yield Check("ok", "model", f"embedded, whole, {size / 2**20:.1f} MiB in {WEIGHTS}")


def check_shared_memory() -> Report:
    if sys.platform == "linux":
        if not SHM.is_dir():
            yield Check("bad", "shared memory", f"{SHM} is missing", "mount it: mount -t tmpfs tmpfs /dev/shm")
            return
        free_mb = shutil.disk_usage(SHM).free / 2**20
        fix = "delete leftovers there; in a container start it with --shm-size=1g"
        if free_mb < SHM_LEAST_MB:
            yield Check("bad", "shared memory", f"only {free_mb:.0f} MiB free in {SHM}", fix)
        elif free_mb < SHM_ENOUGH_MB:
            yield Check("warn", "shared memory", f"{free_mb:.0f} MiB free in {SHM}: too little for 4K frames", fix)
        else:
            yield Check("ok", "shared memory", f"{free_mb:.0f} MiB free in {SHM}")
    yield from check_ring()


def check_ring() -> Report:
    """One frame through a ring of our own, to a reader that sleeps until it comes."""
    channel = f"doctor-{os.getpid()}"
    woken_ns: list[int] = []
    try:
        with RingWriter(channel, capacity_bytes=64 * 64 * 3) as writer:
            reader = RingReader(channel)

            def sleep_until_frame() -> None:
                if reader.wait(5.0):
                    woken_ns.append(now_ns())

            sleeper = threading.Thread(target=sleep_until_frame)
            sleeper.start()
            time.sleep(0.2)
            written_ns = now_ns()
            writer.write({Kind.COLOUR: np.zeros((64, 64, 3), np.uint8)})
            sleeper.join()
            reader.close()
    except RingError as error:
        yield Check("bad", "ring", str(error), "fix that; without shared memory nothing can be fed or shown")
        return
    if not woken_ns:
        yield Check("bad", "ring", "a sleeping reader was not woken by a new frame", "update the system; report this")
        return
    how = {"linux": "futex", "win32": "named event"}.get(sys.platform, "bounded polling")
    yield Check("ok", "ring", f"works; {how} wakes a sleeping reader after {(woken_ns[0] - written_ns) / 1e6:.2f} ms")


def check_port(name: str, port: int, kind: socket.SocketKind, option: str) -> Report:
    word = "TCP" if kind == socket.SOCK_STREAM else "UDP"
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM and os.name == "posix":
            # As the page's server does: a connection that lingers after its end does not count as a user.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            yield Check(
                "warn",
                name,
                f"{word} port {port} cannot be used ({error.strerror})",
                f"stop its user or give {option}; demo picks another",
            )
            return
    yield Check("ok", name, f"{word} port {port} is free")


def check_browser() -> Report:
    found = [name for name in BROWSERS if shutil.which(name)]
    if found:
        yield Check("ok", "browser", found[0])
    elif sys.platform == "linux":
        yield Check("warn", "browser", "no Chromium here; the page's tests are skipped", "apt install chromium")
    else:
        yield Check("ok", "browser", "the system's own is used")


def check_camera() -> Report:
    if sys.platform != "linux":
        yield Check("ok", "camera", f"not tried; {PROGRAM} source camera --channel NAME does")
        return
    cameras = sorted(Path("/dev").glob("video*"))
    closed = [str(c) for c in cameras if not os.access(c, os.R_OK | os.W_OK)]
    if closed:
        yield Check(
            "warn", "camera", f"{closed[0]} may not be opened", "add yourself to the group video and log in again"
        )
    elif cameras:
        yield Check("ok", "camera", ", ".join(map(str, cameras)))
    else:
        yield Check("ok", "camera", "none; only --source camera needs one")


# ---- the report ----------------------------------------------------------------------------------------------------


def examine(channel: str | None) -> Report:
    """All checks, as they are made."""
    set_library_habits()
    checks: list[Callable[[], Report]] = [
        check_python,
        check_packages,
        check_devices,
        check_compiler,
        check_weights,
        check_speed,
        check_shared_memory,
        partial(check_port, "page port", PAGE_PORT, socket.SOCK_STREAM, "--port"),
        partial(check_port, "OSC port", OSC_PORT, socket.SOCK_DGRAM, "--osc-port"),
        check_browser,
        check_camera,
    ]
    for check in checks:
        yield from check()
    if channel is not None:
        yield from check_channel(channel)


def main(argv: list[str] | None = None) -> int:
    """Print the report; 1 when something is bad."""
    parser = Parser("doctor", description="What this machine can do, and what is wrong.")
    parser.add_argument("--channel", help="check this channel too")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the list")
    args = parser.parse_args(argv)
    checks = []
    for check in examine(args.channel):
        checks.append(check)
        if not args.json:
            print(f"{check.level:4}  {check.name:13}  {check.said}", flush=True)
            if check.fix:
                print(f"      {'':13}  -> {check.fix}", flush=True)
    bad = sum(f.level == "bad" for f in checks)
    warned = sum(f.level == "warn" for f in checks)
    if args.json:
        print(json.dumps({"ok": not bad, "checks": [asdict(f) for f in checks]}))
    elif bad or warned:
        print(f"{bad} bad, {warned} to know of")
    else:
        print("all is well")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
