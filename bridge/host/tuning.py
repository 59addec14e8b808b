"""The fastest way to run a model on this machine: measured when it is loaded, remembered for the next start.

First each back end and dtype that can run here calls the U-Net a few times; the fastest of them then runs the whole
stream with its stages overlapped on three threads and one after the other, with all threads per call and with half of
them. What is fastest differs between processors by more than any rule would foresee.

What was measured while other programs had a part of the processor is used, and measured anew by the first start that
has the processor for itself: one busy minute must not decide for all later starts.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import platform
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bridge.host.lanes import ThreadLanes
from core.atomic import replacing
from core.backend import BACKENDS, BackendError, Execution
from core.device import DTYPES, dtype_name
from core.lanes import Mark
from core.params import Params
from core.stream import StreamConfig

log = logging.getLogger("frameloom.tuning")

CALLS, CALLS_S = 5, 0.1
"""One back end's calls of the U-Net: so many, or until so many seconds are over, after one that warms up."""
TURNS, FRAMES, FRAMES_S = 4, 8, 0.12
"""Each way to run the stages has its turn in every round: so many rounds of so many frames, or until so many seconds of
a turn are over. Another program that takes the processor for a moment then slows one turn of each, and not one way."""
CALLS_BUDGET_S, BUDGET_S = 0.3, 1.8
"""Nothing that would end later is begun, of the calls and in all, so that measuring ends within two seconds. A large
model on a slow machine gets one figure of each kind."""
HOPELESS = 0.75
"""A way slower than that share of the fastest so far gets no further turn; two turns of one way differ by less."""
SHARED = 0.8
"""What a core that two calls share is worth, of one that a call has for itself (`many_rows`)."""
DISTURBED = 0.9
"""With a smaller part of the cores that it asks for this process is not alone: undisturbed it gets 0.98 and more,
beside one other busy program on two cores half."""
LOOK_S = 0.04
"""Of looking for that."""
ALIKE = 0.95
"""Ways at least so fast as the fastest count as equally fast; of those the one with the smallest latency is taken."""


@dataclass(frozen=True)
class Figure:
    """One measured way to run. unet_ms: one call of the U-Net alone. fps, latency_ms: of the whole stream at its best,
    where that was measured. many_rows: U-Net calls of so many rows are to take all threads (`many_rows`). disturbed:
    measured while other programs had a part of the processor."""

    backend: str
    dtype: str
    threads: int | None
    overlap: bool | None = None
    unet_ms: float | None = None
    fps: float | None = None
    latency_ms: float | None = None
    many_rows: int | None = None
    disturbed: bool = False

    def __str__(self) -> str:
        way = f"{self.backend} {self.dtype}"
        if self.disturbed:
            way += " (beside other programs; measured again without them)"
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


class Cache:
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
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as draft:
                draft.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        except OSError as error:
            log.warning("%s cannot be written (%s); the next start measures again", self._path, error)


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Windows and macOS
        return os.cpu_count() or 1


@functools.cache
def default_threads() -> int:
    """CPU threads that torch takes of itself: asked before anybody changes it."""
    return torch.get_num_threads()


def disturbed() -> bool:
    """Whether other programs have a part of the processor just now: of the time of all cores that this process asks
    for, by multiplying matrices, it gets less than `DISTURBED`."""
    threads = min(torch.get_num_threads(), usable_cores())
    matrix = torch.ones(512, 512)
    started, had = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < LOOK_S:
        matrix @ matrix
    return (time.process_time() - had) / (threads * (time.perf_counter() - started)) < DISTURBED


def tune(
    model: Any,
    executions: Sequence[Execution],
    size: tuple[int, int],
    params: Params,
    cache: Cache,
    *,
    overlap: bool | None = None,
    threads: int | None = None,
    beside: Execution | None = None,
) -> Tuned:
    """The fastest way to run `model`, whose weights are float32, at a size (width, height) in pixels.

    executions: what can run here, the likely fastest first; one that fails is left out with a warning. overlap and
    threads: when given, nothing else is tried. beside: of a model that paints meanwhile: nothing is measured then, as
    that would hold it up and be wrong; the next start does. Raises `BackendError` when all fail.
    """
    ways = candidates(usable_cores(), overlap, threads)
    if len(executions) == len(ways) == 1:
        stages = ways[0]
        return Tuned(model.run_by(replace(executions[0], threads=stages[0])), stages[1], (), 0.0)
    key = _key(model, executions, size, ways)
    known = cache.recall(key)
    if known and (beside is not None or not (known[0].disturbed and not disturbed())):
        best = known[0]
        return Tuned(model.run_by(_execution(executions[0], best)), bool(best.overlap), known, 0.0)
    if beside is not None:
        like = replace(executions[0], backend=beside.backend, dtype=beside.dtype, threads=beside.threads)
        return Tuned(model.run_by(replace(like, many_rows=beside.many_rows)), ways[0][1], (), 0.0)
    trial = _Trial(model, size, params)
    trial.convert(executions[0], ways[0][0])
    others = disturbed()
    started = time.monotonic()
    by_call = trial.calls(executions, ways[0][0], started + CALLS_BUDGET_S)
    by_way = trial.ways([execution for _, execution in by_call], ways, started + BUDGET_S)
    seconds = time.monotonic() - started
    if not by_way:
        names = ", ".join(dict.fromkeys(execution.backend for execution in executions))
        raise BackendError(f"this model cannot be run by {names}; use another back end, or a smaller size")
    good = ALIKE * max(figure.fps or 0.0 for figure in by_way)
    by_way.sort(key=lambda figure: ((figure.fps or 0.0) < good, figure.latency_ms))
    if threads is not None:  # asked for: for every call
        by_way = [replace(figure, many_rows=None) for figure in by_way]
    others = others or disturbed()
    figures = tuple(replace(figure, disturbed=others) for figure in (*by_way, *(figure for figure, _ in by_call)))
    cache.put(key, figures)
    log.info("measured in %.1f s: %s", seconds, "; ".join(map(str, figures)))
    return Tuned(trial.run_by(_execution(executions[0], figures[0])), bool(figures[0].overlap), figures, seconds)


def _execution(like: Execution, figure: Figure) -> Execution:
    dtype = DTYPES[figure.dtype]
    return replace(like, backend=figure.backend, dtype=dtype, threads=figure.threads, many_rows=figure.many_rows)


def many_rows(rows: int, unet_ms: float, others_ms: float) -> int:
    """The least number of U-Net rows for which all threads serve better than half of them.

    unet_ms: a U-Net call of `rows` rows with half of the threads; others_ms: the other stages of one frame, likewise.
    Then the U-Net and the others work side by side, and the longer of the two sets the pace. With all threads
    everything shares all cores, and takes half of the sum, but for what sharing costs.
    """
    row_ms = unet_ms / rows
    return 1 + int(others_ms / (2 * SHARED - 1) / row_ms)


def candidates(cores: int, overlap: bool | None, threads: int | None) -> list[tuple[int | None, bool]]:
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


@dataclass(frozen=True)
class Turn:
    """Some frames in one way to run the stages. unet_ms, others_ms: of one frame, in the U-Net's stage and in encode
    and decode together. seconds: what the turn took."""

    fps: float
    latency_ms: float
    unet_ms: float
    others_ms: float
    seconds: float = 0.0


def _fps(turns: Sequence[Turn]) -> float:
    """Of the best turn, as whatever else happens on the machine only ever slows one; infinite where there is none."""
    return max((turn.fps for turn in turns), default=math.inf)


class _Trial:
    """Runs a model for a moment in one way after another."""

    def __init__(self, model: Any, size: tuple[int, int], params: Params) -> None:
        self._model = model
        self._config = StreamConfig(*size)
        self._params = params
        self._made: dict[Execution, Any] = {}
        self._plan_s = 0.0  # what compiling the U-Net took
        self._streams: dict[tuple[Execution, tuple[int | None, bool]], tuple[Any, Any]] = {}
        generator = torch.Generator().manual_seed(0)
        shape = (FRAMES, 1, self._config.height, self._config.width, 3)
        self._frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    def run_by(self, execution: Execution) -> Any:
        """The model run so, each made once."""
        if execution not in self._made:
            self._made[execution] = self._model.run_by(execution)
        return self._made[execution]

    def convert(self, execution: Execution, threads: int | None) -> None:
        """What has to be done once whatever wins, and is none of the measuring."""
        with contextlib.suppress(RuntimeError):
            stream = self.run_by(replace(execution, threads=threads)).stream(self._config)
            started = time.monotonic()
            stream.plan(self._params)
            self._plan_s = time.monotonic() - started

    def calls(
        self, executions: Sequence[Execution], threads: int | None, deadline_s: float
    ) -> list[tuple[Figure, Execution]]:
        """The U-Net alone by each execution, the fastest first; after the deadline (monotonic clock) one at most."""
        found: list[tuple[Figure, Execution]] = []
        for execution in executions:
            if time.monotonic() < deadline_s or not found:
                with _said(execution):
                    found.append((self._unet(self._ready(execution, threads), deadline_s), execution))
        return sorted(found, key=lambda entry: entry[0].unet_ms or 0.0)

    def ways(
        self, executions: Sequence[Execution], ways: Sequence[tuple[int | None, bool]], deadline_s: float
    ) -> list[Figure]:
        """The whole stream, by the first of the executions that can, in each way; likewise."""
        for execution in executions:
            turns: dict[tuple[int | None, bool], list[Turn]] = {}
            with _said(execution):
                for _ in range(TURNS):
                    # The fastest first, in case there is no time for all.
                    for way in sorted(ways, key=lambda way: -_fps(turns.get(way, []))):
                        if self._worth(way, turns) and self._in_time(way, turns, deadline_s):
                            turns.setdefault(way, []).append(self._turn(execution, way))
            if turns:
                return [self._figure(execution, way, taken) for way, taken in turns.items()]
        return []

    @staticmethod
    def _worth(way: tuple[int | None, bool], turns: dict[tuple[int | None, bool], list[Turn]]) -> bool:
        return way not in turns or _fps(turns[way]) >= HOPELESS * max(map(_fps, turns.values()))

    def _in_time(
        self, way: tuple[int | None, bool], turns: dict[tuple[int | None, bool], list[Turn]], deadline_s: float
    ) -> bool:
        """Whether a turn would end before the deadline, if it takes as long as the last one did."""
        if not turns:
            return True
        last = turns[way][-1] if way in turns else next(reversed(turns.values()))[-1]
        compiling_s = 0.0 if way[0] in {threads for threads, _ in turns} else 1.5 * self._plan_s
        return time.monotonic() + last.seconds + compiling_s < deadline_s

    def _ready(self, execution: Execution, threads: int | None) -> Any:
        model = self.run_by(replace(execution, threads=threads))
        torch.set_num_threads(model.execution.torch_threads(default_threads()))
        return model

    def _turn(self, execution: Execution, way: tuple[int | None, bool]) -> Turn:
        threads, overlap = way
        model = self._ready(execution, threads)
        if (execution, way) not in self._streams:
            stream = model.stream(self._config)
            plan = stream.plan(self._params)
            stream.step(self._frames[0], -math.inf, plan)
            self._streams[execution, way] = (stream, plan)
        started = time.monotonic()
        turn = (overlapped if overlap else serial)(*self._streams[execution, way], self._frames, FRAMES_S)
        return replace(turn, seconds=time.monotonic() - started)

    def _figure(self, execution: Execution, way: tuple[int | None, bool], turns: list[Turn]) -> Figure:
        threads, overlap = way
        rows = len(self._params.stages())
        best = max(turns, key=lambda turn: turn.fps)
        many = None
        if threads and overlap:
            # Where this way is taken, it was measured to be good with the rows of these parameters.
            many = max(rows + 1, many_rows(rows, best.unet_ms, best.others_ms))
        return Figure(
            execution.backend,
            dtype_name(execution.dtype),
            threads,
            overlap,
            fps=best.fps,
            latency_ms=min(turn.latency_ms for turn in turns),
            many_rows=many,
        )

    def _unet(self, model: Any, deadline_s: float) -> Figure:
        latent = model.latent_shape(self._config.width, self._config.height)
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


@contextlib.contextmanager
def _said(execution: Execution) -> Iterator[None]:
    """A back end that cannot run the model is left out with a warning."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        log.warning("back end %s, %s: %s", execution.backend, dtype_name(execution.dtype), reason)


class _Stopwatch:
    """A stream whose stages are timed, each on the one thread that calls it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._took_ms: dict[str, list[float]] = {"encode": [], "advance": [], "decode": []}

    def __getattr__(self, stage: str) -> Callable[..., Any]:
        work, took_ms = getattr(self._stream, stage), self._took_ms[stage]

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = work(*arguments)
            took_ms.append((time.perf_counter() - started) * 1e3)
            return result

        return timed

    def unet_ms(self) -> float:
        return statistics.median(self._took_ms["advance"])

    def others_ms(self) -> float:
        return sum(statistics.median(self._took_ms[stage]) for stage in ("encode", "decode"))


def serial(stream: Any, plan: Any, frames: Any, limit_s: float) -> Turn:
    """The stages one after the other, over about so many frames or seconds from the first finished one on."""
    timed = _Stopwatch(stream)
    waits_ms: list[float] = []
    counted = -1
    first_s = began_s = now_s = time.perf_counter()
    for frame in [*frames, *frames]:
        entered_s = time.perf_counter()
        result = timed.advance(timed.encode(frame), entered_s, plan)
        if result is None:
            continue
        entered_s = timed.decode(result).tag
        now_s = time.perf_counter()
        counted += 1
        if counted == 0:
            began_s = now_s
            continue
        if entered_s >= first_s:  # and not of an earlier turn
            waits_ms.append((now_s - entered_s) * 1e3)
        if waits_ms and (counted >= len(frames) or now_s > began_s + limit_s):
            break
    return Turn(counted / (now_s - began_s), statistics.median(waits_ms), timed.unet_ms(), timed.others_ms())


def overlapped(stream: Any, plan: Any, frames: Any, limit_s: float) -> Turn:
    """The same with the three stages on three threads, as the host runs them."""
    timed = _Stopwatch(stream)
    lanes = ThreadLanes({"unet": "unet", "decode": "publish"})
    left: list[tuple[float, float]] = []
    turns: deque[Mark] = deque()
    ends: list[Mark] = []
    first_s = time.perf_counter()

    def bring_out(latents: Mark) -> None:
        finished = latents.result()
        if finished is not None:
            left.append((timed.decode(finished).tag, time.perf_counter()))

    try:
        # Twice over: at either end one of the stages has nothing to do, and those frames are not counted.
        for number, frame in enumerate([*frames, *frames]):
            entered_s = time.perf_counter()
            if number > plan.depth + 4 and entered_s > first_s + limit_s:
                break
            turn = partial(timed.advance, timed.encode(frame), entered_s, plan)
            latents = lanes.run("unet", turn, reads=(), writes=())
            ends.append(lanes.run("decode", partial(bring_out, latents), after=(latents,), reads=(), writes=()))
            turns.append(latents)
            if len(turns) > 1:
                turns.popleft().wait()
        for end in ends:
            end.result()
    finally:
        lanes.close()
    inner = left[1:-1] if len(left) > 4 else left
    waits_ms = [(at_s - entered_s) * 1e3 for entered_s, at_s in inner if entered_s >= first_s]
    fps = (len(inner) - 1) / (inner[-1][1] - inner[0][1])
    return Turn(fps, statistics.median(waits_ms), timed.unet_ms(), timed.others_ms())
