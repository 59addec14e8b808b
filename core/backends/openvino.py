"""Networks run by OpenVINO on a CPU; nobody else imports it.

A network is converted once, with its weights and with sizes other than the number of rows fixed, and kept in a folder
so that the next start need not convert it. For each number of rows it is compiled with all sizes fixed: on two cores
with AMX, bfloat16, two rows of the embedded U-Net take 4.5 ms so and 11.9 ms with the number of rows left open.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten, treespec_dumps, treespec_loads

from core.backend import Elsewhere, Execution
from core.device import native_dtypes

log = logging.getLogger("frameloom.openvino")

STORE_LIMIT_BYTES = 1 << 30
"""The store is kept below this, oldest first out; what is larger by itself is converted at each start."""
KEPT_BYTES = 512 << 20
KEPT_LEAST, KEPT_MOST = 2, 8
"""How many compiled forms of a network are kept, for different numbers of rows: each has weights of its own."""
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
_CAPABILITIES = {torch.float32: "FP32", torch.bfloat16: "BF16", torch.float16: "FP16"}


@functools.cache
def _library() -> Any:
    # The wheel asks for a package that reports its use to its makers over the network. Where that package is not
    # to be had, OpenVINO's converter takes a stub of its own that reports nothing.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


@functools.cache
def _core() -> Any:
    return _library().Core()


@functools.cache
def _capabilities() -> frozenset[str]:
    try:
        return frozenset(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    except (ImportError, OSError, RuntimeError) as error:
        log.warning("openvino cannot be used (%s); the slower back end eager is taken", error)
        return frozenset()


def dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    """Those of the processor's own dtypes that OpenVINO computes in too; none where it is not installed."""
    if device.type != "cpu" or importlib.util.find_spec("openvino") is None:
        return ()
    return tuple(dtype for dtype in native_dtypes(device) if _CAPABILITIES[dtype] in _capabilities())


def call(model: Any, example: tuple[Any, ...], execution: Execution) -> Graph:
    """See `core.backend.Backend`. model: what `convert` gave."""
    return Graph(model, execution.dtype, execution.threads, execution.many_rows)


RETURNED = "frameloom_returned"
"""Kept with a converted network: how what the network returns is nested."""
UNFUSED = "frameloom_unfused"
"""Likewise: whether OpenVINO is not to make kernels of its own for elementwise operations."""


class _Flat(nn.Module):
    """A network as a function of plain tensors, as the converter wants it. returned: how what it gave was nested."""

    def __init__(self, network: nn.Module, spec: TreeSpec) -> None:
        super().__init__()
        self._network = network
        self._spec = spec
        self.returned: TreeSpec | None = None

    def forward(self, *leaves: Tensor) -> Any:
        outputs, self.returned = tree_flatten(self._network(*tree_unflatten(list(leaves), self._spec)))
        return tuple(outputs)


class Graph:
    """A network as a `core.backend.Call`.

    model: what `convert` gave. threads: of one call; None, or `many_rows` and more, leaves it to OpenVINO.
    """

    def __init__(
        self, model: Any, dtype: torch.dtype, threads: int | None = None, many_rows: int | None = None
    ) -> None:
        self._model = model
        self._returned = treespec_loads(model.get_rt_info(RETURNED).astype(str))
        # One call at a time per thread of the host, and no thread pinned to a core that a client's process needs.
        self._settings: dict[str, Any] = {
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[dtype],
            "ENABLE_CPU_PINNING": False,
        }
        if model.get_rt_info(UNFUSED).astype(bool):
            self._settings["SNIPPETS_MODE"] = "DISABLE"
        self._threads = threads
        self._many_rows = many_rows
        self._keep = max(KEPT_LEAST, min(KEPT_MOST, KEPT_BYTES // max(1, _bytes_of(model))))
        self._compiled: dict[int, _Compiled] = {}

    def prepare(self, rows: int) -> None:
        """See `core.backend.Call`. The forms that were prepared longest ago make room."""
        self._form(rows)

    def _form(self, rows: int) -> _Compiled:
        form = self._compiled.get(rows) or self._compile(rows)
        others = [(number, other) for number, other in self._compiled.items() if number != rows]
        # Replaced as a whole: a frame on another thread finds its form at any moment.
        self._compiled = dict([*others, (rows, form)][-self._keep :])
        return form

    def _compile(self, rows: int) -> _Compiled:
        model = self._model.clone()
        model.reshape({i: [rows, *list(port.partial_shape)[1:]] for i, port in enumerate(model.inputs)})
        settings = dict(self._settings)
        if self._threads is not None and (self._many_rows is None or rows < self._many_rows):
            settings["INFERENCE_NUM_THREADS"] = self._threads
        return _Compiled(_core().compile_model(model, "CPU", settings))

    def __call__(self, x_R: Tensor, *others: Any) -> Any:
        """See `core.backend.Call`."""
        leaves = tree_leaves((x_R, *others))
        # What nobody prepared comes late, and right all the same.
        form = self._compiled.get(x_R.shape[0]) or self._form(x_R.shape[0])
        return tree_unflatten(form(leaves), self._returned)


class _Compiled:
    """One compiled form. May be called by several threads at once: each call takes buffers of its own."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: deque[_Request] = deque([_Request(compiled)])
        # The last of these to go: it alone is freed without Python's lock, and a large network takes 0.1 s to free.
        self._freed_by = _library().AsyncInferQueue(compiled, 1)

    def __call__(self, leaves: list[Tensor]) -> list[Tensor]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = _Request(self._compiled)
        outputs = request.run(leaves)
        self._idle.append(request)
        return outputs


class _Request:
    """Buffers of one call."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._given: list[Tensor | None] = [None] * len(compiled.inputs)
        # OpenVINO reads this memory and does not hold it.
        self._read = list(self._given)

    def run(self, leaves: list[Tensor]) -> list[Tensor]:
        for i, leaf in enumerate(leaves):
            # Prompts are the same tensors turn after turn. Handing all over anew costs 0.3 ms of a call of 13 ms.
            if self._given[i] is not leaf:
                lies = leaf.contiguous()
                self._request.set_input_tensor(i, _library().Tensor(lies.numpy(), shared_memory=True))
                self._read[i] = lies
                # What had to be copied may change where it came from.
                self._given[i] = leaf if lies is leaf else None
        self._request.infer({}, share_outputs=True)
        return [torch.from_numpy(output.data).clone() for output in self._request.output_tensors]


def _bytes_of(model: Any) -> int:
    """Size of a converted network's weights."""
    return sum(op.get_byte_size() for op in model.get_ordered_ops() if op.get_type_name() == "Constant")


def convert(
    network: nn.Module, example: tuple[Any, ...], store: Path | None = None, elsewhere: Elsewhere | None = None
) -> Any:
    """The network in OpenVINO's form, weights included, with the number of rows left open.

    example: arguments of a call, tensors of R rows in any nesting. store: the folder where converted networks are kept;
    elsewhere: converts what is not there yet, see `core.backend.Execution`.
    """
    return _traced(network, example) if store is None else _stored(network, example, store, elsewhere)


def convert_into(network: nn.Module, example: tuple[Any, ...], folder: Path) -> None:
    """The same into a folder of a store."""
    _put(_traced(network, example), folder)


def _traced(network: nn.Module, example: tuple[Any, ...]) -> Any:
    openvino = _library()
    leaves, spec = tree_flatten(example)
    # Tensors that were made in inference mode cannot be recorded.
    leaves = [leaf.clone() for leaf in leaves]
    with torch.no_grad(), warnings.catch_warnings():
        # OpenVINO records modules by torch.jit.trace, which torch deprecates for compilers; both versions are pinned.
        warnings.simplefilter("ignore")
        flat = _Flat(network, spec).eval()
        model = openvino.convert_model(flat, example_input=tuple(leaves))
    assert flat.returned is not None
    model.set_rt_info(treespec_dumps(flat.returned), RETURNED)
    model.set_rt_info(_breaks_fusion(network), UNFUSED)
    model.reshape({i: openvino.PartialShape([-1, *leaf.shape[1:]]) for i, leaf in enumerate(leaves)})
    return model


def _breaks_fusion(network: nn.Module) -> bool:
    """Whether the process would end in OpenVINO's code generator (2026.4.1, float32): where a residual block's norm is
    scaled and shifted by the timestep. The kernels that it then takes instead cost some 15 % of such a network."""
    return any(getattr(part, "time_embedding_norm", None) == "scale_shift" for part in network.modules())


# ---- the store -----------------------------------------------------------------------------------------------------


def _stored(network: nn.Module, example: tuple[Any, ...], store: Path, elsewhere: Elsewhere | None) -> Any:
    """The converted network from the store, or converted and put there. A store that fails costs time, nothing else."""
    folder = store / _key(network, example)
    model = _read(folder)
    if model is not None:
        return model
    kept = sum(weight.nbytes for weight in network.state_dict().values()) <= STORE_LIMIT_BYTES // 2
    if kept and elsewhere is not None and elsewhere(network, example, folder):
        model = _read(folder)
    put = model is None and kept
    model = model or _traced(network, example)
    try:
        if put:
            _put(model, folder)
        if kept:
            _prune(store)
    except (RuntimeError, OSError) as error:
        log.warning("a converted network cannot be kept in %s (%s); the next start converts it again", store, error)
    return model


def _read(folder: Path) -> Any:
    """A converted network; None where there is no whole one."""
    try:
        model = _core().read_model(folder / "network.xml")
        os.utime(folder)
        return model
    except (RuntimeError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _key(network: nn.Module, example: tuple[Any, ...]) -> str:
    """Changes with whatever the converted form depends on: weights, structure, sizes, versions, this package's code."""
    digest = hashlib.blake2b(digest_size=16)

    def add(*words: object) -> None:
        digest.update("\0".join(map(str, words)).encode())

    from importlib.metadata import version

    add(type(network).__name__, network, [getattr(part, "config", None) for part in network.children()])
    add(*(f"{tuple(leaf.shape)} {leaf.dtype}" for leaf in tree_leaves(example)))
    add(*(f"{name} {version(name)}" for name in ("torch", "diffusers", "openvino")))
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for name, weight in network.state_dict().items():
        add(name, tuple(weight.shape))
        digest.update(weight.detach().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _put(model: Any, folder: Path) -> None:
    """Write beside the folder and rename: another process sees the whole of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=folder.parent))
    try:
        _library().save_model(model, draft / "network.xml", compress_to_fp16=False)
        if not folder.exists():
            os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _prune(store: Path) -> None:
    """Delete the networks that were not used for the longest time until the rest is within the limit."""
    folders = sorted((f for f in store.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime, reverse=True)
    total = 0
    for folder in folders:
        total += sum(f.stat().st_size for f in folder.iterdir())
        if total > STORE_LIMIT_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
