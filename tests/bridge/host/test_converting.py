"""A network converted in a process of its own is the same network, and what that process cannot do is done here."""

from __future__ import annotations

import pytest
import torch

from bridge.host.converting import Converter
from core.backends import openvino
from core.codec import DecodeVae
from core.model import load_model
from core.tiny import WEIGHTS
from tests.core.test_lora import kohya, layers, saved
from tests.random_model import random_model
from tests.tiny_pipelines import PIPELINES

pytest.importorskip("openvino")
Z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def decoder():
    return DecodeVae(random_model().vae), (torch.zeros(1, 4, 8, 8),)


@pytest.fixture
def converter():
    made = Converter()
    yield made
    made.close()


@pytest.fixture
def here(monkeypatch):
    """Conversions in this process."""
    made = []
    traced = openvino._traced
    monkeypatch.setattr(openvino, "_traced", lambda *given: (made.append(1), traced(*given))[1])
    return made


def painted(model):
    return openvino.Graph(model, torch.float32)(Z)


def test_beside_frames_it_is_done_elsewhere_and_comes_out_the_same(decoder, converter, here, tmp_path):
    network, example = decoder
    plain = painted(openvino.convert(*decoder, tmp_path / "before", converter))
    assert here == [1] and converter.converted == 0  # nobody paints yet
    converter.busy.set()
    made = painted(openvino.convert(*decoder, tmp_path / "store", converter))
    torch.testing.assert_close(made, plain, atol=1e-5, rtol=1e-5)
    assert here == [1] and converter.converted == 1
    assert not list((tmp_path / "store").glob("draft-*"))
    # From the store the next time; and a process that ended is followed by another one.
    openvino.convert(*decoder, tmp_path / "store", converter)
    assert converter.converted == 1
    converter._process.kill()
    converter._process.wait()
    openvino.convert(network, (torch.zeros(1, 4, 16, 8),), tmp_path / "store", converter)
    assert here == [1] and converter.converted == 2


def test_what_cannot_be_done_elsewhere_is_done_here(decoder, converter, here, tmp_path, caplog):
    network, _ = decoder
    network.unwritable = lambda: None
    converter.busy.set()
    with torch.no_grad():
        plain = network(Z)
    made = painted(openvino.convert(*decoder, tmp_path, converter))
    torch.testing.assert_close(made, plain, atol=1e-4, rtol=1e-4)
    assert here == [1] and "which may hold them up" in caplog.text


def test_every_kind_of_network_can_be_sent(tmp_path):
    """With LoRAs, whose weights each thread has of its own."""
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(tmp_path / "model")
    file = saved(kohya(layers(pipeline, 1)), tmp_path / "style.safetensors")
    cpu = torch.device("cpu")
    for model in (
        load_model(tmp_path / "model", cpu, torch.float32, "eager", loras=[file]),
        load_model(WEIGHTS, cpu, torch.float32, "eager"),
    ):
        for network in (model.call, model._autoencoder.encode(model.vae), DecodeVae(model.vae)):
            torch.save(network, tmp_path / "network.pt")
            again = torch.load(tmp_path / "network.pt", weights_only=False)
            assert [*again.state_dict()] == [*network.state_dict()]
