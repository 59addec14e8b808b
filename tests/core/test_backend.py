"""Every back end computes the same; the plain twin of all is "eager"."""

from __future__ import annotations

import shutil
import threading

import pytest
import torch

from bridge.spread import Spread
from core.backend import BACKENDS, BackendError, pick_backend
from core.denoiser import UnetCall
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model

CPU = torch.device("cpu")


def latents(backend: str, steps: int = 2, spread: Spread | None = None) -> list[torch.Tensor]:
    model = random_model(backend=backend)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX), spread=spread)
    plan = stream.plan(Params(prompt="red ball", strength=0.64, guidance="full", steps=steps))
    out = []
    for i, frame in enumerate(random_frames(5)):
        finished = stream.advance(stream.encode(frame[None]), i, plan)
        if finished is not None:
            out += [finished.latent_Fchw, stream.decode(finished).frame_FHWC.float() / 255.0]
    return out


def test_the_packed_model_equals_the_eager_one():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    for plain, other in zip(latents("eager"), latents("packed"), strict=True):
        torch.testing.assert_close(other, plain, atol=1e-2 if plain.shape[-1] == 4 else 1e-4, rtol=1e-4)


def test_one_recording_serves_any_number_of_rows_and_any_prompt():
    model, plain = random_model(backend="traced"), random_model(backend="eager")
    if pick_backend(CPU) != "traced":
        pytest.skip("this version of Python cannot record")
    for size in (SIZE_PX, 2 * SIZE_PX):
        ours, theirs = (m.stream(StreamConfig(size, size)) for m in (model, plain))
        for guidance, steps, prompt in (("none", 1, "red"), ("full", 4, "blue box"), ("onetime-negative", 3, "red")):
            params = Params(prompt=prompt, strength=0.64, guidance=guidance, steps=steps, guidance_scale=1.5)
            for i, frame in enumerate(random_frames(2 * steps)):
                one, other = (s.advance(s.encode(frame[None]), i, s.plan(params)) for s in (ours, theirs))
                assert (one is None) == (other is None)
                if one is not None and other is not None:
                    assert one.tag == other.tag
                    torch.testing.assert_close(one.latent_Fchw, other.latent_Fchw, atol=1e-4, rtol=1e-4)
    assert len(model.recordings) == 6 and not [r for r in model.recordings.values() if isinstance(r, UnetCall)]


@pytest.mark.parametrize(("backend", "expected"), [("traced", [2] * 5), ("eager", [])])
def test_a_call_in_two_halves_equals_the_whole_call(backend, expected):
    parts = []

    def counting(functions):
        parts.append(len(functions))
        return spread(functions)

    spread = Spread()
    try:
        for plain, other in zip(latents(backend, 4), latents(backend, 4, counting), strict=True):
            torch.testing.assert_close(other, plain, atol=1e-2 if plain.shape[-1] == 4 else 1e-4, rtol=1e-4)
    finally:
        spread.close()
    assert parts == expected


@pytest.mark.parametrize("backend", ["eager", "traced"])
def test_two_streams_of_one_model_run_side_by_side(backend):
    """The host warms a stream of another size up while the old one still runs, on another thread."""
    if backend == "traced" and pick_backend(CPU) != "traced":
        pytest.skip("this version of Python cannot record")
    model = random_model(backend=backend)
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


@pytest.mark.parametrize("backend", ["eager", "traced"])
def test_the_network_itself_reads_the_text_it_is_given(backend):
    """A stream of the model leaves no prompt behind on the layers."""
    if backend == "traced" and pick_backend(CPU) != "traced":
        pytest.skip("this version of Python cannot record")
    model = random_model(backend=backend)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    stream.step(random_frames(1), 0, stream.plan(Params(prompt="red ball", steps=1)))
    x, t = torch.zeros(2, 4, SIZE_PX // 8, SIZE_PX // 8), torch.tensor([99, 99])
    with torch.inference_mode():
        text = torch.stack([model.text.embed("red ball"), model.text.embed("blue box")])
        first, second = model.unet(x, t, encoder_hidden_states=text, return_dict=False)[0]
    assert (first - second).abs().max() > 1e-2


def test_packing_in_bfloat16_equals_the_plain_layers():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1, stride=2), torch.nn.ReLU(), torch.nn.Linear(4, 6))
    layers = layers.to(torch.bfloat16).eval()
    x = torch.randn(2, 4, 8, 8).to(torch.bfloat16)
    with torch.inference_mode():
        plain = layers(x)
        BACKENDS["packed"].prepare(layers)
        torch.testing.assert_close(layers(x), plain, atol=2e-2, rtol=2e-2)
    assert not [m for m in layers if type(m) in (torch.nn.Conv2d, torch.nn.Linear, torch.nn.ReLU)]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own compiler uses what it deprecates
def test_a_compiled_network_equals_the_plain_one():
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler here")
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.GroupNorm(2, 8)).eval()
    x = torch.randn(2, 4, 8, 8)
    with torch.inference_mode():
        plain = layers(x)
        BACKENDS["compiled"].prepare(layers)
        torch.testing.assert_close(layers(x), plain, atol=1e-5, rtol=1e-5)


def test_unknown_back_ends_are_refused():
    with pytest.raises(BackendError, match="use one of auto"):
        pick_backend(CPU, "warp")
    assert pick_backend(CPU, "eager") == "eager"
    assert pick_backend(torch.device("meta")) == "eager"


def test_where_torch_cannot_record_the_next_best_is_taken(monkeypatch):
    monkeypatch.setattr("core.backend.RECORDS", False)
    assert pick_backend(CPU) == ("packed" if torch.backends.mkldnn.is_available() else "eager")
    with pytest.raises(BackendError, match="use one of auto"):
        pick_backend(CPU, "traced")
