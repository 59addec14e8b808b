"""Liveness locks: exclusive, testable without taking, and gone with their process."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from bridge.ring import lock

HOLD = "import sys; from bridge.ring import lock; k = lock.{}; print(k.acquire(), flush=True); sys.stdin.read()"


def kinds() -> list[tuple[str, Callable[[str], lock.Lock]]]:
    if sys.platform == "win32":
        return [
            ("LockedByte({!r})", lock.LockedByte),
            ("NamedMutex({!r})", lambda p: lock.NamedMutex(p.replace("\\", "_"))),
        ]
    found: list[tuple[str, Callable[[str], lock.Lock]]] = [("WholeFileLock({!r})", lock.WholeFileLock)]
    if sys.platform == "linux":
        found.append(("ByteLock({!r}, 64)", lambda path: lock.ByteLock(path, 64)))
    return found


@pytest.mark.parametrize(("expression", "make"), kinds())
def test_exclusive_testable_and_released(
    tmp_path: pathlib.Path, expression: str, make: Callable[[str], lock.Lock]
) -> None:
    path = str(tmp_path / "lock")
    one, two = make(path), make(path)
    assert not one.taken_elsewhere()
    assert one.acquire() and one.held
    assert two.taken_elsewhere() and not one.taken_elsewhere()
    assert not two.acquire() and not two.held
    assert not lock.acquire_patiently(two)
    one.release()
    one.release()
    assert not two.taken_elsewhere()
    assert two.acquire()
    two.release()


@pytest.mark.parametrize(("expression", "make"), kinds())
def test_a_killed_holder_holds_nothing(
    tmp_path: pathlib.Path, expression: str, make: Callable[[str], lock.Lock]
) -> None:
    path = str(tmp_path / "lock")
    ours = make(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(expression.format(path))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert ours.taken_elsewhere()
        holder.kill()
    assert not ours.taken_elsewhere()
    assert ours.acquire()
    ours.release()


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be deleted there")
@pytest.mark.parametrize(("expression", "make"), kinds())
def test_a_lock_on_a_deleted_file_counts_for_nothing(
    tmp_path: pathlib.Path, expression: str, make: Callable[[str], lock.Lock]
) -> None:
    path = str(tmp_path / "lock")
    one, two, watcher = make(path), make(path), make(path)
    assert one.acquire() and watcher.taken_elsewhere() and not two.acquire()
    one.remove()
    one.remove()
    assert not list(tmp_path.iterdir())
    assert not watcher.taken_elsewhere()
    # Both still have the deleted file open; they must meet on the new one.
    assert two.acquire()
    assert not one.acquire() and one.taken_elsewhere() and watcher.taken_elsewhere()
    two.remove()


@pytest.mark.skipif(sys.platform != "linux", reason="open-file-description locks")
def test_different_bytes_are_different_locks(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "lock")
    one, two = lock.ByteLock(path, 0), lock.ByteLock(path, 64)
    assert one.acquire() and two.acquire()
    one.release()
    two.release()
