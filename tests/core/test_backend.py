"""Every back end computes the same; the plain twin of all is "eager"."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from core.backend import BACKENDS, BackendError, Execution, executions
from core.backends import openvino as openvino_backend
from core.codec import DecodeVae
from core.device import DTYPES, DeviceError, native_dtypes, pick_device
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
MEASURED = [name for name in BACKENDS if BACKENDS[name].measured]


def here(backend: str, dtype: torch.dtype = torch.float32) -> str:
    """The back end, or the test is skipped with the reason."""
    if dtype not in BACKENDS[backend].dtypes(CPU):
        pytest.skip(f"{backend} does not compute in {dtype} on this machine")
    return backend


def latents(backend: str, steps: int = 2) -> list[torch.Tensor]:
    model = random_model(backend=backend)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    plan = stream.plan(Params(prompt="red ball", strength=0.64, guidance="full", steps=steps))
    out = []
    for i, frame in enumerate(random_frames(5)):
        finished = stream.advance(stream.encode(frame[None]), i, plan)
        if finished is not None:
            out += [finished.latent_Fchw, stream.decode(finished).frame_FHWC.float() / 255.0]
    return out


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("backend", MEASURED)
def test_a_stream_equals_the_eager_one(backend, steps):
    for plain, other in zip(latents("eager", steps), latents(here(backend), steps), strict=True):
        torch.testing.assert_close(other, plain, atol=1e-2 if plain.shape[-1] == 4 else 1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", MEASURED)
def test_one_model_serves_any_size_number_of_rows_and_prompt(backend):
    model, plain = random_model(backend=here(backend)), random_model(backend="eager")
    # The second in steps of the latent, which the U-Net halves to odd sides.
    for size in ((SIZE_PX, SIZE_PX), (SIZE_PX + 8, 2 * SIZE_PX - 8)):
        ours, theirs = (m.stream(StreamConfig(*size)) for m in (model, plain))
        for guidance, steps, prompt in (("none", 1, "red"), ("full", 4, "blue box"), ("onetime-negative", 3, "red")):
            params = Params(prompt=prompt, strength=0.64, guidance=guidance, steps=steps, guidance_scale=1.5)
            for i, frame in enumerate(random_frames(2 * steps)):
                one, other = (s.advance(s.encode(frame[None]), i, s.plan(params)) for s in (ours, theirs))
                assert (one is None) == (other is None)
                if one is not None and other is not None:
                    assert one.tag == other.tag
                    torch.testing.assert_close(one.latent_Fchw, other.latent_Fchw, atol=1e-4, rtol=1e-4)
    # Encoder, decoder and U-Net for each size, and nothing more, whatever the number of rows.
    assert len(model.forms) == len(model.calls) == 6


@pytest.mark.parametrize("backend", MEASURED)
def test_a_change_of_values_makes_and_compiles_nothing_and_reads_no_text_again(backend):
    model = random_model(backend=here(backend))
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    params = Params(prompt="red ball", strength=0.64, guidance="full", steps=2, guidance_scale=1.5)
    stream.step(random_frames(1), 0, stream.plan(params))

    def made():
        forms = [tuple(getattr(call, "_compiled", ())) for call in model.calls.values()]
        return set(model.calls), set(model.forms), forms, model.text.encodings, stream._denoiser.projections

    before = made()
    for value in ({"seed": 7}, {"strength": 0.4}, {"guidance_scale": 2.0}, {"delta": 0.5}, {"feedback": 0.5}):
        params = params.with_values(**value)
        plan = stream.plan(params)
        assert made() == before  # and what the frame path finds is ready
        stream.step(random_frames(1), 0, plan)
    assert made() == before


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
@pytest.mark.parametrize("backend", MEASURED)
def test_every_dtype_of_this_machine_paints_about_the_same(backend, dtype):
    plain = random_model(backend="eager")
    model = plain.run_by(Execution(CPU, here(backend, dtype), dtype))
    params = Params(prompt="red ball", strength=0.64, steps=1)
    streams = [m.stream(StreamConfig(SIZE_PX, SIZE_PX)) for m in (model, plain)]
    one, other = (stream.step(random_frames(1), 0, stream.plan(params)) for stream in streams)
    difference = (one.frame_FHWC.float() - other.frame_FHWC.float()).abs()
    assert difference.mean() < (0.01 if dtype == torch.float32 else 6.0)


@pytest.mark.parametrize("backend", MEASURED)
def test_two_streams_of_one_model_run_side_by_side(backend):
    """The host warms a stream of another size up while the old one still runs, on another thread."""
    model = random_model(backend=here(backend))
    out: dict[str, list[torch.Tensor]] = {}

    def run(name: str, guidance: str, steps: int, turns: int) -> None:
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        plan = stream.plan(Params(prompt=name, strength=0.64, guidance=guidance, steps=steps))
        latent = stream.encode(random_frames(1))
        finished = (stream.advance(latent, turn, plan) for turn in range(turns))
        out[name] = [result.latent_Fchw for result in finished if result is not None]

    kinds = [("red ball", "full", 4), ("blue box", "none", 1)]
    for kind in kinds:
        run(*kind, 4)
    alone = {name: latents[0] for name, latents in out.items()}
    threads = [threading.Thread(target=run, args=(*kind, 40)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, latents in out.items():
        assert len(latents) >= 37
        for latent in latents:
            torch.testing.assert_close(latent, alone[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", MEASURED)
def test_one_network_called_by_several_threads_at_once_mixes_nothing(backend):
    """A call owns what it returns: a later call of another thread, or of the same, does not change it."""
    model = random_model(backend=here(backend))
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    frames = random_frames(6)
    alone = [stream.encode(frame[None]).estimate for frame in frames]
    wrong = []

    def run(i: int) -> None:
        kept = [stream.encode(frames[i][None]).estimate for _ in range(30)]
        wrong.extend(latent for latent in kept if not torch.allclose(latent, alone[i], atol=1e-4))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(frames))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("backend", MEASURED)
def test_the_network_itself_reads_the_text_it_is_given(backend):
    """A stream of the model leaves no prompt behind on the layers."""
    model = random_model(backend=here(backend))
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    stream.step(random_frames(1), 0, stream.plan(Params(prompt="red ball", steps=1)))
    x, t = torch.zeros(2, 4, SIZE_PX // 8, SIZE_PX // 8), torch.tensor([99, 99])
    with torch.inference_mode():
        text = torch.stack([model.text.embed(prompt).tokens for prompt in ("red ball", "blue box")])
        first, second = model.unet(x, t, encoder_hidden_states=text, return_dict=False)[0]
    assert (first - second).abs().max() > 1e-2


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own compiler uses what it deprecates
def test_a_compiled_network_equals_the_plain_one():
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler here")
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.GroupNorm(2, 8)).eval()
    x = torch.randn(2, 4, 8, 8)
    call = BACKENDS["compiled"].call(layers, (x,), Execution(CPU, "compiled", torch.float32))
    call.prepare(2)
    with torch.inference_mode():
        torch.testing.assert_close(call(x), layers(x), atol=1e-5, rtol=1e-5)


# ---- what can be had -----------------------------------------------------------------------------------------------


def test_what_cannot_be_had_is_refused_in_a_sentence(monkeypatch):
    with pytest.raises(BackendError, match="'warp' is not available on cpu; use one of auto, "):
        executions(CPU, "warp")
    assert [e.backend for e in executions(CPU, "eager", torch.float32)] == ["eager"]
    assert not {"openvino", "graphs"} & {e.backend for e in executions(torch.device("meta"))}
    # A processor of the kind that most laptops have: AVX2, and nothing that multiplies 16-bit numbers.
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "fma3": True})
    assert native_dtypes(CPU) == (torch.float32,)
    assert {e.dtype for e in executions(CPU)} == {torch.float32}
    for backend in (None, "auto", *BACKENDS):
        if backend in (None, "auto", "eager", "compiled") or torch.float32 in BACKENDS[backend].dtypes(CPU):
            sentence = "bfloat16 cannot be computed in hardware by this cpu .* use one of auto, float32"
            with pytest.raises(BackendError, match=sentence):
                executions(CPU, backend, torch.bfloat16)


def test_a_processor_held_to_an_older_instruction_set_counts_as_one(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": True, "avx512_bf16": True})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert native_dtypes(CPU) == (torch.bfloat16, torch.float32)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert native_dtypes(CPU) == (torch.float32,)


def test_without_openvino_torch_does_it_all(monkeypatch):
    monkeypatch.setattr(openvino_backend.importlib.util, "find_spec", lambda name: None)
    assert "eager" in (left := {e.backend for e in executions(CPU)}) and "openvino" not in left
    with pytest.raises(BackendError, match="'openvino' is not available on cpu; use one of auto, .*eager"):
        executions(CPU, "openvino")


# ---- OpenVINO ------------------------------------------------------------------------------------------------------

NO_SOCKET = """
import os, sys
seen = []
# Not binding: urllib3, which the model libraries import, tries so whether there is IPv6.
SENDS = ("connect", "sendto", "sendmsg", "getaddrinfo", "gethostbyname", "getnameinfo")
sys.addaudithook(lambda event, args: seen.append((event, args[1:])) if event.split(".")[-1] in SENDS else None)
import torch
from pathlib import Path
from core.backend import Execution
from core.stream import StreamConfig
from core.params import Params
from tests.random_model import random_frames, random_model
model = random_model(backend="openvino")
cpu = torch.device("cpu")
for _ in range(2):  # converted, then read
    again = model.run_by(Execution(cpu, "openvino", torch.float32, store=Path(sys.argv[1])))
    again.forms.clear()
    stream = again.stream(StreamConfig(64, 64))
    stream.step(random_frames(1), 0, stream.plan(Params(steps=1)))
if sys.platform == "linux":
    paths = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    seen += [os.readlink(p) for p in paths if os.path.exists(p) and os.readlink(p).startswith("socket:")]
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name]), seen)
"""


def test_nothing_is_sent_anywhere(tmp_path):
    """The wheel of OpenVINO asks for a package that reports to its makers; it is never loaded, nothing is connected."""
    here("openvino")
    done = subprocess.run(
        [sys.executable, "-c", NO_SOCKET, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.splitlines()[-1] == "[] []", done.stdout + done.stderr


@pytest.fixture
def decoder():
    here("openvino")
    return DecodeVae(random_model().vae), (torch.zeros(1, 4, 8, 8),)


def converts(monkeypatch) -> list[int]:
    """Grows by one entry for each conversion."""
    made: list[int] = []
    convert = openvino_backend._traced

    def counting(*args):
        made.append(1)
        return convert(*args)

    monkeypatch.setattr(openvino_backend, "_traced", counting)
    return made


def test_a_converted_network_is_kept_for_the_next_start(decoder, tmp_path, monkeypatch):
    made = converts(monkeypatch)
    network, example = decoder
    z = torch.randn(3, 4, 8, 8)
    for _ in range(2):
        graph = openvino_backend.Graph(openvino_backend.convert(network, example, tmp_path), torch.float32, 1)
        with torch.no_grad():
            torch.testing.assert_close(graph(z), network(z), atol=1e-4, rtol=1e-4)
    assert len(made) == 1
    # Other weights, or another size, is another network.
    with torch.no_grad():
        next(network.parameters()).add_(0.1)
    openvino_backend.convert(network, example, tmp_path)
    openvino_backend.convert(network, (torch.zeros(1, 4, 16, 8),), tmp_path)
    assert len(made) == 3
    assert len(list(tmp_path.iterdir())) == 3 and not list(tmp_path.glob("draft-*"))


def test_a_damaged_store_costs_a_conversion_and_nothing_else(decoder, tmp_path, monkeypatch):
    made = converts(monkeypatch)
    openvino_backend.convert(*decoder, tmp_path)
    (kept,) = tmp_path.iterdir()
    for name, damage in (("network.xml", b"<net"), ("network.bin", b"")):
        (kept / name).write_bytes(damage)
        model = openvino_backend.convert(*decoder, tmp_path)
        z = torch.randn(1, 4, 8, 8)
        with torch.no_grad():
            plain = decoder[0](z)
        torch.testing.assert_close(openvino_backend.Graph(model, torch.float32)(z), plain, atol=1e-4, rtol=1e-4)
    assert len(made) == 3


def test_a_store_that_cannot_be_written_is_said_once_and_done_without(decoder, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    model = openvino_backend.convert(*decoder, tmp_path / "file")
    assert "cannot be kept" in caplog.text
    assert openvino_backend.Graph(model, torch.float32)(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 64, 64)


def test_the_store_stays_within_its_limit(decoder, tmp_path, monkeypatch):
    network, example = decoder
    openvino_backend.convert(network, example, tmp_path)
    (first,) = tmp_path.iterdir()
    size = sum(f.stat().st_size for f in first.iterdir())
    monkeypatch.setattr(openvino_backend, "STORE_LIMIT_BYTES", int(2.5 * size))
    for height in (16, 24, 32):
        openvino_backend.convert(network, (torch.zeros(1, 4, height, 8),), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert not first.exists()


def test_forms_for_other_numbers_of_rows_make_room(decoder, monkeypatch):
    monkeypatch.setattr(openvino_backend, "KEPT_MOST", 3)
    graph = openvino_backend.Graph(openvino_backend.convert(*decoder), torch.float32)
    for rows in (1, 2, 3, 1, 4):
        graph.prepare(rows)
    assert list(graph._compiled) == [3, 1, 4]
    assert graph(torch.zeros(2, 4, 8, 8)).shape == (2, 3, 64, 64)


def test_calls_of_many_rows_take_all_threads(decoder):
    graph = openvino_backend.Graph(openvino_backend.convert(*decoder), torch.float32, threads=1, many_rows=3)
    for rows in (2, 3):
        graph.prepare(rows)
    few, many = (form._compiled.get_property("INFERENCE_NUM_THREADS") for form in graph._compiled.values())
    assert few == 1
    # What the library takes of itself.
    untold = openvino_backend.Graph(openvino_backend.convert(*decoder), torch.float32)
    untold.prepare(3)
    assert many == untold._compiled[3]._compiled.get_property("INFERENCE_NUM_THREADS")


class _Bank(torch.nn.Module):
    """Attention that also reads keys and values of an earlier call, and returns those that it found."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Linear(16, 16) for _ in range(3))

    def forward(self, x_RNC, banked):
        k, v = self.k(x_RNC), self.v(x_RNC)
        keys, values = torch.cat((k, banked["k"]), 1), torch.cat((v, banked["v"]), 1)
        mixed = torch.nn.functional.scaled_dot_product_attention(self.q(x_RNC), keys, values)
        return mixed, {"k": k, "v": v}


@pytest.mark.parametrize("backend", MEASURED)
def test_a_network_that_returns_what_it_will_read_again_equals_its_eager_twin(backend, tmp_path):
    torch.manual_seed(0)
    network = _Bank().eval().requires_grad_(False)
    execution = executions(CPU, here(backend), torch.float32, store=tmp_path)[0]
    entry = BACKENDS[execution.backend]
    example = (torch.zeros(2, 5, 16), {"k": torch.zeros(2, 5, 16), "v": torch.zeros(2, 5, 16)})
    for _ in range(2):  # converted, and from the store
        call = entry.call(entry.convert(network, example, tmp_path), example, execution)
        ours = theirs = example[1]
        for _ in range(3):
            x = torch.randn(3, 5, 16)
            if ours["k"].shape[0] != 3:
                ours = theirs = {name: torch.randn(3, 5, 16) for name in ("k", "v")}
            mixed, ours = call(x, ours)
            expected, theirs = network(x, theirs)
            torch.testing.assert_close((mixed, ours), (expected, theirs), atol=1e-5, rtol=1e-5)


class _Sum(torch.nn.Module):
    def forward(self, x_Rc, y_Rc):
        return x_Rc + 2.0 * y_Rc


@pytest.mark.parametrize("backend", MEASURED)
def test_what_changes_in_a_tensor_between_two_calls_is_read(backend):
    execution = executions(CPU, here(backend), torch.float32)[0]
    entry, example = BACKENDS[execution.backend], (torch.zeros(3, 4), torch.zeros(3, 4))
    call = entry.call(entry.convert(_Sum(), example, None), example, execution)
    wide = torch.zeros(2, 3, 8)
    # As they lie, and such that each has to be copied, to memory that the other's copy must not take.
    for x, y in (example, (wide[0, :, ::2], wide[1, :, ::2])):
        for value in (1.0, 2.0):
            x.fill_(value)
            y.fill_(10.0 * value)
            torch.testing.assert_close(call(x, y), torch.full((3, 4), 21.0 * value))
    torch.testing.assert_close(call(torch.ones(3, 4), y), torch.full((3, 4), 41.0))


def test_a_card_that_is_not_there_is_refused_with_those_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"Card {i}")
    assert pick_device("cuda:1") == torch.device("cuda:1") and pick_device("cuda") == torch.device("cuda")
    for name in ("cuda:9", "cuda:", "cuda:x", "cuda:-1"):
        with pytest.raises(DeviceError, match=r"not available here; use one of cuda:0 \(Card 0\), cuda:1 \(Card 1\)$"):
            pick_device(name)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_card_computes_in_float16_first_and_only_in_what_it_does_not_emulate(monkeypatch, has_bfloat16):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_bfloat16
    )
    half = (torch.float16, torch.bfloat16) if has_bfloat16 else (torch.float16,)
    assert native_dtypes(torch.device("cuda")) == (*half, torch.float32)
    assert [(e.backend, e.dtype) for e in executions(torch.device("cuda"))][:2] == [
        ("graphs", torch.float16),
        ("eager", torch.float16),
    ]
