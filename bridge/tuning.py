"""The fastest way to run a model on this machine: measured when it is loaded, remembered for the next start.

First each back end and dtype that can run here calls the U-Net a few times; the fastest of them then runs the whole
stream with its stages overlapped on three threads and one after the other, with all threads per call and with half of
them. What is fastest differs between processors by more than any rule would foresee.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bridge.handoff import Closed, Handoff
from core.backend import BACKENDS, BackendError, Execution
from core.device import DTYPES, dtype_name
from core.params import Params
from core.stream import StreamConfig

log = logging.getLogger("frameloom.tuning")

CALLS, CALLS_S = 5, 0.1
"""One back end's calls of the U-Net: so many, or until so many seconds are over, after one that warms up."""
FRAMES, FRAMES_S = 8, 0.25
"""Frames of one way to run the stages, likewise."""
CALLS_BUDGET_S, BUDGET_S = 0.6, 1.2
"""Once so much time is spent, on the calls and in all, nothing more is begun, so that measuring ends within two
seconds. A large model on a slow machine gets one figure of each kind."""
MANY_ROWS = 3
"""A U-Net call of so many rows takes all threads, whatever was measured with fewer: it works longer than encoder and
decoder together, and with half of the threads the other cores would wait for it."""
ALIKE = 0.95
"""Ways at least so fast as the fastest count as equally fast; of those the one with the smallest latency is taken."""


@dataclass(frozen=True)
class Figure:
    """One measured way to run. unet_ms: one call of the U-Net alone. fps, latency_ms: of the whole stream, where that
    was measured."""

    backend: str
    dtype: str
    threads: int | None
    overlap: bool | None = None
    unet_ms: float | None = None
    fps: float | None = None
    latency_ms: float | None = None

    def __str__(self) -> str:
        way = f"{self.backend} {self.dtype}"
        if self.overlap is None:
            return f"{way}: U-Net {self.unet_ms:.1f} ms"
        stages = "stages overlapped" if self.overlap else "stages one after the other"
        each = "all threads" if self.threads is None else f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{way}, {stages}, {each} each: {self.fps:.1f} frames per second, {self.latency_ms:.0f} ms"


@dataclass(frozen=True)
class Tuned:
    """model: to be run with its stages overlapped or not. figures: of what was measured, the taken one first.
    seconds: what measuring took in this start; 0 when the answer was remembered."""

    model: Any
    overlap: bool
    figures: tuple[Figure, ...]
    seconds: float


class Memory:
    """Answers of earlier starts in one JSON file. One that cannot be read or written costs seconds, nothing else."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def _entries(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8")) if self._path is not None else {}
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def recall(self, key: str) -> tuple[Figure, ...]:
        """The figures put under `key`, the taken one first; none when there are none."""
        try:
            figures = tuple(Figure(**figure) for figure in self._entries().get(key, ()))
        except TypeError:
            return ()
        return figures if all(f.backend in BACKENDS and f.dtype in DTYPES for f in figures) else ()

    def put(self, key: str, figures: Sequence[Figure]) -> None:
        if self._path is None:
            return
        entries = {**self._entries(), key: [asdict(figure) for figure in figures]}
        draft = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(entries, indent=1), encoding="utf-8")
            os.replace(draft, self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s); the next start measures again", self._path, error)


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Windows and macOS
        return os.cpu_count() or 1


@functools.cache
def everything() -> int:
    """CPU threads that torch takes of itself: asked before anybody changes it."""
    return torch.get_num_threads()


def tune(
    model: Any,
    executions: Sequence[Execution],
    size: tuple[int, int],
    params: Params,
    memory: Memory,
    *,
    overlap: bool | None = None,
    threads: int | None = None,
) -> Tuned:
    """The fastest way to run `model`, whose weights are float32, at a size (width, height) in pixels.

    executions: what can run here, the likely fastest first; one that fails is left out with a warning. overlap and
    threads: when given, nothing else is tried. Raises `BackendError` when all fail.
    """
    ways = ways_to_run(usable_cores(), overlap, threads)
    if len(executions) == len(ways) == 1:
        stages = ways[0]
        return Tuned(model.run_by(replace(executions[0], threads=stages[0])), stages[1], (), 0.0)
    key = _key(model, executions, size, ways)
    known = memory.recall(key)
    if known:
        best = known[0]
        execution = replace(executions[0], backend=best.backend, dtype=DTYPES[best.dtype])
        execution = _with_threads(execution, best.threads, wished=threads)
        return Tuned(model.run_by(execution), bool(best.overlap), known, 0.0)
    trial = _Trial(model, size, params, threads)
    trial.convert(executions[0], ways[0][0])
    started = time.monotonic()
    by_call = trial.calls(executions, ways[0][0], started + CALLS_BUDGET_S)
    by_way = trial.ways([execution for _, execution in by_call], ways, started + BUDGET_S)
    seconds = time.monotonic() - started
    if not by_way:
        names = ", ".join(dict.fromkeys(execution.backend for execution in executions))
        raise BackendError(f"this model cannot be run by {names}; use another back end, or a smaller size")
    good = ALIKE * max(figure.fps or 0.0 for figure, _ in by_way)
    by_way.sort(key=lambda entry: ((entry[0].fps or 0.0) < good, entry[0].latency_ms))
    figures = (*(figure for figure, _ in by_way), *(figure for figure, _ in by_call))
    memory.put(key, figures)
    log.info("measured in %.1f s: %s", seconds, "; ".join(map(str, figures)))
    return Tuned(by_way[0][1], bool(figures[0].overlap), figures, seconds)


def _with_threads(execution: Execution, threads: int | None, *, wished: int | None) -> Execution:
    return replace(execution, threads=threads, many_rows=MANY_ROWS if wished is None else None)


def ways_to_run(cores: int, overlap: bool | None, threads: int | None) -> list[tuple[int | None, bool]]:
    """(threads of one call, overlap) to try. Half of the threads serve where three stages share the cores, and where
    half of the cores are not real ones; of two cores a single one serves the overlapped stages alone."""
    some = [threads] if threads is not None else [None, *([cores // 2] if cores > 1 else [])]
    ways = [(t, o) for t in some for o in (False, True) if overlap in (None, o)]
    return [way for way in ways if threads is not None or overlap is not None or way != (1, False)]


def _key(model: Any, executions: Sequence[Execution], size: tuple[int, int], ways: Sequence[object]) -> str:
    """Changes with machine, model, size, versions and with what was asked for."""
    from importlib.metadata import PackageNotFoundError, version

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "none"

    weights = sum(weight.numel() for weight in model.unet.state_dict().values())
    words = [
        platform.platform(),
        sorted(torch.cpu.get_capabilities().items()),
        torch.backends.cpu.get_cpu_capability(),
        usable_cores(),
        [version_of(name) for name in ("torch", "openvino", "diffusers", "frameloom")],
        model.folder,
        weights,
        size,
        [(e.backend, dtype_name(e.dtype)) for e in executions],
        ways,
    ]
    return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()


class _Trial:
    """Runs a model for a moment in one way after another."""

    def __init__(self, model: Any, size: tuple[int, int], params: Params, wished: int | None) -> None:
        self._model = model
        self._wished = wished
        self._config = StreamConfig(*size)
        self._params = params
        self._made: dict[Execution, Any] = {}
        generator = torch.Generator().manual_seed(0)
        shape = (FRAMES, 1, self._config.height, self._config.width, 3)
        self._frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    def _run_by(self, execution: Execution, threads: int | None) -> Any:
        execution = _with_threads(execution, threads, wished=self._wished)
        if execution not in self._made:
            self._made[execution] = self._model.run_by(execution)
        torch.set_num_threads(execution.torch_threads(everything()))
        return self._made[execution]

    def convert(self, execution: Execution, threads: int | None) -> None:
        """What has to be done once whatever wins, and is none of the measuring."""
        with contextlib.suppress(RuntimeError):
            self._run_by(execution, threads).stream(self._config)

    def calls(
        self, executions: Sequence[Execution], threads: int | None, deadline_s: float
    ) -> list[tuple[Figure, Execution]]:
        """The U-Net alone by each execution, the fastest first; after the deadline (monotonic clock) one at most."""
        found: list[tuple[Figure, Execution]] = []
        for execution in executions:
            if time.monotonic() < deadline_s or not found:
                with _said(execution):
                    found.append((self._unet(self._run_by(execution, threads), deadline_s), execution))
        return sorted(found, key=lambda entry: entry[0].unet_ms or 0.0)

    def ways(
        self, executions: Sequence[Execution], ways: Sequence[tuple[int | None, bool]], deadline_s: float
    ) -> list[tuple[Figure, Any]]:
        """The whole stream, by the first of the executions that can, in each way; likewise."""
        found: list[tuple[Figure, Any]] = []
        for execution in executions:
            for threads, overlap in ways:
                if time.monotonic() < deadline_s or not found:
                    with _said(execution):
                        model = self._run_by(execution, threads)
                        found.append((self._stages(model, overlap), model))
            if found:
                break
        return found

    def _unet(self, model: Any, deadline_s: float) -> Figure:
        scale = model.latent_scale
        latent = (int(model.unet.config.in_channels), self._config.height // scale, self._config.width // scale)
        rows = len(self._params.stages())
        denoiser = model.denoiser(latent)
        text = denoiser.rows([denoiser.prompt(model.text.embed(self._params.prompt))] * rows)
        x_Rchw, t_R = torch.randn(rows, *latent), torch.full((rows,), 500)
        took_ms: list[float] = []
        until_s = min(time.monotonic() + CALLS_S, deadline_s)
        # The first call warms up; where it took all the time there was, it is the figure.
        while not took_ms or (len(took_ms) <= CALLS and time.monotonic() < until_s):
            started = time.perf_counter()
            denoiser(x_Rchw, t_R, text)
            took_ms.append((time.perf_counter() - started) * 1e3)
        unet_ms = statistics.median(took_ms[1:] or took_ms)
        execution = model.execution
        return Figure(execution.backend, dtype_name(execution.dtype), execution.threads, unet_ms=unet_ms)

    def _stages(self, model: Any, overlap: bool) -> Figure:
        execution = model.execution
        stream = model.stream(self._config)
        plan = stream.plan(self._params)
        fps, latency_ms = (overlapped if overlap else serial)(stream, plan, self._frames, FRAMES_S)
        way = (execution.backend, dtype_name(execution.dtype), execution.threads)
        return Figure(*way, overlap, fps=fps, latency_ms=latency_ms)


@contextlib.contextmanager
def _said(execution: Execution) -> Iterator[None]:
    """A back end that cannot run the model is left out with a warning."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        log.warning("back end %s, %s: %s", execution.backend, dtype_name(execution.dtype), reason)


def serial(stream: Any, plan: Any, frames: Any, limit_s: float) -> tuple[float, float]:
    """(frames per second, median ms from a frame's entry to its picture) of the stages one after the other, over about
    so many frames or seconds."""
    stream.step(frames[0], None, plan)
    entered: dict[int, float] = {}
    waits: list[float] = []
    started = time.perf_counter()
    for number, frame in enumerate(frames):
        entered[number] = time.perf_counter()
        picture = stream.step(frame, number, plan)
        if picture is not None and picture.tag in entered:
            waits.append((time.perf_counter() - entered[picture.tag]) * 1e3)
        if time.perf_counter() - started > limit_s and waits:
            break
    seconds = time.perf_counter() - started
    return len(entered) / seconds, statistics.median(waits) if waits else seconds * 1e3


def overlapped(stream: Any, plan: Any, frames: Any, limit_s: float) -> tuple[float, float]:
    """The same with the three stages on three threads, as the host runs them."""
    encoded: Handoff[Any] = Handoff(1)
    finished: Handoff[Any] = Handoff(1)
    entered: dict[int, float] = {}
    left: list[tuple[Any, float]] = []
    failures: list[Exception] = []

    def encode() -> None:
        until_s = time.perf_counter() + limit_s
        # Twice over: at either end one of the stages has nothing to do, and those frames are not counted.
        for number, frame in enumerate([*frames, *frames]):
            if number > plan.depth + 4 and time.perf_counter() > until_s:
                break
            entered[number] = time.perf_counter()
            encoded.put((number, stream.encode(frame)))
        encoded.close()

    def turn() -> None:
        while True:
            number, latent = encoded.get()
            result = stream.advance(latent, number, plan)
            if result is not None:
                finished.put(result)

    def kept(work: Callable[[], None]) -> None:
        try:
            work()
        except Closed:
            pass
        except Exception as error:
            failures.append(error)
        finally:
            encoded.close()
            if work is turn:
                finished.close()

    threads = [threading.Thread(target=kept, args=(work,), daemon=True) for work in (encode, turn)]
    for thread in threads:
        thread.start()
    try:
        while True:
            picture = stream.decode(finished.get())
            left.append((picture.tag, time.perf_counter()))
    except Closed:
        pass
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    inner = left[1:-1] if len(left) > 4 else left
    # What was in flight before came in at a time that nobody noted.
    waits = [(at - entered[number]) * 1e3 for number, at in inner if number in entered]
    seconds = inner[-1][1] - inner[0][1]
    return (len(inner) - 1) / seconds, statistics.median(waits)
