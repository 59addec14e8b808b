"""The only set-up step: make `.venv`, install frameloom into it, start it.

    python3 run.py demo         live frames, repainted, in a browser
    python3 run.py test         the test suite
    python3 run.py WORD ...     the command line program: frameloom WORD ...

Standard library only. Python 3.6 and later understand it, so that an old one gets a sentence and not a syntax error.
The environment is described by stamp files inside `.venv`, written last: while they match pyproject.toml,
constraints.txt and the place of the checkout, nothing is installed and pip is not even started.

FRAMELOOM_TORCH, read when torch is first installed, overrides the choice of its build: `plain` takes what pip finds,
any other word names one of PyTorch's own package indexes (cpu, cu126, cu130).
"""

import errno
import hashlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST = (3, 11)
TORCH = "torch==2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/"
ROOM_CPU_MB = 2500
"""Free space that a first install takes with the CPU build of torch, downloads included (measured, rounded up)."""
ROOM_CUDA_MB = 10000
HEARTBEAT_S = 5.0
SETUPTOOLS = "setuptools"
WINDOWS = os.name == "nt"

NETWORK_SIGNS = (
    "NewConnectionError",
    "ConnectTimeout",
    "ConnectionError",
    "ReadTimeout",
    "Read timed out",
    "Connection refused",
    "Connection reset",
    "Temporary failure in name resolution",
    "Name or service not known",
    "getaddrinfo failed",
    "nodename nor servname",
    "Network is unreachable",
    "ProxyError",
    "Could not fetch URL",
    "IncompleteRead",
)


class SetupError(Exception):
    """Setting up failed. The message is one plain sentence with the fix."""


def say(text: str) -> None:
    """Set-up talks on standard error; standard output belongs to the program that is started."""
    print(text, file=sys.stderr, flush=True)


# ---- what this machine is ------------------------------------------------------------------------------------------


def check_python(version: tuple) -> None:
    """Raise `SetupError` unless `version` (major, minor, ...) is new enough."""
    if tuple(version[:2]) >= OLDEST:
        return
    newer = [name for name in ("python3.13", "python3.12", "python3.14", "python3.11") if runs(name)]
    if newer:
        fix = f"start it with '{newer[0]} run.py'"
    else:
        fix = "install a newer one from python.org and start run.py with it"
    raise SetupError(
        f"frameloom needs Python {OLDEST[0]}.{OLDEST[1]} or newer, this is {version[0]}.{version[1]}: {fix}."
    )


def runs(name: str) -> bool:
    """True when the program `name` is found and starts (version switchers leave names that do not)."""
    path = shutil.which(name)
    if path is None:
        return False
    quiet = subprocess.DEVNULL
    return subprocess.call([path, "--version"], stdin=quiet, stdout=quiet, stderr=quiet) == 0


def nvidia_report() -> str:
    """What nvidia-smi prints, or an empty text when there is no NVIDIA driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    try:
        done = subprocess.run([tool], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def torch_source(platform: str, nvidia: str, wish: str = "") -> str:
    """Where torch comes from on this machine: `plain` (what pip finds) or the word of one of PyTorch's indexes.

    platform is `sys.platform`, nvidia the report of nvidia-smi, wish the value of FRAMELOOM_TORCH.
    The release index carries CUDA 13 for Linux but no CUDA for Windows; a driver older than CUDA 13 needs cu126.
    """
    if wish:
        return wish
    if platform == "darwin":
        return "plain"
    if not nvidia:
        return "cpu" if platform.startswith("linux") else "plain"
    found = re.search(r"CUDA Version:\s*(\d+)", nvidia)
    if found and int(found.group(1)) < 13:
        return "cu126"
    return "cu130" if platform == "win32" else "plain"


def check_room(folder: Path, need_mb: int) -> None:
    """Raise `SetupError` when the disk under `folder` has less than `need_mb` free."""
    free_mb = shutil.disk_usage(str(folder)).free // 2**20
    if free_mb < need_mb:
        raise SetupError(
            f"No room: setting up needs about {need_mb / 1000:.1f} GB under {folder}, "
            f"{free_mb / 1000:.1f} GB is free; make room and run the same command again."
        )


def plain_os_error(error: OSError) -> SetupError:
    """The sentence for a file-system error during set-up."""
    where = error.filename or ROOT
    if errno.errorcode.get(error.errno or 0) in ("ENOSPC", "EDQUOT"):
        return SetupError("No room: the disk is full; make room and run the same command again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SetupError(f"{where} cannot be written; put the checkout in a folder of your own and run it there.")
    return SetupError(f"{where}: {error.strerror or error}; fix that and run the same command again.")


# ---- the environment -----------------------------------------------------------------------------------------------


class Environment:
    """`.venv` beside this file, and the stamps that say what has been installed into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.python = self.folder / ("Scripts/python.exe" if WINDOWS else "bin/python")
        self.log = self.folder / "setup.log"

    def stamp(self, name: str) -> Path:
        return self.folder / f"frameloom-{name}.stamp"

    def key(self) -> str:
        """What the stamps must say; changes with the requirements, the Python of `.venv` and the checkout's place."""
        digest = hashlib.sha256(str(self.root).encode("utf-8"))
        for path in (self.root / "pyproject.toml", self.root / "constraints.txt", self.folder / "pyvenv.cfg"):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def packages(self) -> set:
        """The folders of the installed packages, whatever their versions; none when all are gone."""
        folders = [self.folder / "Lib"] if WINDOWS else (self.folder / "lib").glob("python*")
        found = [path for folder in folders for path in (folder / "site-packages").glob("*") if path.is_dir()]
        return {path.name for path in found if path.suffix != ".dist-info" and path.name != "__pycache__"}

    def lost(self, name: str) -> set:
        """What was installed under the stamp `name` and is gone. Raises `OSError` or `ValueError`: no such stamp."""
        key, *installed = self.stamp(name).read_text(encoding="utf-8").splitlines()
        if key != self.key():
            raise ValueError(f"{name} is out of date")
        return set(installed) - self.packages()

    def is_current(self, name: str) -> bool:
        """True when the stamp matches and the interpreter and all packages are there."""
        try:
            return not self.lost(name) and self.python.exists()
        except (OSError, ValueError):
            return False

    def is_torn(self) -> bool:
        """True when packages were deleted since they were installed: pip would believe that they are still there."""
        for name in ("base", "test"):
            try:
                if self.lost(name):
                    return True
            except (OSError, ValueError):
                pass
        return False

    def set_stamp(self, name: str) -> None:
        draft = self.stamp(name).with_suffix(".draft")
        draft.write_text("\n".join([self.key(), *sorted(self.packages())]), encoding="utf-8")
        os.replace(str(draft), str(self.stamp(name)))

    def works(self) -> bool:
        """True when the interpreter of `.venv` starts and has pip."""
        try:
            done = subprocess.run(
                [str(self.python), "-c", "import sys, pip; sys.exit(sys.version_info < (3, 11))"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=120,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def remove(self) -> None:
        if self.folder.is_symlink() or self.folder.is_file():
            self.folder.unlink()
        else:
            shutil.rmtree(str(self.folder))

    def make(self) -> None:
        """Make `.venv`, or remake it when it is half-made or broken. Raises `SetupError`."""
        if os.path.lexists(str(self.folder)):
            if self.works() and not self.is_torn():
                return
            say(".venv is broken or half-made: making it anew")
            self.remove()
        say(f"making .venv with Python {sys.version.split()[0]}")
        done = subprocess.run(
            [sys.executable, "-m", "venv", str(self.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode == 0 and self.works():
            return
        said = done.stdout.decode("utf-8", "replace").strip()
        if "ensurepip" in said or "No module named venv" in said:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            raise SetupError(
                f"This Python has no venv module with pip: on Debian or Ubuntu run "
                f"'sudo apt install python{version}-venv' and then the same command again."
            )
        raise pip_failure(said, self.folder) from None


def pip_failure(said: str, log: Path) -> SetupError:
    """Turn what pip or venv printed into one plain sentence."""
    if "No space left on device" in said or "Errno 28" in said:
        return SetupError(
            "No room: the disk is full; make room and run the same command again, it goes on where it was."
        )
    if "Read-only file system" in said or "Permission denied" in said or "Access is denied" in said:
        return SetupError(".venv cannot be written; put the checkout in a folder of your own and run it there.")
    if any(sign in said for sign in NETWORK_SIGNS):
        return SetupError(
            "No network: the package index did not answer; check the connection (or the proxy settings of pip) "
            "and run the same command again, it goes on where it was."
        )
    # pip calls a pin that the index does not have for this Python a conflict with the constraint.
    missing = re.search(r"(?:No matching distribution found for|The user requested \(constraint\)) (\S+)", said)
    if missing:
        return SetupError(
            f"No ready-made package of {missing.group(1)} for Python {sys.version_info[0]}.{sys.version_info[1]} "
            "on this machine; delete .venv and start run.py with Python 3.11, 3.12 or 3.13."
        )
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    last = errors[-1].strip() if errors else "nothing was said"
    return SetupError(
        f"Installing failed ({last[:200]}); the whole story is in {log}, and deleting .venv starts afresh."
    )


class PipRun:
    """One run of pip: its output goes to the log, a condensed line of progress to the terminal."""

    def __init__(self, env: Environment, what: str) -> None:
        self.env = env
        self.what = what
        self.tail: deque = deque(maxlen=200)
        self.found = 0
        self.doing = "starting pip"

    def note(self, line: str) -> None:
        self.tail.append(line)
        words = line.split()
        if line.startswith("Collecting ") or line.startswith("Requirement already satisfied"):
            self.found += 1
            self.doing = f"{self.found} packages found"
        elif line.lstrip().startswith("Downloading ") and len(words) > 1:
            name = words[1].rsplit("/", 1)[-1].split("-")[0]
            size = line[line.index("(") :] if "(" in line else ""
            self.doing = f"{self.found} packages found, downloading {name} {size}".rstrip()
        elif line.startswith("Installing collected packages"):
            count = line.count(",") + 1
            self.doing = f"unpacking {count} package{'s' * (count > 1)}"

    def run(self, arguments: list) -> int:
        """Start pip with `arguments`, report progress at least every few seconds, return its exit status."""
        command = [str(self.env.python), "-m", "pip", *arguments]
        lines: queue.Queue = queue.Queue()
        started = told = time.monotonic()
        with open(str(self.env.log), "a", encoding="utf-8") as log:
            log.write("$ pip " + " ".join(arguments) + "\n")
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert child.stdout is not None
            pipe = child.stdout

            def pump() -> None:
                for raw in pipe:
                    lines.put(raw.decode("utf-8", "replace"))
                lines.put(None)

            threading.Thread(target=pump, daemon=True).start()
            try:
                while True:
                    try:
                        line = lines.get(timeout=0.5)
                    except queue.Empty:
                        line = ""
                    if line is None:
                        break
                    if line:
                        log.write(line)
                        self.note(line.rstrip())
                    now = time.monotonic()
                    if now - told >= HEARTBEAT_S:
                        told = now
                        say(f"  {self.what}: {self.doing} ({now - started:.0f} s)")
                return child.wait()
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait()

    def failure(self) -> SetupError:
        return pip_failure("\n".join(self.tail), self.env.log)


def pip(env: Environment, what: str, arguments: list) -> None:
    """Run pip or raise `SetupError`."""
    run = PipRun(env, what)
    if run.run(["install", "--progress-bar", "off", *arguments]) != 0:
        raise run.failure()


def has_torch(env: Environment) -> bool:
    probe = "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != sys.argv[1])"
    wanted = TORCH.split("==")[1]
    done = subprocess.run([str(env.python), "-c", probe, wanted], stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def answers(url: str) -> bool:
    """True when the web address answers within a few seconds."""
    try:
        with urllib.request.urlopen(url, timeout=8):
            return True
    except (urllib.error.URLError, OSError, ValueError):
        return False


def install_torch(env: Environment, source: str) -> None:
    """Install torch alone, from where this machine's hardware wants it; the main install then finds it there.

    A CPU build that pip's own configuration points to (find-links) is taken before any index is asked.
    """
    if source == "plain" or has_torch(env):
        return
    if source == "cpu":
        local = PipRun(env, "torch")
        if local.run(["install", "--no-index", "--no-deps", "--only-binary=:all:", TORCH]) == 0:
            return
    index = TORCH_INDEX + source
    if not answers(index + "/torch/"):
        if source == "cpu":
            say("  torch: PyTorch's index of CPU builds does not answer; taking the larger build from the usual index")
            check_room(env.root, ROOM_CUDA_MB)
            return
        raise SetupError(
            f"No network: {index} did not answer; check the connection and run the same command again, "
            "or set FRAMELOOM_TORCH=plain to go on without the graphics card."
        )
    pip(env, f"torch ({source})", ["--no-deps", "--only-binary=:all:", "--index-url", index, TORCH])


def install(env: Environment, extra: str) -> None:
    """Install what the stamp `extra` ("base" or "test") stands for. Resumable: pip keeps what is there already."""
    constraints = ["-c", str(env.root / "constraints.txt")]
    if not env.is_current("base"):
        source = torch_source(sys.platform, nvidia_report(), os.environ.get("FRAMELOOM_TORCH", ""))
        if not has_torch(env):
            wants_cuda = source.startswith("cu") or (source == "plain" and sys.platform.startswith("linux"))
            check_room(env.root, ROOM_CUDA_MB if wants_cuda else ROOM_CPU_MB)
        say("installing; this is the only time it takes minutes")
        pip(env, "tools", ["--only-binary=:all:", *constraints, SETUPTOOLS])
        install_torch(env, source)
        # Without build isolation the pinned setuptools above is used and nothing outside constraints.txt is fetched.
        flags = ["--only-binary=:all:", "--no-build-isolation", *constraints]
        pip(env, "packages", [*flags, "-e", str(env.root)])
        env.set_stamp("base")
    if extra == "test" and not env.is_current("test"):
        say("installing what the tests need")
        flags = ["--only-binary=:all:", "--no-build-isolation", *constraints]
        pip(env, "packages", [*flags, "-e", f"{env.root}[test]"])
        env.set_stamp("test")


@contextmanager
def one_at_a_time(root: Path):  # type: ignore[no-untyped-def]
    """Hold a file lock while installing; a second run.py waits. The system frees it when its holder dies."""
    (root / ".cache").mkdir(exist_ok=True)
    with open(str(root / ".cache" / "setup.lock"), "a+b") as held:
        told = -1e9
        while not _try_lock(held.fileno()):
            if time.monotonic() - told > HEARTBEAT_S:
                say("waiting: another run.py is setting up this checkout")
                told = time.monotonic()
            time.sleep(0.3)
        yield


def _try_lock(fd: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def prepare(root: Path, extra: str) -> Environment:
    """The ready environment of the checkout at `root`. Raises `SetupError`."""
    env = Environment(root)
    names = ("base", "test") if extra == "test" else ("base",)
    if all(env.is_current(name) for name in names):
        return env
    try:
        for needed in ("pyproject.toml", "constraints.txt"):
            if not (root / needed).is_file():
                raise SetupError(f"{root / needed} is missing; clone the repository again.")
        with one_at_a_time(root):
            env.make()
            install(env, extra)
    except OSError as error:
        raise plain_os_error(error) from None
    return env


def test_workers() -> int:
    """Processes that run the tests: one more than there are cores to use, since tests wait as much as they work."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Windows and macOS
        cores = os.cpu_count() or 1
    return min(8, cores + 1)


def start(command: list) -> int:
    """Become the program (POSIX), or run it and pass its exit status on (Windows, where exec would detach it)."""
    sys.stdout.flush()
    sys.stderr.flush()
    if not WINDOWS:
        if "bridge" in command:
            # The program lets Ctrl-C in as soon as it can answer; until then it would end in a traceback.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        os.execv(command[0], command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.call(command)


def main(argv: list) -> int:
    try:
        check_python(sys.version_info)
        # Benchmarks compare with packages that nothing else needs.
        env = prepare(ROOT, "test" if argv[:1] in (["test"], ["bench"]) else "base")
        if argv[:1] == ["test"]:
            os.chdir(str(ROOT))
            # One file of tests at a time in each of these processes: much of it waits. `-n 0` given after turns it off.
            # They come in the order of tests/conftest.py.
            workers = ["-n", str(test_workers()), "--dist", "loadfile", "--no-loadscope-reorder"]
            return start([str(env.python), "-m", "pytest", *workers, *argv[1:]])
        # -P keeps the current folder off the module path: a file there named like a module must not be loaded.
        return start([str(env.python), "-P", "-m", "bridge", *argv])
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("Interrupted; the same command goes on where it was.")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
