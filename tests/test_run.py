"""run.py: what it decides, what it says when something is wrong, and that a ready environment is started untouched."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import run

ROOT = Path(__file__).resolve().parent.parent
POSIX = os.name == "posix"


def checkout(folder: Path, constraints: str = "") -> Path:
    """A scratch checkout: the real run.py beside a project with nothing in it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "run.py", folder)
    (folder / "constraints.txt").write_text(constraints, encoding="utf-8")
    (folder / "pyproject.toml").write_text('[project]\nname = "nothing"\nversion = "0"\n', encoding="utf-8")
    return folder


def surroundings(index: str) -> dict[str, str]:
    """The environment of a machine whose only package index is `index`."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("PIP_")}
    alone = {"PIP_INDEX_URL": index, "PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull, "FRAMELOOM_TORCH": "plain"}
    return {**kept, **alone, "no_proxy": "127.0.0.1"}


def start(folder: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "run.py"), *words], capture_output=True, text=True, env=env, timeout=300
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a failed run; a failure is one sentence and never a traceback."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr.strip().splitlines()[-1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---- old Pythons ---------------------------------------------------------------------------------------------------


def test_an_old_python_can_parse_the_file() -> None:
    tree = ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    # A feature of the future that an old Python has not heard of is a syntax error to it.
    assert not [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 1), (3, 10, 13)])
def test_old_pythons_are_refused_with_the_fix(version: tuple[int, ...]) -> None:
    with pytest.raises(
        run.SetupError, match=rf"needs Python 3\.11 or newer, this is {version[0]}\.{version[1]}: .*run\.py"
    ):
        run.check_python(version)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 14, 2)])
def test_new_pythons_are_taken(version: tuple[int, ...]) -> None:
    run.check_python(version)


@pytest.mark.parametrize("name", ["python3.9", "python3.10"])
def test_a_real_old_python_gets_the_sentence(name: str, tmp_path: Path) -> None:
    candidates = [shutil.which(name), *map(str, Path.home().glob(f".pyenv/versions/{name[6:]}.*/bin/python"))]
    found = [c for c in candidates if c and subprocess.run([c, "-c", ""], capture_output=True).returncode == 0]
    if not found:
        pytest.skip(f"no {name} on this machine")
    done = subprocess.run([found[0], checkout(tmp_path) / "run.py", "demo"], capture_output=True, text=True, timeout=60)
    assert said(done).startswith("frameloom needs Python 3.11 or newer, this is 3.")
    assert not (tmp_path / ".venv").exists()


# ---- which torch ---------------------------------------------------------------------------------------------------

NEW_DRIVER = "| NVIDIA-SMI 580.65    Driver Version: 580.65    CUDA Version: 13.0     |"
OLD_DRIVER = "| NVIDIA-SMI 550.54    Driver Version: 550.54    CUDA Version: 12.4     |"


@pytest.mark.parametrize(
    ("platform", "nvidia", "wish", "source"),
    [
        ("linux", "", "", "cpu"),
        ("linux", NEW_DRIVER, "", "plain"),
        ("linux", OLD_DRIVER, "", "cu126"),
        ("win32", "", "", "plain"),
        ("win32", NEW_DRIVER, "", "cu130"),
        ("win32", OLD_DRIVER, "", "cu126"),
        ("darwin", "", "", "plain"),
        ("linux", NEW_DRIVER, "cpu", "cpu"),
    ],
)
def test_where_torch_comes_from(platform: str, nvidia: str, wish: str, source: str) -> None:
    assert run.torch_source(platform, nvidia, wish) == source


# ---- constraints ---------------------------------------------------------------------------------------------------


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower(): version for name, version in found.items()}


def test_constraints_are_exact_and_name_no_build() -> None:
    for name, version in pins().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"
    assert f"torch=={pins()['torch']}" == run.TORCH


def test_every_direct_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"], run.SETUPTOOLS]
    names = {re.split(r"[<>=!~;\[ ]", requirement)[0].lower() for requirement in wanted}
    assert names <= set(pins())


# ---- sentences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "No room: "),
        (
            "WARNING: Retrying after 'NewConnectionError(...)'\nERROR: No matching distribution found for x",
            "No network: ",
        ),
        ("ERROR: [Errno 13] Permission denied: '/x/.venv/lib'", ".venv cannot be written; "),
        (
            "ERROR: No matching distribution found for torch==2.13.0",
            "No ready-made package of torch==2.13.0 for Python 3",
        ),
        (
            "ERROR: Cannot install numpy>=1 because these package versions have conflicting dependencies.\n\n"
            "The conflict is caused by:\n    The user requested numpy>=1\n"
            "    The user requested (constraint) numpy==99.9.9\n\n"
            "ERROR: ResolutionImpossible: for help visit the manual of pip",
            "No ready-made package of numpy==99.9.9 for Python 3",
        ),
        ("something\nERROR: the moon is full\n", "Installing failed (ERROR: the moon is full); "),
        ("", "Installing failed (nothing was said); "),
    ],
)
def test_what_pip_says_becomes_one_sentence(printed: str, sentence: str) -> None:
    text = str(run.pip_failure(printed, Path("setup.log")))
    assert text.startswith(sentence)
    assert "\n" not in text


def test_a_small_disk_is_noticed_before_anything_is_installed(tmp_path: Path) -> None:
    run.check_room(tmp_path, 0)
    with pytest.raises(
        run.SetupError, match=r"^No room: setting up needs about 1000000000\.0 GB under .* is free; make room"
    ):
        run.check_room(tmp_path, 10**12)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device", "/a"), "No room: "),
        (PermissionError(13, "Permission denied", "/a/.venv"), "/a/.venv cannot be written; "),
        (OSError(30, "Read-only file system", "/a/.cache"), "/a/.cache cannot be written; "),
        (NotADirectoryError(20, "Not a directory", "/a/.cache"), "/a/.cache: Not a directory; "),
    ],
)
def test_file_system_errors_become_one_sentence(error: OSError, sentence: str) -> None:
    assert str(run.plain_os_error(error)).startswith(sentence)


def test_an_incomplete_checkout_is_named(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    (folder / "constraints.txt").unlink()
    assert "constraints.txt is missing; clone the repository again" in said(start(folder, "demo"))


@pytest.mark.skipif(not POSIX, reason="folder permissions work this way on POSIX only")
def test_a_folder_that_cannot_be_written_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = checkout(Path(name) / "work")
        os.chmod(name, 0o755)
        os.chmod(folder, 0o555)
        somebody = None
        python = sys.executable
        if os.geteuid() == 0:
            # Permissions do not bind root, so the run belongs to somebody else, with a Python that they can reach.
            somebody = 65534
            python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or ""
            probe = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
            if not python or subprocess.run(probe, user=somebody, cwd="/").returncode != 0:
                pytest.skip("runs as root and there is no system Python 3.11 that another user could start")
        done = subprocess.run(
            [python, str(folder / "run.py"), "demo"], capture_output=True, text=True, user=somebody, cwd="/", timeout=60
        )
        assert "cannot be written; put the checkout in a folder of your own" in said(done)


@pytest.mark.skipif(not POSIX, reason="stands in for the interpreter with a shell script")
def test_a_python_without_venv_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debian = tmp_path / "python3"
    debian.write_text(
        "#!/bin/sh\necho 'The environment was not created successfully because ensurepip is not available.'\nexit 1\n",
        encoding="utf-8",
    )
    debian.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(debian))
    with pytest.raises(run.SetupError, match=r"sudo apt install python3\.\d+-venv"):
        run.Environment(checkout(tmp_path / "work")).make()


# ---- stamps --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> run.Environment:
    """A scratch checkout with an environment that has no pip: quick to make, enough for stamps."""
    folder = checkout(tmp_path / "work")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")], check=True, timeout=120)
    return run.Environment(folder.resolve())


def test_a_stamp_holds_until_something_changes(bare: run.Environment) -> None:
    assert not bare.is_current("base")
    bare.set_stamp("base")
    assert bare.is_current("base")
    assert not bare.is_current("test")
    (bare.root / "constraints.txt").write_text("numpy==1\n", encoding="utf-8")
    assert not bare.is_current("base")
    bare.set_stamp("base")
    (bare.root / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    assert not bare.is_current("base")


def test_a_moved_checkout_is_installed_again(bare: run.Environment) -> None:
    bare.set_stamp("base")
    moved = bare.root.parent / "elsewhere"
    bare.root.rename(moved)
    assert not run.Environment(moved).is_current("base")


def test_a_lost_interpreter_is_noticed(bare: run.Environment) -> None:
    bare.set_stamp("base")
    bare.python.unlink()
    assert not bare.is_current("base")
    assert not bare.works()


def test_a_lost_package_is_noticed(bare: run.Environment) -> None:
    folder = sorted(bare.folder.glob("[Ll]ib*/**/site-packages"))[0] / "numpy"
    folder.mkdir()
    bare.set_stamp("base")
    assert bare.is_current("base") and not bare.is_torn()
    (folder.parent / "added later").mkdir()
    assert bare.is_current("base") and not bare.is_torn()
    folder.rmdir()
    assert not bare.is_current("base")
    assert bare.is_torn(), "pip goes by its records, and would not install it again"
    (bare.root / "constraints.txt").write_text("numpy==1\n", encoding="utf-8")
    assert not bare.is_torn(), "other requirements may need other packages"


def test_half_a_stamp_does_not_count(bare: run.Environment) -> None:
    bare.stamp("base").write_bytes(b"\xff\x00")
    assert not bare.is_current("base")
    bare.stamp("base").write_text(bare.key()[:20], encoding="ascii")
    assert not bare.is_current("base")


def test_an_environment_without_pip_is_not_taken_for_a_good_one(bare: run.Environment) -> None:
    assert not bare.works()


@pytest.mark.parametrize(("command", "stamps"), [("params", ["base"]), ("bench", ["base", "test"])])
def test_a_ready_environment_is_started_at_once(
    command: str, stamps: list[str], bare: run.Environment, tmp_path: Path
) -> None:
    """Without pip nothing could be installed: that the program runs shows that nothing was tried."""
    for stamp in stamps:
        bare.set_stamp(stamp)
    packages = sorted(bare.folder.glob("[Ll]ib*/**/site-packages"))[0]
    (packages / "bridge").mkdir()
    (packages / "bridge" / "__main__.py").write_text(
        textwrap.dedent(
            """
            import os, signal, sys
            held = os.name == "posix" and signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
            print([sys.argv[1:], os.getcwd(), sys.prefix, held])
            sys.exit(7)
            """
        ),
        encoding="utf-8",
    )
    # A module of the same name where the user stands must not be loaded instead.
    here = tmp_path / "here"
    here.mkdir()
    (here / "bridge.py").write_text("raise SystemExit('the wrong one')\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(bare.root / "run.py"), command, "ring", "--size", "9"],
        capture_output=True,
        text=True,
        cwd=here,
        timeout=60,
    )
    assert done.returncode == 7
    assert done.stderr == ""
    words, folder, prefix, ctrl_c_is_held = ast.literal_eval(done.stdout)
    assert ctrl_c_is_held == (os.name == "posix")
    assert words == [command, "ring", "--size", "9"]
    assert Path(folder).samefile(here)
    assert Path(prefix).samefile(bare.folder)


def test_a_benchmark_gets_the_packages_that_it_compares_with(
    bare: run.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.set_stamp("base")
    asked = []
    monkeypatch.setattr(run, "install", lambda env, extra: asked.append(extra))
    monkeypatch.setattr(run, "ROOT", bare.root)
    monkeypatch.setattr(run, "start", lambda command: command[-2:])
    monkeypatch.setattr(run.Environment, "make", lambda env: None)
    assert run.main(["bench", "ring"]) == ["bench", "ring"]
    assert run.main(["params", "ring"]) == ["params", "ring"]
    assert asked == ["test"]


def test_two_set_ups_at_once_take_turns(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, pathlib
        sys.path.insert(0, sys.argv[1])
        import run
        with run.one_at_a_time(pathlib.Path(sys.argv[2])):
            print("mine", flush=True)
            sys.stdin.readline()
        """
    )
    words = [sys.executable, "-c", script, str(ROOT), str(tmp_path)]

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with begin() as first:
        assert first.stdout is not None and first.stdout.readline() == "mine\n"
        with begin() as second:
            assert second.stderr is not None and second.stdout is not None
            assert second.stderr.readline().startswith("waiting: another run.py")
            # Killed, not ended: the system must give the lock back.
            first.kill()
            assert second.stdout.readline() == "mine\n"
            second.communicate("\n", timeout=60)


# ---- a real installation that cannot succeed -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.CompletedProcess[str]]]:
    """A checkout whose `.venv` was broken and then remade by a run without a network."""
    folder = checkout(tmp_path_factory.mktemp("offline") / "work", "setuptools==84.2.1\n")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").write_text("not a program", encoding="utf-8")
    done = start(folder, "demo", env=surroundings(f"http://127.0.0.1:{free_port()}/simple"))
    yield folder, done


Half = tuple[Path, subprocess.CompletedProcess[str]]


def test_a_broken_environment_is_made_anew_with_a_message(half_made: Half) -> None:
    folder, done = half_made
    assert ".venv is broken or half-made: making it anew" in done.stderr
    assert run.Environment(folder.resolve()).works()


def test_no_network_is_one_sentence(half_made: Half) -> None:
    folder, done = half_made
    assert said(done).startswith("No network: the package index did not answer")
    assert not run.Environment(folder.resolve()).is_current("base")


@pytest.mark.skipif(not POSIX, reason="sends a POSIX signal")
def test_an_interrupted_installation_says_how_to_go_on(half_made: Half) -> None:
    folder, _ = half_made
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        port = silent.getsockname()[1]
        child = subprocess.Popen(
            [sys.executable, str(folder / "run.py"), "demo"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=surroundings(f"http://127.0.0.1:{port}/simple"),
        )
        try:
            connection, _ = silent.accept()
            with connection:
                child.send_signal(signal.SIGINT)
                out, err = child.communicate(timeout=120)
        finally:
            child.kill()
            child.wait()
    assert child.returncode == 130
    assert out == ""
    assert err.strip().splitlines()[-1] == "Interrupted; the same command goes on where it was."
    assert "Traceback" not in err
    assert run.Environment(folder.resolve()).works()
