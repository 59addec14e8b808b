"""The feature bank: the method as published, what is beyond it, and every back end and mode alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

from core.backend import BACKENDS
from core.bank import EMPTY, Form, Fresh, Layer, Memory, Read, Reader, bytes_of, emptied, partitions, written
from core.guidance import GUIDANCE
from core.model import Model, load_model
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model
from tests.tiny_pipelines import PIPELINES, SIDE_PX

BASE = Params(prompt="red ball", strength=0.64, steps=2, temporal="bank", bank_interval=1, bank_threshold=0.5)
BASE = BASE.with_values(bank_reset="never")  # frames of noise are all cuts
KINDS = {
    "merged": {},
    "original merged": {"bank_sink": False, "bank_sizes": False, "bank_interval": 4, "bank_threshold": 0.98},
    "original queue": {"bank": "fifo", "bank_frames": 4, "bank_sink": False, "bank_threshold": 0.98},
    "wide": {"temporal": "off", "batch_attention": True},
    "everything": {
        "batch_attention": True,
        "bank": "fifo",
        "bank_frames": 2,
        "guidance": "full",
        "guidance_scale": 2.0,
    },
}


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model()


@pytest.fixture(scope="module", params=list(PIPELINES))
def shaped(request, tmp_path_factory) -> Model:
    """A small model shaped as a published one: attention at the finest level, one or two transformer blocks."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    PIPELINES[request.param]().save_pretrained(folder)
    return load_model(folder, torch.device("cpu"), torch.float32, "eager")


def run(
    model: Model, params: Params, frames: torch.Tensor, frame_buffer: int = 1, size: int = SIZE_PX
) -> dict[int, torch.Tensor]:
    stream = model.stream(StreamConfig(size, size, frame_buffer=frame_buffer))
    return turns(stream, stream.plan(params), frames)


def turns(stream, plan, frames, start=0):
    out = {}
    for i, frame in enumerate(frames, start):
        finished = stream.advance(stream.encode(frame[None]), i, plan)
        if finished is not None:
            out[finished.tag] = finished.latent_Fchw.clone()
    return out


@pytest.mark.parametrize("kind", ["merged", "everything"])
@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if entry.measured and name != "eager"])
def test_a_recorded_bank_equals_its_eager_twin(model, backend, kind):
    if not BACKENDS[backend].dtypes(torch.device("cpu")):
        pytest.skip(f"{backend} is not available here")
    frames = random_frames(5)
    params = BASE.with_values(**KINDS[kind])
    ours, theirs = run(random_model(backend=backend), params, frames), run(model, params, frames)
    assert sorted(ours) == sorted(theirs)
    for tag, latent in theirs.items():
        torch.testing.assert_close(ours[tag], latent, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "batch_attention" not in KINDS[kind]])
@pytest.mark.parametrize("guidance", ["none", "onetime-negative"])
def test_a_row_remembers_the_same_in_both_modes(model, kind, guidance):
    """Row j of the batch meets frame n in turn n + j, and starts with its first real frame."""
    params = BASE.with_values(**KINDS[kind], guidance=guidance, guidance_scale=1.6).with_values(bank_interval=1)
    frames = random_frames(5)
    batch, alone = run(model, params, frames), run(model, params.with_values(mode="latency"), frames)
    off = run(model, params.with_values(temporal="off"), frames)
    for tag, latent in batch.items():
        # What the bank feeds back carries the rounding of another batch size on; it stays far below what the bank does.
        torch.testing.assert_close(latent, alone[tag], atol=2e-3, rtol=2e-3)
    assert (batch[3] - off[3]).abs().max() > 20 * (batch[3] - alone[3]).abs().max() + 1e-3


@pytest.mark.parametrize("guidance", list(GUIDANCE))
def test_models_shaped_as_published_ones_remember_the_same_in_both_modes(shaped, guidance):
    params = BASE.with_values(guidance=guidance, guidance_scale=1.4, negative_prompt="green box")
    frames = random_frames(5, size=SIDE_PX)
    batch, alone, off = (
        run(shaped, params.with_values(**values), frames, size=SIDE_PX)
        for values in ({}, {"mode": "latency"}, {"temporal": "off"})
    )
    for tag, latent in batch.items():
        torch.testing.assert_close(latent, alone[tag], atol=5e-3, rtol=5e-3)
    assert (batch[3] - off[3]).abs().max() > 20 * (batch[3] - alone[3]).abs().max() + 1e-3


def test_an_empty_bank_changes_nothing(model):
    frames = random_frames(1)
    params = BASE.with_values(mode="latency")
    bank, off = run(model, params, frames), run(model, params.with_values(temporal="off"), frames)
    torch.testing.assert_close(bank[0], off[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reset", ["cut-and-prompt", "prompt", "never"])
def test_a_new_prompt_empties_the_bank_where_asked(model, reset):
    params = BASE.with_values(bank_reset=reset, mode="latency")
    frames = random_frames(4)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    turns(stream, stream.plan(params), frames[:2])
    changed = turns(stream, stream.plan(params.with_values(prompt="blue box")), frames[2:3], 2)[2]
    fresh = run(model, params.with_values(prompt="blue box"), frames[2:3])[0]
    same = torch.allclose(changed, fresh, atol=1e-5)
    assert same == ("prompt" in reset)


@pytest.mark.parametrize("reset", ["cut", "never"])
def test_a_cut_empties_the_bank_row_by_row_as_the_frame_comes_by(model, reset):
    params = BASE.with_values(bank_reset=reset, steps=3, cut_threshold=0.3)
    take = random_frames(2, size=SIZE_PX)
    old, new = take[:1].repeat(5, 1, 1, 1), take[1:].repeat(5, 1, 1, 1)
    out = run(model, params, torch.cat((old, new)))
    fresh = run(model, params, new)
    same = torch.allclose(out[5], fresh[0], atol=1e-4)
    assert same == (reset == "cut")
    assert len(out) == 8


def test_steps_guidance_mode_and_bank_may_change_while_it_is_full(model):
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    number = 0
    for values in (
        {},
        {"steps": 4},
        {"guidance": "full", "guidance_scale": 2.0},
        {"bank": "fifo", "bank_frames": 3},
        {"temporal": "off"},
        {"mode": "latency"},
        {"batch_attention": True},
        {"steps": 1, "mode": "throughput"},
    ):
        out = turns(stream, stream.plan(BASE.with_values(**values)), random_frames(5), number)
        number += 5
        assert out and all(latent.isfinite().all() and latent.abs().max() < 1e3 for latent in out.values())


def test_several_frames_per_turn_remember_by_place(model):
    frames = random_frames(6)
    params = BASE.with_values(bank_reset="never")
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX, frame_buffer=2))
    plan = stream.plan(params)
    for i in range(3):
        finished = stream.advance(stream.encode(frames[2 * i : 2 * i + 2]), i, plan)
    for place in range(2):
        alone = run(model, params, frames[place::2])
        torch.testing.assert_close(finished.latent_Fchw[place], alone[1][0], atol=1e-4, rtol=1e-4)


# ---- the method by itself ------------------------------------------------------------------------------------------


def one_layer(form: Form, tokens: int) -> Memory:
    return form.empty([Layer("mid_block.attn1", tokens, 4)], 1, torch.device("cpu"), torch.float32)


def test_logits_say_what_the_sizes_are():
    form = Form(1, merged=True, sink=True, sizes=True, fused=True)
    orders = {2: partitions(2, torch.device("cpu"))}
    memory = form.empty([Layer("mid_block.attn1", 2, 4)], 2, torch.device("cpu"), torch.float32)
    assert memory.bias[0].tolist() == [[0.0] * 2 + [EMPTY] * 4] * 2
    for _ in range(3):
        frame = torch.randn(2, 2, 4)
        memory = written(memory, [(frame, frame, frame)], torch.tensor([[1.0], [0.0]]), form, orders)
    sizes = torch.cat((memory.rolling[0].size, memory.sink[0].size), 1)
    torch.testing.assert_close(memory.bias[0][0], torch.cat((torch.zeros(2), sizes[0].log())))
    assert memory.bias[0][1].tolist() == [0.0] * 2 + [EMPTY] * 4
    assert emptied(memory, torch.ones(2, 1)).bias[0].tolist() == [[0.0] * 2 + [EMPTY] * 4] * 2


def test_a_queue_holds_the_newest_frames_in_order():
    form = Form(2, sink=True, fused=True)
    memory = one_layer(form, 3)
    frames = [torch.full((1, 3, 4), float(i + 1)) for i in range(3)]
    for frame in frames:
        memory = written(memory, [(frame, frame + 1, frame * 2)], torch.ones(1, 1), form, {})
    assert memory.rolling[0].key[0, :, 0].tolist() == [2.0] * 3 + [3.0] * 3
    assert memory.sink[0].key[0, :, 0].tolist() == [1.0] * 3
    kept = written(memory, [(frames[0], frames[0], frames[0])], torch.zeros(1, 1), form, {})
    assert torch.equal(kept.rolling[0].key, memory.rolling[0].key) and torch.equal(kept.writes, memory.writes)


@pytest.mark.parametrize("sizes", [False, True])
def test_merging_is_the_mean_of_each_target_and_the_sources_most_like_it(sizes):
    """Held to the plain words of the paper, token by token."""
    form = Form(1, merged=True, sizes=sizes, fused=True)
    tokens = 6
    first, second = torch.randn(1, tokens, 4), torch.randn(1, tokens, 4)
    orders = {tokens: partitions(tokens, torch.device("cpu"))}
    memory = written(one_layer(form, tokens), [(first, first + 1, first * 2)], torch.ones(1, 1), form, orders)
    assert torch.equal(memory.rolling[0].key, first)
    got = written(memory, [(second, second + 1, second * 2)], torch.ones(1, 1), form, orders).rolling[0]
    both, order = torch.cat((first, second), 1)[0], orders[tokens][1]
    source, target = both[order[:tokens]], both[order[tokens:]]
    groups = [[t] for t in target]
    for token in source:
        groups[int(nnf.cosine_similarity(token[None], target).argmax())].append(token)
    expected = torch.stack([torch.stack(group).mean(0) for group in groups])
    torch.testing.assert_close(got.key[0], expected)
    torch.testing.assert_close(got.value[0], expected + 1)
    torch.testing.assert_close(got.output[0], expected * 2)
    counts = torch.tensor([float(len(group)) for group in groups])
    torch.testing.assert_close(got.size[0], counts / 2 if sizes else torch.ones(tokens))


def test_sizes_stay_those_of_one_frame_for_a_thousand_frames():
    form = Form(1, merged=True, sizes=True, fused=True)
    orders = {8: partitions(8, torch.device("cpu"))}
    memory = one_layer(form, 8)
    for _ in range(1000):
        frame = torch.randn(1, 8, 4)
        memory = written(memory, [(frame, frame, frame)], torch.ones(1, 1), form, orders)
    assert abs(float(memory.rolling[0].size.sum()) - 8.0) < 1e-2
    assert float(memory.rolling[0].key.abs().max()) < 10.0


@pytest.mark.parametrize("banked", [False, True])
def test_rows_of_one_group_read_one_another_and_no_other_row(banked):
    """Batch-wide attention, held to plain attention over the tokens of a group, and of the row's own bank."""
    from diffusers.models.attention_processor import Attention

    generator = torch.Generator().manual_seed(0)
    attn = Attention(8, heads=2, dim_head=4).eval()
    hidden = torch.randn((3, 5, 8), generator=generator)
    key, value = (torch.randn((3, 5, 8), generator=generator) for _ in range(2))
    own, bias = ((Fresh(key, value),), torch.zeros(3, 10)) if banked else ((), ())
    group = torch.tensor([[0.0], [1.0], [0.0]])
    with torch.no_grad():
        reader = Reader(Read(torch.zeros(3, 1), torch.ones(3, 1), group, (own,), (bias,)))
        got = reader.attend(attn, 0, hidden, False)
        for row, together in enumerate(([0, 2], [1], [0, 2])):
            tokens = hidden[together].flatten(0, 1)
            keys, values = attn.to_k(tokens), attn.to_v(tokens)
            if banked:
                keys, values = torch.cat((keys, key[row])), torch.cat((values, value[row]))
            heads = (x.unflatten(-1, (2, 4)).transpose(0, 1) for x in (attn.to_q(hidden[row]), keys, values))
            mixed = nnf.scaled_dot_product_attention(*heads)
            torch.testing.assert_close(got[row], attn.to_out[0](mixed.transpose(0, 1).flatten(1)))


def test_fusion_draws_only_to_what_is_alike_enough():
    out = torch.eye(4)[None, :3]
    banked = torch.stack([torch.eye(4)[0] * 3.0, torch.tensor([0.0, 1.0, 1.0, 0.0])])[None]
    full, bias = Fresh(banked, banked, banked), torch.zeros(1, 5)
    reader = Reader(Read(torch.tensor([[0.5]]), torch.tensor([[0.9]]), (), ((full,),), (bias,)))
    fused = reader._fused(out, (full,), bias)
    assert fused[0, 0].tolist() == [2.0, 0.0, 0.0, 0.0]
    assert torch.equal(fused[0, 1:], out[0, 1:])
    assert torch.equal(reader._fused(out, (full,), torch.full((1, 5), EMPTY)), out)


def test_the_bank_of_a_unet_like_that_of_stable_diffusion_is_small():
    """Four rows at 512 px in half precision, from the tensors themselves: at most 280 MB."""
    layers = [
        Layer(f"{block}.attn1", tokens, channels)
        for block, tokens, channels, count in (
            ("down_blocks.0", 4096, 320, 2),
            ("down_blocks.1", 1024, 640, 2),
            ("down_blocks.2", 256, 1280, 2),
            ("mid_block", 64, 1280, 1),
            ("up_blocks.1", 256, 1280, 3),
            ("up_blocks.2", 1024, 640, 3),
            ("up_blocks.3", 4096, 320, 3),
        )
        for _ in range(count)
    ]
    form = Form.of(Params(temporal="bank"))
    rows = len(GUIDANCE["none"].rows(range(4), 1))
    memory = form.empty(layers, rows, torch.device("meta"), torch.float16)
    assert 200e6 < bytes_of(memory) <= 280e6
