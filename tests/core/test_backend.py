"""Every back end computes the same; the plain twin of all is "eager"."""

from __future__ import annotations

import shutil

import pytest
import torch

from core.backend import BACKENDS, BackendError, pick_backend
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model

CPU = torch.device("cpu")


def latents(backend: str) -> list[torch.Tensor]:
    model = random_model(backend=backend)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    plan = stream.plan(Params(prompt="red ball", strength=0.64, guidance="full", steps=2))
    out = []
    for i, frame in enumerate(random_frames(3)):
        finished = stream.advance(stream.encode(frame[None]), i, plan)
        if finished is not None:
            out += [finished.latent_Fchw, stream.decode(finished).frame_FHWC.float() / 255.0]
    return out


def test_the_packed_model_equals_the_eager_one():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    for plain, other in zip(latents("eager"), latents("packed"), strict=True):
        torch.testing.assert_close(other, plain, atol=1e-2 if plain.shape[-1] == 4 else 1e-4, rtol=1e-4)


def test_packing_in_bfloat16_equals_the_plain_layers():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1, stride=2), torch.nn.ReLU(), torch.nn.Linear(4, 6))
    layers = layers.to(torch.bfloat16).eval()
    x = torch.randn(2, 4, 8, 8).to(torch.bfloat16)
    with torch.inference_mode():
        plain = layers(x)
        BACKENDS["packed"](layers)
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
        BACKENDS["compiled"](layers)
        torch.testing.assert_close(layers(x), plain, atol=1e-5, rtol=1e-5)


def test_unknown_back_ends_are_refused():
    with pytest.raises(BackendError, match="use one of auto"):
        pick_backend(CPU, "warp")
    assert pick_backend(CPU, "eager") == "eager"
    assert pick_backend(torch.device("meta")) == "eager"
