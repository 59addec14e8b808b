"""The stream's promises: every documented defect of the original absent, everything live, both modes equal.

B1 to B9 are the numbers of the defects proved on the original class.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from core.denoiser import PlaneInput
from core.guidance import NEGATIVE
from core.input import Input
from core.model import ModelError
from core.params import GUIDANCE_KINDS, GUIDANCE_READS, ParamError, Params
from core.pixels import PixelError
from core.sampler import SAMPLERS, Sampler, Step
from core.stream import Stream, StreamConfig, seeded_noise
from core.tree import part
from tests.random_model import SIZE_PX, random_frames, random_model

BASE = Params(steps=2).with_values(
    prompt="red ball, neon", negative_prompt="grey", strength=0.64, guidance_scale=1.6, delta=0.8
)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def model():
    return random_model()


def make(model, frame_buffer=1, **options):
    return model.stream(StreamConfig(SIZE_PX, SIZE_PX, frame_buffer=frame_buffer), **options)


def admit(stream, frame, plan):
    return stream.admit(Input(lambda: frame), plan)


def feed(stream, frames, plan, start=0):
    """{tag: latents} of all frames given one turn each, and the order in which they left."""
    out, order = {}, []
    for i, frame in enumerate(frames, start):
        finished = stream.advance(stream.encode(frame if frame.ndim == 4 else frame[None]), i, plan)
        if finished is not None:
            out[finished.tag] = finished.latent_Fchw.clone()
            order.append(finished.tag)
    return out, order


@pytest.mark.parametrize("guidance", GUIDANCE_KINDS)
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("task", ["img2img", "txt2img"])
def test_both_modes_give_the_same_picture(model, guidance, steps, task):
    params = BASE.with_values(guidance=guidance, steps=steps, task=task)
    frames = random_frames(6)
    stream = make(model)
    batch, order = feed(stream, frames, stream.plan(params))
    alone, _ = feed(make(model), frames, stream.plan(params.with_values(mode="latency")))
    assert order == list(range(6 - steps + 1))
    assert sorted(alone) == list(range(6))
    for tag, latent in batch.items():
        torch.testing.assert_close(latent, alone[tag], **CLOSE)


@pytest.mark.parametrize("guidance", GUIDANCE_KINDS)
@pytest.mark.parametrize(("frame_buffer", "steps"), [(2, 1), (2, 2), (3, 3), (4, 2)])
def test_frame_buffers_equal_single_frames(model, guidance, frame_buffer, steps):
    """B1, B2: several frames a turn with several steps, in every guidance kind; every frame comes out."""
    frames = random_frames(4 * frame_buffer)
    params = BASE.with_values(guidance=guidance, steps=steps)
    many = make(model, frame_buffer=frame_buffer)
    got, _ = feed(many, frames.view(4, frame_buffer, *frames.shape[1:]), many.plan(params))
    single = make(model)
    expected, _ = feed(single, frames, single.plan(params.with_values(mode="latency")))
    assert sorted(got) == list(range(4 - steps + 1))
    for tag, latent_Fchw in got.items():
        assert latent_Fchw.shape[0] == frame_buffer
        for place in range(frame_buffer):
            torch.testing.assert_close(latent_Fchw[place], expected[frame_buffer * tag + place][0], **CLOSE)


def test_seed_minus_one_draws_other_noise_for_every_frame_of_a_turn(model):
    stream = make(model, frame_buffer=2)
    frame = random_frames(1).repeat(2, 1, 1, 1)
    out, _ = feed(stream, [frame], stream.plan(BASE.with_values(steps=1, seed=-1, task="txt2img")))
    assert (out[0][0] - out[0][1]).abs().max() > 0.05


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_any_tag_comes_back(model, mode):
    """None too, which whoever needs no tags will pass."""
    stream = make(model)
    plan = stream.plan(BASE.with_values(steps=2, mode=mode))
    frames = random_frames(3)
    results = [stream.step(frame[None], None, plan) for frame in frames]
    assert [result is None for result in results] == [mode == "throughput", False, False]
    assert results[-1].tag is None


@pytest.mark.parametrize("task", ["img2img", "txt2img"])
@pytest.mark.parametrize("scale", [1.05, 1.6, 3.0])
def test_self_negative_guidance_equals_the_recursion_of_the_original(model, task, scale):
    """The original carries the virtual residual noise from stage to stage, from the first stage's noise on."""
    stream = make(model)
    plan = stream.plan(BASE.with_values(guidance="self-negative", guidance_scale=scale, task=task, t_index=(0, 16, 40)))
    frames = random_frames(4)
    latents, _ = feed(stream, frames, plan)
    k, noise, inputs = plan.passes[0].coefficients, plan.passes[0].noise_SFchw, plan.passes[0].inputs
    with torch.inference_mode():
        x0 = stream.encode(frames[:1]).estimate[0]
        residual = noise[0]
        for i in range(3):
            x = k.a[i] * x0 + k.b[i] * noise[i] if i or task == "img2img" else noise[0]
            rows = slice(i, i + 1)
            eps, _ = stream._denoiser(x, k.t_S[rows], part(inputs, rows))
            eps = BASE.delta * residual + scale * (eps - BASE.delta * residual)
            x0 = (x - k.b[i] * eps) / k.a[i]
            if i < 2:
                carried = k.b[i] * (residual - eps) / k.a[i]
                residual = noise[i + 1] + k.a[i + 1] / k.b[i + 1] * carried
    tolerance = 1e-4 * float(x0.abs().max())
    torch.testing.assert_close(latents[0], x0, atol=tolerance, rtol=1e-4)


@pytest.mark.parametrize("guidance", GUIDANCE_KINDS)
def test_a_kind_of_guidance_reads_what_the_table_says(model, guidance):
    other = {"negative_prompt": "noise", "guidance_scale": 2.5, "delta": 0.2}
    assert set().union(*GUIDANCE_READS.values()) <= set(other)
    params = BASE.with_values(guidance=guidance, mode="latency")
    stream = make(model)
    expected, _ = feed(stream, random_frames(1), stream.plan(params))
    for name, value in other.items():
        got, _ = feed(stream, random_frames(1), stream.plan(params.with_values(**{name: value})))
        assert torch.equal(got[0], expected[0]) == (name not in GUIDANCE_READS[guidance]), name


@pytest.mark.parametrize("mode", ["throughput", "latency"])
@pytest.mark.parametrize("guidance", GUIDANCE_KINDS)
def test_prompt_and_negative_prompt_are_live_in_every_mode(model, guidance, mode):
    """B3: a change of prompt needs no preparation and equals a stream that always had it, once flushed."""
    before = BASE.with_values(guidance=guidance, steps=2, mode=mode)
    after = before.with_values(prompt="blue box", negative_prompt="noise")
    frames = random_frames(6)
    stream = make(model)
    feed(stream, frames[:3], stream.plan(before))
    changed, _ = feed(stream, frames[3:], stream.plan(after), start=3)
    fresh = make(model)
    always, _ = feed(fresh, frames[3:], fresh.plan(after), start=3)
    for tag, latent in always.items():
        torch.testing.assert_close(changed[tag], latent, **CLOSE)
    old = make(model)
    never, _ = feed(old, frames[3:], old.plan(before), start=3)
    assert all((never[tag] - latent).abs().max() > 1e-2 for tag, latent in always.items())


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_noise_is_never_overwritten(model, mode):
    """B4: the same picture gives the same result after any number of frames; std of the noise stays."""
    stream = make(model)
    plan = stream.plan(BASE.with_values(mode=mode, steps=3))
    noise = [turn.noise_SFchw.clone() for turn in plan.passes]
    frame = random_frames(1)
    out, _ = feed(stream, [frame[0]] * 40, plan)
    assert all(torch.equal(a, turn.noise_SFchw) for a, turn in zip(noise, plan.passes, strict=True))
    torch.testing.assert_close(out[2], out[max(out)], **CLOSE)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_cut_shows_after_as_many_turns_as_there_are_steps(model, steps):
    """B5: with the filter on and the picture standing still after a cut, the new picture is out after n turns."""
    stream = make(model)
    plan = stream.plan(BASE.with_values(steps=steps, similarity_filter=True))
    old, new = random_frames(2)
    shown = []
    for turn in range(60):
        frame = old if turn < 30 else new
        if admit(stream, frame, plan):
            finished = stream.advance(stream.encode(frame[None]), turn, plan)
            if finished is not None:
                shown.append((turn, finished.tag))
    assert next(turn for turn, tag in shown if tag >= 30) == 30 + steps - 1
    # And a still picture lets the device sleep: in each run of max_skip + steps turns only `steps` run.
    assert stream.filter.skipped >= 60 * 0.5
    assert stream.filter.skipped + stream.filter.admitted == 60


def test_no_frame_shows_before_the_first_is_finished(model):
    """Until the batch is full there is nothing, never a half-denoised or empty frame."""
    stream = make(model)
    plan = stream.plan(BASE.with_values(steps=4))
    frames = random_frames(5)
    results = [stream.step(frame[None], i, plan) for i, frame in enumerate(frames)]
    assert results[:3] == [None, None, None]
    assert [r.tag for r in results[3:]] == [0, 1]
    assert results[3].frame_FHWC.shape == (1, SIZE_PX, SIZE_PX, 4)
    assert results[3].frame_FHWC.dtype == torch.uint8


@pytest.mark.parametrize("guidance", GUIDANCE_KINDS)
@pytest.mark.parametrize("scale", [0.0, 0.7, 1.0])
def test_guidance_scale_of_one_or_less_means_no_guidance(model, guidance, scale):
    """B6: no crash, no extra rows, the plain picture."""
    frames = random_frames(3)
    stream = make(model)
    plan = stream.plan(BASE.with_values(guidance=guidance, guidance_scale=scale))
    assert plan.passes[0].t_R.shape[0] == 2
    got, _ = feed(stream, frames, plan)
    plain = make(model)
    expected, _ = feed(plain, frames, plain.plan(BASE))
    for tag, latent in expected.items():
        torch.testing.assert_close(got[tag], latent, **CLOSE)


@pytest.mark.parametrize(
    ("guidance", "rows"),
    [("none", (1, 2, 4)), ("self-negative", (1, 2, 4)), ("onetime-negative", (2, 3, 5)), ("full", (2, 4, 8))],
)
def test_rows_per_call(model, guidance, rows):
    """The cost of each kind in U-Net rows (table 2 of the paper)."""
    stream = make(model)
    for steps, expected in zip((1, 2, 4), rows, strict=True):
        plan = stream.plan(BASE.with_values(guidance=guidance, steps=steps))
        assert [turn.t_R.shape[0] for turn in plan.passes] == [expected]


@pytest.mark.parametrize(("first", "second"), [(1, 4), (2, 4), (4, 2), (4, 1), (3, 4), (4, 3)])
def test_a_change_of_steps_keeps_frames_in_flight_and_order(model, first, second):
    """The oldest frame in flight still leaves next; no output is garbage; frames leave in order."""
    stream = make(model)
    frames = random_frames(14)
    a, b = (stream.plan(BASE.with_values(steps=n)) for n in (first, second))
    _, order = feed(stream, frames[:6], a)
    late, after = feed(stream, frames[6:], b, start=6)
    order += after
    assert order == sorted(set(order))
    if first > 1 and second > 1:
        assert after[0] == (order[order.index(after[0]) - 1] + 1), "the oldest frame in flight leaves next"
    fresh = make(model)
    clean, _ = feed(fresh, frames[6:], b, start=6)
    for tag, latent in clean.items():
        torch.testing.assert_close(late[tag], latent, **CLOSE)
    scale = max(latent.abs().max() for latent in clean.values())
    assert all(latent.isfinite().all() and latent.abs().max() < 3 * scale for latent in late.values())


def test_switching_modes_live_never_shows_an_older_frame(model):
    stream = make(model)
    frames = random_frames(20)
    throughput = stream.plan(BASE.with_values(steps=3))
    latency = stream.plan(BASE.with_values(steps=3, mode="latency"))
    order = []
    for i, frame in enumerate(frames):
        finished = stream.advance(stream.encode(frame[None]), i, latency if i % 10 >= 5 else throughput)
        order += [finished.tag] if finished is not None else []
    assert order == sorted(set(order))
    assert {5, 6, 7, 8, 9, 15, 19} <= set(order)


def test_seed_and_strength_are_live(model):
    stream = make(model)
    frame = random_frames(1)
    pictures = [feed(stream, frame, stream.plan(BASE.with_values(steps=1, seed=seed)))[0][0] for seed in (2, 3, 2)]
    assert torch.equal(pictures[0], pictures[2])
    assert (pictures[0] - pictures[1]).abs().max() > 0.05
    weak, strong = (feed(stream, frame, stream.plan(BASE.with_values(steps=1, strength=s)))[0][0] for s in (0.1, 0.9))
    clean = stream.encode(frame).estimate[0]
    assert (weak - clean).abs().mean() < (strong - clean).abs().mean()


def test_seed_minus_one_draws_new_noise_each_frame(model):
    stream = make(model)
    frame = random_frames(1)[0]
    out, _ = feed(stream, [frame, frame], stream.plan(BASE.with_values(steps=1, seed=-1)))
    assert (out[0] - out[1]).abs().max() > 0.05


def test_prompts_are_encoded_and_projected_once(model):
    stream = make(model)
    encodings, projections = model.text.encodings, stream._denoiser.projections
    one, two = (BASE.with_values(prompt=f"ball {i}", negative_prompt="once") for i in "ab")
    for params in (one, two, one.with_values(steps=3), two.with_values(guidance="full"), one.with_values(seed=9)):
        feed(stream, random_frames(2), stream.plan(params))
    assert model.text.encodings - encodings == 3
    assert stream._denoiser.projections - projections == 3


def test_cached_keys_and_values_equal_projecting_in_every_call(model):
    frames = random_frames(4)
    for guidance in GUIDANCE_KINDS:
        params = BASE.with_values(guidance=guidance)
        cached, plain = make(model), make(model, cache_text=False)
        a, _ = feed(cached, frames, cached.plan(params))
        b, _ = feed(plain, frames, plain.plan(params))
        for tag, latent in a.items():
            torch.testing.assert_close(latent, b[tag], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_a_cross_fade_of_prompts_runs_from_one_to_the_other(model, mode):
    """Its ends are the two prompts, its middle is what the mixed embedding gives, and no text is encoded twice."""
    first = BASE.with_values(prompt="red ball", prompt_to="blue box", mode=mode, steps=2)
    frames = random_frames(4)

    def latents(params, stream=None):
        stream = stream or make(model)
        return feed(stream, frames, stream.plan(params))[0]

    one, other = latents(first), latents(first.with_values(prompt="blue box"))
    live = make(model)
    encodings = model.text.encodings
    for share in (0.0, 0.25, 0.5, 1.0):
        seen = latents(first.with_values(prompt_mix=share), live)
        text = make(model, cache_text=False)
        inputs = text.plan(first.with_values(prompt_mix=share)).passes[0].inputs.embedding.tokens[0]
        ends = [model.text.embed(prompt).tokens for prompt in ("red ball", "blue box")]
        torch.testing.assert_close(inputs, torch.lerp(*ends, share), **CLOSE)
        apart = [(seen[2] - pure[2]).abs().max() for pure in (one, other)]
        assert (apart[0] < 1e-4) == (share == 0.0) and (apart[1] < 1e-4) == (share == 1.0)
    assert model.text.encodings == encodings


@pytest.mark.parametrize("draws", [1, 3])
def test_the_noise_travels_from_one_seed_to_the_other(model, draws):
    """Its ends are the two seeds', all between is standard normal noise of its own, and no seed is drawn twice."""
    first = BASE.with_values(seed=3, seed_to=8, steps=2, noise_draws=draws)
    drawn = []

    def counted(seed, stages, shape):
        drawn.append(seed)
        return seeded_noise(seed, stages, shape)

    def noise(stream, params):
        plan = stream.plan(params)
        return plan.passes[0].noise_SFchw if plan.draws_kSFchw is None else plan.draws_kSFchw

    live = make(model, noise_source=counted)
    one, other = (noise(make(model), first.with_values(seed=seed, seed_mix=0.0)) for seed in (3, 8))
    assert torch.equal(noise(live, first), one)
    before = one
    for share in (0.25, 0.5, 0.75):
        between = noise(live, first.with_values(seed_mix=share))
        assert abs(between.std().item() - 1.0) < 0.05 and abs(between.mean().item()) < 0.05
        assert (between - other).std() < (before - other).std()
        before = between
    torch.testing.assert_close(noise(live, first.with_values(seed_mix=1.0)), other)
    # Arrived: the same noise under its own name, and on to the next.
    assert torch.equal(noise(live, first.with_values(seed=8, seed_to=5)), other)
    noise(live, first.with_values(seed=8, seed_to=5, seed_mix=0.5))
    assert len(drawn) == 3 * draws
    # Nothing lies between a seed and itself, or beside new noise in every frame.
    assert torch.equal(noise(live, first.with_values(seed_to=3, seed_mix=0.5)), one)
    live.plan(first.with_values(seed=-1, seed_mix=0.5))
    assert len(drawn) <= 3 * draws + draws + 1


class _Spy(TorchDispatchMode):
    """Collects the operators that are dispatched."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("guidance", GUIDANCE_KINDS)
@pytest.mark.parametrize("mode", ["throughput", "latency"])
@pytest.mark.parametrize("draws", [1, 4])
def test_the_frame_path_neither_waits_nor_makes_constants(model, guidance, mode, draws):
    """No host synchronisation and no new constants, noise or text in `advance`; the U-Net's own calls aside."""
    stream = make(model)
    plan = stream.plan(BASE.with_values(guidance=guidance, mode=mode, noise_draws=draws))
    latent = stream.encode(random_frames(1))

    class Silent:
        def memory(self, rows, params):
            return None

        def __call__(self, x, t, inputs, memory):
            return x, None

    stream._denoiser = Silent()
    with _Spy() as spy:
        for i in range(3):
            stream.advance(latent, i, plan)
    waits = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero", "aten::equal"}
    makes = {
        "aten::zeros",
        "aten::ones",
        "aten::full",
        "aten::arange",
        "aten::randn",
        "aten::normal_",
        "aten::linspace",
    }
    assert "aten::mul" in {name.split(".")[0] for name in spy.seen}
    assert not spy.seen & (waits | makes)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_kind_recovers_the_clean_latent(prediction):
    """A network that predicts perfectly gives the clean latent back, whatever it predicts."""
    from core.denoiser import PREDICTIONS

    x0, e = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    a, b = torch.tensor(0.6), torch.tensor(0.8)
    x = a * x0 + b * e
    output = {"epsilon": e, "v_prediction": a * e - b * x0, "sample": x0}[prediction]
    torch.testing.assert_close((x - b * PREDICTIONS[prediction](output, x, a, b)) / a, x0)


def _ddim(now, k):
    """Song et al. 2021, equation 12 with sigma 0: the next stage starts with the noise that was predicted here."""
    return Step((now.x - k.b * now.eps) / k.a, now.eps)


def _with_less(now, k):
    """CFG++ (arXiv 2406.08070): guided estimate, unguided noise."""
    return Step((now.x - k.b * now.eps) / k.a, now.by_role[NEGATIVE])


def _second_order(now, k):
    """DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2), its first and last steps of first order; what it remembers is
    the clean latent of the stage before and the log of its signal to noise, not a number at the first."""
    clean, (before, level_before) = (now.x - k.b * now.eps) / k.a, now.before.history
    level = (k.a / k.b).log().expand_as(level_before)
    share = ((k.a_next / k.b_next).log() - level) / (level - level_before) / 2.0
    estimate = torch.where(torch.isfinite(share), clean + share * (clean - before), clean)
    return Step(estimate, (now.x - k.a * estimate) / k.b, (clean, level))


def _blank(latent_SFchw):
    return torch.zeros_like(latent_SFchw), torch.full_like(latent_SFchw[..., :1, :1, :1], torch.nan)


@pytest.mark.parametrize("step, guidance", [(_ddim, "none"), (_ddim, "onetime-negative"), (_with_less, "full")])
def test_a_sampler_with_a_memory_is_one_function(model, monkeypatch, step, guidance):
    """Its stream batch equals its frames one at a time, and a plain loop over the stages."""
    monkeypatch.setitem(SAMPLERS, "with memory", Sampler(step, remembers=True))
    params = BASE.with_values(steps=3, guidance=guidance, negative_prompt="noise")
    frames = random_frames(6)
    out = {}
    for mode in ("throughput", "latency"):
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX, sampler="with memory"))
        out[mode] = feed(stream, frames, stream.plan(params.with_values(mode=mode)))[0]
    assert len(out["throughput"]) == 4
    for tag, latent in out["throughput"].items():
        torch.testing.assert_close(latent, out["latency"][tag], **CLOSE)
    if guidance != "none":
        return
    plan = stream.plan(params)
    k, noise, inputs = plan.passes[0].coefficients, plan.passes[0].noise_SFchw, plan.passes[0].inputs
    with torch.inference_mode():
        z, n = stream.encode(frames[:1]).estimate[0], noise[0]
        for i in range(3):
            x = k.a[i] * z + k.b[i] * n
            n, _ = stream._denoiser(x, k.t_S[i : i + 1], part(inputs, slice(i, i + 1)))
            z = (x - k.b[i] * n) / k.a[i]
    torch.testing.assert_close(out["latency"][0], z, **CLOSE)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_sampler_of_second_order_knows_the_stages_before(model, monkeypatch):
    """As diffusers' DPM-Solver++ has it, whose steps are between noisy latents; its stream batch equals its frames one
    at a time."""
    from diffusers import DPMSolverMultistepScheduler

    monkeypatch.setitem(SAMPLERS, "2m", Sampler(_second_order, True, _blank))
    params = BASE.with_values(t_index=(10, 20, 30, 40), guidance="full")
    frames = random_frames(6)
    out = {}
    for mode in ("throughput", "latency"):
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX, sampler="2m"))
        out[mode] = feed(stream, frames, stream.plan(params.with_values(mode=mode)))[0]
    assert len(out["throughput"]) == 3
    for tag, latent in out["throughput"].items():
        torch.testing.assert_close(latent, out["latency"][tag], **CLOSE)

    theirs = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", final_sigmas_type="zero"
    )
    plan = stream.plan(params)
    theirs.set_timesteps(timesteps=plan.passes[0].coefficients.t_S.tolist())
    k, inputs = plan.passes[0].coefficients, plan.passes[0].inputs
    with torch.inference_mode():
        x = k.a[0] * stream.encode(frames[:1]).estimate[0] + k.b[0] * plan.passes[0].noise_SFchw[0]
        for i, t in enumerate(theirs.timesteps):
            negative, positive = (
                stream._denoiser(x, k.t_S[i : i + 1], part(inputs, slice(row, row + 1)))[0] for row in (i, 4 + i)
            )
            eps = negative + params.guidance_scale * (positive - negative)
            x = theirs.step(eps, t, x).prev_sample
    torch.testing.assert_close(out["latency"][0], x, atol=1e-3, rtol=1e-3)


class _Recorder:
    """A denoiser that reads a plane, counts the calls of each row, and predicts no noise."""

    def __init__(self, inner):
        self._inner = inner
        self.planes = {"depth": PlaneInput((1, 8, 8), lambda depth_FHW: depth_FHW[:, None, ::8, ::8])}
        self.calls = []

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def memory(self, rows, params):
        return {"calls": torch.zeros(len(rows)), "stage": torch.tensor([float(row.stage) for row in rows])}

    def __call__(self, x, t, inputs, memory):
        self.calls.append((t.tolist(), inputs.planes["depth"][:, 0, 0, 0].tolist(), memory))
        return torch.zeros_like(x), {**memory, "calls": memory["calls"] + 1}


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_a_plane_of_the_client_travels_with_its_frame_to_every_row(model, mode):
    stream = make(model)
    recorder = _Recorder(stream._denoiser)
    stream = Stream(
        stream.config, recorder, stream._codec, stream._text, stream._schedule, stream._shape[1:], stream._device
    )
    assert stream.planes == ("depth",)
    plan = stream.plan(BASE.with_values(steps=3, guidance="onetime-negative", mode=mode))
    frames = random_frames(4)
    for i, frame in enumerate(frames):
        planes = {"depth": torch.full((1, SIZE_PX, SIZE_PX), 1.0 + i)} if i != 2 else {}
        stream.advance(stream.encode(frame[None], planes), i, plan)
    t = plan.passes[0].coefficients.t_S.tolist()
    if mode == "throughput":
        # The negative row of the newest frame, then the newest, the one before it, and the one before that.
        assert [depth for _, depth, _ in recorder.calls[2:]] == [[0.0, 0.0, 2.0, 1.0], [4.0, 4.0, 0.0, 2.0]]
        assert recorder.calls[0][0] == [t[0], *t]
    else:
        depths = [depth for _, depth, _ in recorder.calls]
        assert depths == [[d] * rows for d in (1.0, 2.0, 0.0, 4.0) for rows in (2, 1, 1)]


def test_what_a_denoiser_remembers_follows_its_rows(model):
    """Through changes of steps, guidance and mode a row keeps its memory; a new one begins afresh."""
    stream = make(model)
    recorder = _Recorder(stream._denoiser)
    stream = Stream(
        stream.config, recorder, stream._codec, stream._text, stream._schedule, stream._shape[1:], stream._device
    )
    frame = stream.encode(random_frames(1))
    two = BASE.with_values(steps=2)

    def turns(count, params):
        recorder.calls.clear()
        for i in range(count):
            stream.advance(frame, i, stream.plan(params))
        return [[int(n) for n in memory["calls"]] for _, _, memory in recorder.calls]

    assert turns(3, two) == [[0, 0], [1, 1], [2, 2]]
    assert turns(2, two.with_values(guidance="full")) == [[0, 0, 3, 3], [1, 1, 4, 4]]
    assert turns(1, two.with_values(steps=3)) == [[5, 5, 0]]
    assert turns(2, two.with_values(mode="latency")) == [[6], [6], [7], [7]]
    assert turns(1, two.with_values(steps=1)) == [[8]]
    assert [memory["stage"].tolist() for _, _, memory in recorder.calls] == [[0.0]]


def test_the_filter_looks_at_colour_and_not_at_alpha(model):
    """Two dark pictures with an opaque alpha are not alike because of the alpha."""
    stream = make(model)
    plan = stream.plan(BASE.with_values(similarity_filter=True, steps=1))
    dark = torch.zeros(16, 16, 4, dtype=torch.uint8)
    dark[..., 3] = 255
    other = dark.clone()
    other[4:8, 4:8, 0] = 60
    assert [admit(stream, dark, plan), admit(stream, other, plan), admit(stream, dark, plan)] == [True, True, True]


def test_the_filter_forgets_while_it_is_off(model):
    stream = make(model)
    on, off = (stream.plan(BASE.with_values(similarity_filter=f, steps=1)) for f in (True, False))
    one, two = random_frames(2)
    assert admit(stream, one, on)
    assert admit(stream, two, off)
    assert admit(stream, one, on)


def test_paused_runs_nothing_and_the_next_frame_runs(model):
    stream = make(model)
    paused = stream.plan(BASE.with_values(paused=True, similarity_filter=True))
    running = stream.plan(BASE.with_values(similarity_filter=True))
    frame = random_frames(1)[0]
    assert admit(stream, frame, running)
    assert not admit(stream, frame, paused)
    assert admit(stream, frame, running)


def test_sizes_that_do_not_suit_are_refused(model):
    with pytest.raises(ModelError, match="multiples of 8"):
        model.stream(StreamConfig(100, 64))
    assert model.near(640, 360) == (640, 360)
    assert model.near(101, 1) == (104, 8)
    assert model.fit(1920, 1080) == (80, 48)
    assert model.fit(64, 64) == (64, 64)
    for width, height in ((4, 3000), (3000, 4), (1, 1 << 24)):
        w, h = model.fit(width, height)
        assert w % 16 == h % 16 == 0
        assert w * h <= 2 * 64 * 64


def test_frames_of_other_sizes_are_brought_to_the_stream_size(model):
    stream = make(model)
    plan = stream.plan(BASE.with_values(steps=1))
    picture = stream.step(random_frames(1, size=150), "wide", plan)
    assert picture.frame_FHWC.shape == (1, SIZE_PX, SIZE_PX, 4)


@pytest.mark.parametrize(
    "pictures",
    [
        torch.zeros(1, SIZE_PX, SIZE_PX, 3, dtype=torch.uint8),  # would be taken for both frames of the turn
        torch.zeros(3, SIZE_PX, SIZE_PX, 3, dtype=torch.uint8),
        torch.zeros(SIZE_PX, SIZE_PX, 3, dtype=torch.uint8),
        torch.zeros(2, 3, SIZE_PX, SIZE_PX, dtype=torch.uint8),
        torch.zeros(2, 0, SIZE_PX, 3, dtype=torch.uint8),
        torch.zeros(2, SIZE_PX, SIZE_PX, 3),  # 0..1 would come out black
    ],
)
def test_pictures_that_are_none_are_refused(model, pictures):
    with pytest.raises(PixelError, match=r"send uint8 of shape \(2, height, width"):
        make(model, frame_buffer=2).encode(pictures)


def test_more_steps_than_the_stream_is_built_for_are_refused(model):
    """Cutting the list of stages off would leave the picture half denoised."""
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX, max_steps=2))
    assert stream.plan(BASE.with_values(steps=2)).stages == 2
    for params in (BASE.with_values(steps=3), BASE.with_values(t_index=(10, 20, 30))):
        with pytest.raises(ParamError, match="steps: got 3; this stream is built for at most 2"):
            stream.plan(params)


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"frame_buffer": 0}, {"sampler": "ddim"}])
def test_configurations_that_cannot_be_built_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StreamConfig(SIZE_PX, SIZE_PX, **wrong)
