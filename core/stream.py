"""The stream: frames in, repainted frames out, one U-Net call per turn in throughput mode.

Stream Batch (StreamDiffusion, arXiv 2312.12491, section 3.1): in every turn each of the S stages works on another
frame, so a frame enters at turn k and leaves at turn k + S - 1. What travels from turn to turn is the estimate of the
clean latent, not the noisy one: the next stage's noise level and noise are applied when that stage runs, so a change
of the steps, the seed or the guidance never has to rewrite, zero or drop a frame in flight.

Shapes: S stages, F frames per turn, R U-Net rows, c h w latent, H W C picture.
The stream knows nothing of clocks, queues, threads or where frames come from; `tag` is the caller's own word for a
frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Generic

import torch
from torch import Tensor

from core.bank import BankInputs, Form
from core.codec import Codec, packed
from core.denoiser import Denoiser, PromptText, RowInputs
from core.device import downloaded, settle
from core.enlarge import enlarged
from core.feedback import Feedback, PictureFeedback
from core.flight import Carried, Flight, Tag
from core.guidance import POSITIVE, ROLES, Guidance, GuidanceScales, Row, active_guidance
from core.input import Input
from core.masked import PLANE as MASK
from core.masked import Behind, behind
from core.matched import Draws, Matcher
from core.motion import Carrying, Estimates, Follower, Guide, Pictures, planes_of
from core.moving_noise import MovingNoise
from core.params import MAX_CONTROLS, MAX_LORAS, MAX_STEPS, ParamError, Params
from core.pixels import PixelError
from core.reuse import KeptRows, part_rows, tolerance_of
from core.sampler import SAMPLERS, Denoised
from core.schedule import Coefficients, NoiseSchedule
from core.similarity import SimilarityFilter
from core.text import CACHED_PROMPTS, Text
from core.tree import cat, mapped, part

COLOUR = "colour"
"""Among the planes that a denoiser may read: the picture."""


@dataclass(frozen=True)
class StreamConfig:
    """What a stream is built for; a change means a new stream.

    width, height: picture size in pixels. max_steps: stages that may be in flight. frame_buffer: frames per turn (F).
    sampler: key of `core.sampler.SAMPLERS`. Raises `ValueError`.
    """

    width: int
    height: int
    max_steps: int = MAX_STEPS
    frame_buffer: int = 1
    sampler: str = "lcm"

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.frame_buffer < 1:
            raise ValueError(f"max_steps {self.max_steps}, frame_buffer {self.frame_buffer}: use at least 1 of each")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler {self.sampler!r} is not known; use one of {', '.join(SAMPLERS)}")


@dataclass(frozen=True)
class Pass:
    """One U-Net call: a run of stages, everything about it finished before the frame path starts.

    roles: the roles of the rows, in order, and how many rows each has. slot_R: which of the latents of these stages,
    (stage, frame) counted through, each row reads; None where that is row by row. draws: of the noise, where a frame
    takes one of several.
    """

    coefficients: Coefficients
    noise_SFchw: Tensor
    rows: tuple[Row, ...]
    roles: tuple[tuple[str, int], ...]
    slot_R: Tensor | None
    t_R: Tensor
    inputs: RowInputs
    draws: Draws | None = None

    def noise_for(self, carried: Carried, guides: Sequence[Guide | None] = ()) -> Tensor:
        """The noise (S, F, c, h, w) that these stages start with: their own, that of their frames where it moves with
        them, or what the stage before left."""
        own = self.noise_SFchw
        if self.draws is not None and carried.draw is not None:
            own = self.draws.chosen(carried.draw)
        moving = {
            i: guide.noise[self.rows[0].stage + i]
            for i, guide in enumerate(guides)
            # A frame that came in under fewer steps knows of those alone.
            if guide is not None and guide.noise is not None and self.rows[0].stage + i < len(guide.noise)
        }
        if moving:
            own = torch.stack([moving.get(i, own[i]) for i in range(len(own))])
        if carried.noise is None:
            return own
        return torch.cat((own[:1], carried.noise[1:])) if self.rows[0].stage == 0 else carried.noise

    def rows_of(self, slots: Tensor) -> Tensor:
        """What each row reads of something carried (S, F, ...): (R, ...)."""
        flat = slots.flatten(0, 1)
        return flat if self.slot_R is None else flat[self.slot_R]

    def by_role(self, eps_Rchw: Tensor) -> dict[str, Tensor]:
        """The predictions of each role, (S, F, c, h, w) of the stages that have rows of it."""
        frames = self.noise_SFchw.shape[1]
        pieces = eps_Rchw.split([count for _, count in self.roles])
        return {role: piece.unflatten(0, (-1, frames)) for (role, _), piece in zip(self.roles, pieces, strict=True)}


@dataclass(frozen=True)
class Plan:
    """All that `Params` means for one stream, computed off the frame path by `Stream.plan`.

    passes: the U-Net calls of a turn: one with all stages in throughput mode, one per stage in latency mode. draws: of
    the noise of all stages that the stream has room for, (k, S, F, c, h, w), or None where there is one.
    """

    params: Params
    stages: int
    passes: tuple[Pass, ...]
    guidance: Guidance
    scales: GuidanceScales
    draws_kSFchw: Tensor | None = None

    @property
    def depth(self) -> int:
        """Turns that a frame stays in flight after the one it entered in."""
        return self.stages - 1 if self.params.mode == "throughput" else 0


@dataclass(frozen=True)
class Latents(Generic[Tag]):
    """Finished latents (F, c, h, w), the tag of the frames they belong to, what is known of their motion, and what
    stays of the pictures that came in. tolerance: for `core.reuse`. enlarge: the picture comes out so many times as
    large. params: that the turn was run with."""

    latent_Fchw: Tensor
    tag: Tag
    guide: Guide | None = None
    behind: Behind | None = None
    tolerance: float | None = None
    enlarge: int = 1
    params: Params | None = None


@dataclass(frozen=True)
class Painted(Generic[Tag]):
    """Finished pictures, uint8 RGBA (F, H, W, 4), and the tag of the frames they belong to."""

    frame_FHWC: Tensor
    tag: Tag

    def on_host(self) -> Painted[Tag]:
        """The same in the host's memory; see `core.device.downloaded`."""
        return replace(self, frame_FHWC=downloaded(self.frame_FHWC))


NoiseSource = Callable[[int, int, tuple[int, ...]], Tensor]
"""(seed >= 0, stages, (F, c, h, w)) to noise of shape (stages, F, c, h, w), as `seeded_noise`."""


def seeded_noise(seed: int, stages: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (stages, *shape), float32 on the CPU.

    shape: (F, c, h, w). Stage i's noise depends on the seed and i alone, so a change of the number of steps keeps the
    noise of the others, and a frame's picture does not depend on its place in the frame buffer.
    """
    generator = torch.Generator().manual_seed(seed)
    frames, *latent = shape
    return torch.stack([torch.randn((1, *latent), generator=generator).repeat(frames, 1, 1, 1) for _ in range(stages)])


class Stream(Generic[Tag]):
    """One stream of frames through one model.

    Set-up verbs `plan` and the constructor may allocate and compute; `encode`, `advance`, `decode` and their
    composition `step` are the frame path. The three parts of `step` may run on three threads for three different
    frames, each part on one thread only. `core.model.Model.stream` builds one.

    noise: the schedule that the model was trained with. latent_shape: (c, h, w). loras: how many change the model.
    """

    def __init__(
        self,
        config: StreamConfig,
        denoiser: Denoiser,
        codec: Codec,
        text: Text,
        noise: NoiseSchedule,
        latent_shape: tuple[int, int, int],
        device: torch.device,
        noise_source: NoiseSource = seeded_noise,
        *,
        loras: int = 0,
    ) -> None:
        self.config = config
        self._loras = loras
        self.filter = SimilarityFilter()
        self._denoiser = denoiser
        self._codec = codec
        self._text = text
        self._schedule = noise
        self._device = device
        self._noise_source = noise_source
        self._shape = (config.frame_buffer, *latent_shape)
        self._sampler = SAMPLERS[config.sampler]
        self._unmarked = torch.ones((1, config.frame_buffer, 2), device=device)
        self._uncut = torch.tensor([1.0, 0.0], device=device).repeat(1, config.frame_buffer, 1)
        self._as_drawn = torch.zeros((1, config.frame_buffer, config.max_steps), dtype=torch.int64, device=device)
        blank = self._entering(torch.zeros(self._shape, device=device), {})
        self._flight: Flight[tuple[Tag, Guide | None, Behind | None]] = Flight(config.max_steps, blank)
        self._follower = Follower((config.height, config.width), latent_shape[1:], device)
        self._estimates = Estimates()
        self._pictures = Pictures()
        self._moving_noise = MovingNoise(latent_shape[1:], device)
        self._matcher = Matcher()
        self._feedback = Feedback()
        self._picture_feedback = PictureFeedback()
        self._following = False
        self._kept = KeptRows()
        self._memory: dict[tuple[Row, ...], Any] = {}
        self._remembers: tuple[Any, ...] = ()
        self._turns = 0
        self._last_entered: Tensor | None = None
        self._prompts: dict[tuple[str, tuple[float, ...]], PromptText] = {}
        # While another thread captures a graph, torch's own generator of the card is not to be had.
        self._random = torch.Generator(device) if device.type == "cuda" else None
        if self._random is not None:
            self._random.seed()
        self._drawn: dict[tuple[int, int], Tensor] = {}
        self._last_plan: Plan | None = None

    # -- set-up --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def plan(self, params: Params) -> Plan:
        """Everything that the frame path needs for `params`. May be called from another thread than the frame path,
        which may use it from any CUDA stream once this returns.

        Texts, noise and constants that did not change since the last call are taken over, not computed again. Raises
        `ParamError` for more stages than the stream is built for.
        """
        last = self._last_plan
        if last is not None and last.params == params:
            return last
        guidance = active_guidance(params.guidance, params.guidance_scale)
        scales = GuidanceScales(params.guidance_scale, params.delta)
        if last is not None and guidance is last.guidance and _same_passes(params, last.params):
            plan = replace(last, params=params, scales=scales)
        else:
            stages = params.stages()
            if len(stages) > self.config.max_steps:
                raise ParamError(f"steps: got {len(stages)}; this stream is built for at most {self.config.max_steps}")
            drawn = self._noise_for(params)
            passes = self._passes(params, stages, guidance, drawn)
            plan = Plan(params, len(stages), passes, guidance, scales, drawn if len(drawn) > 1 else None)
        plan = replace(
            plan,
            passes=tuple(replace(p, inputs=self._denoiser.with_scale(p.inputs, scales.scale)) for p in plan.passes),
        )
        tolerance = tolerance_of(params, self._device)
        if tolerance is not None:
            self._codec.prepare_reuse()
        if tolerance:
            for some in {part_rows(len(turn.rows)) for turn in plan.passes} - {0}:
                self._denoiser.prepare(some)
        self._feedback.prepare(params, lambda: self._codec.colours(self.config.frame_buffer))
        settle(self._device)
        self._last_plan = plan
        return plan

    def _passes(
        self, params: Params, stages: tuple[int, ...], guidance: Guidance, drawn_kSFchw: Tensor
    ) -> tuple[Pass, ...]:
        frames = self.config.frame_buffer
        coefficients = Coefficients.build(self._schedule, stages, self._device)
        noise_SFchw = drawn_kSFchw[0]
        weights = params.loras(self._loras)
        prompts = {role: self._prompt(getattr(params, text), weights) for role, text in ROLES.items()}
        if params.prompt_mix > 0.0:
            prompts[POSITIVE] = _between(prompts[POSITIVE], self._prompt(params.prompt_to, weights), params.prompt_mix)
        layouts: dict[tuple[Any, ...], RowInputs] = {}

        def one_pass(of: range) -> Pass:
            rows = guidance.rows(of, frames)
            roles = tuple(row.role for row in rows)
            # ControlNets may act at one stage and not at another.
            key = rows if self._denoiser.planes else roles
            if key not in layouts:
                layouts[key] = self._denoiser.rows([prompts[role] for role in roles], rows, params)
            slots = [(row.stage - of.start) * frames + row.frame for row in rows]
            as_they_lie = slots == list(range(len(of) * frames))
            return Pass(
                coefficients.of(of),
                noise_SFchw[of.start : of.stop],
                rows,
                tuple((role, roles.count(role)) for role in dict.fromkeys(roles)),
                None if as_they_lie else torch.tensor(slots, device=self._device),
                coefficients.t_S[[row.stage for row in rows]],
                layouts[key],
                Draws.of(of, drawn_kSFchw) if len(drawn_kSFchw) > 1 else None,
            )

        everything = range(len(stages))
        if params.mode == "throughput":
            return (one_pass(everything),)
        return tuple(one_pass(everything[i : i + 1]) for i in everything)

    def _prompt(self, text: str, weights: tuple[float, ...]) -> PromptText:
        key = (text, weights)
        prompt = self._prompts.pop(key, None)
        if prompt is None:
            prompt = self._denoiser.prompt(self._text.embed(text, weights) if weights else self._text.embed(text))
        self._prompts[key] = prompt
        if len(self._prompts) > CACHED_PROMPTS:
            del self._prompts[next(iter(self._prompts))]  # the least recently used one
        return prompt

    def _noise_for(self, params: Params) -> Tensor:
        """(k, S, F, c, h, w). The first is that of the seed itself, or on the way from it to the second seed's."""
        draws = params.noise_draws if params.seed >= 0 else 1
        noise = self._drawn_for(params.seed, draws)
        share = _seed_share(params)
        if share == 0.0:
            return noise
        # The two are independent: the squares of the weights add up to 1, so that all between is standard normal, too.
        angle = share * math.pi / 2.0
        return math.cos(angle) * noise + math.sin(angle) * self._drawn_for(params.seed_to, draws)

    def _drawn_for(self, seed: int, draws: int) -> Tensor:
        """(k, S, F, c, h, w) of a seed alone."""
        noise = self._drawn.pop((seed, draws), None)
        if noise is None:
            # Torch's generator of the processor looks at 32 bits of a seed; the factor spreads the draws over them.
            seeds = [(max(seed, 0) + i * 0x9E3779B1) % 2**32 for i in range(draws)]
            drawn = [self._noise_source(s, self.config.max_steps, self._shape) for s in seeds]
            noise = torch.stack(drawn).to(self._device)
        self._drawn[seed, draws] = noise
        if len(self._drawn) > 2:
            del self._drawn[next(iter(self._drawn))]  # the one of longest ago
        return noise

    def warm_up(self, plan: Plan) -> None:
        """Run a whole turn on an empty picture. Spoils the stream's state: for a throw-away stream of the same size."""
        blank = torch.zeros((self.config.frame_buffer, self.config.height, self.config.width, 3), dtype=torch.uint8)
        finished = self.advance(self.encode(blank), None, plan)  # type: ignore[arg-type]
        self.decode(finished or Latents(torch.zeros(self._shape, device=self._device), None))  # type: ignore[arg-type]

    # -- frame path ----------------------------------------------------------------------------------------------

    def admit(self, given: Input, plan: Plan) -> bool:
        """False when the frame need not be run: paused, or skipped by the similarity filter."""
        return admit(self.filter, given, plan)

    @property
    def planes(self) -> tuple[str, ...]:
        """The names of the planes beside colour that `encode` has a use for."""
        sources = (plane.source or name for name, plane in self._denoiser.planes.items())
        return tuple(dict.fromkeys(source for source in sources if source != COLOUR))

    @property
    def reused(self) -> dict[str, dict[str, int]]:
        """Calls of the networks by part of the frame path, and how much of the work they did (`core.reuse`)."""
        return {
            "encode": self._codec.encoder.done,
            "denoise": self._kept.done,
            "decode": self._codec.decoder.done,
        }

    def reads(self, plan: Plan) -> tuple[str, ...]:
        """The names of the planes beside colour that `encode` has a use for under `plan`."""
        own = (*planes_of(plan.params), *((MASK,) if plan.params.masked else ()))
        return self.planes + tuple(name for name in own if name not in self.planes)

    @torch.inference_mode()
    def encode(
        self,
        frame_FHWC: Tensor,
        planes: Mapping[str, Tensor] = MappingProxyType({}),
        plan: Plan | None = None,
        numbers: Sequence[int] = (),
    ) -> Carried:
        """What the first stage reads of uint8 pictures (F, H, W, 3 or 4), and of planes (F, H, W, ...) by name.

        plan, numbers: what the frames are to be run with, and the client's numbers of them, from which it is known
        which frame is just before which; without both nothing is steadied along motion. Raises `PixelError` for
        pictures of any other shape or type, and for planes that cannot be used.
        """
        frames, shape = self.config.frame_buffer, tuple(frame_FHWC.shape)
        fits = len(shape) == 4 and shape[0] == frames and shape[3] in (3, 4) and 0 not in shape
        if frame_FHWC.dtype != torch.uint8 or not fits:
            raise PixelError(
                f"pictures of shape {shape} and type {frame_FHWC.dtype} cannot be used; send uint8 of shape"
                f" ({frames}, height, width, 3 or 4)"
            )
        guide = self._guide(frame_FHWC, planes, plan, numbers)
        tolerance = None if plan is None else tolerance_of(plan.params, self._device)
        levels = self._codec.received(frame_FHWC)
        if plan is not None:
            levels = self._picture_feedback.mixed(levels, plan.params)
        entering = self._entering(self._codec.latents(levels, tolerance), {**planes, COLOUR: frame_FHWC})
        if plan is not None and plan.params.masked and MASK in planes:
            size = (self.config.height, self.config.width)
            entering = entering._replace(behind=behind(frame_FHWC, planes[MASK], size, entering.estimate))
        return entering if guide is None else entering._replace(guide=guide)

    def _guide(
        self, frame_FHWC: Tensor, planes: Mapping[str, Tensor], plan: Plan | None, numbers: Sequence[int]
    ) -> Guide | None:
        params = None if plan is None else plan.params
        if params is None or not numbers or Carrying.of(params) is None or params.task != "img2img":
            if self._following:
                self._follower.forget()
                self._following = False
            return None
        self._following = True
        return self._follower.guide(frame_FHWC, planes, numbers, params)

    @torch.inference_mode()
    def advance(self, entering: Carried, tag: Tag, plan: Plan) -> Latents[Tag] | None:
        """Run one turn with new frames coming in.

        entering: from `encode`; its latents are ignored for txt2img. Returns the newest finished frames, or None while
        no frame has passed all stages since the stream began or grew.
        """
        if plan.params.seed < 0:
            for turn in plan.passes:
                turn.noise_SFchw.normal_(generator=self._random)
        if plan.params.task == "img2img":
            mixed = self._feedback.mixed(entering.estimate[0], plan.params)[None]
            entering = entering._replace(estimate=mixed, anchor=mixed)
        entering = _ENTERING[plan.params.task](entering, plan.passes[0])
        cut_F = self._cuts(entering.estimate[0], plan)
        entering = self._marked(self._matched(entering, cut_F, plan), cut_F, plan.params)
        finished = _ADVANCE[plan.params.mode](self, self._with_moving_noise(entering, plan), tag, plan)
        if finished is None:
            return None
        self._feedback.finished(finished.latent_Fchw, plan.params)
        return replace(finished, enlarge=plan.params.upscale, params=plan.params)

    def _with_moving_noise(self, entering: Carried, plan: Plan) -> Carried:
        """With noise in the guide, where the parameters want it to move and it is not new in every frame."""
        guide: Guide | None = entering.guide or None
        if guide is None or not plan.params.motion_noise or plan.params.seed < 0:
            self._moving_noise.forget()
            return entering
        own_SFchw = torch.cat([turn.noise_SFchw for turn in plan.passes])
        noise = self._moving_noise.of(own_SFchw, plan.params.seed, guide)
        return entering._replace(guide=guide._replace(noise=noise))

    def _cuts(self, latent_Fchw: Tensor, plan: Plan) -> Tensor | None:
        """(F,) bool: where the picture is about as unlike the one before as strangers are, by mean square difference
        over twice the variance. None where nothing asks for it."""
        params = plan.params
        by_bank = Form.of(params) is not None and "cut" in params.bank_reset
        if params.task != "img2img" or not (by_bank or plan.draws_kSFchw is not None):
            self._last_entered = None
            return None
        before = latent_Fchw[:1] if self._last_entered is None else self._last_entered
        self._last_entered = latent_Fchw[-1:].clone()
        unlike = (latent_Fchw - torch.cat((before, latent_Fchw[:-1]))).square().flatten(1).mean(1)
        strangers = 2.0 * latent_Fchw.flatten(2).var(-1).mean(1)
        return unlike > params.cut_threshold * strangers

    def _matched(self, entering: Carried, cut_F: Tensor | None, plan: Plan) -> Carried:
        """With the draws of noise that the frames take."""
        if cut_F is None or plan.draws_kSFchw is None:
            self._matcher.forget()
            return entering
        return entering._replace(draw=self._matcher.draw(entering.estimate[0], cut_F, plan.draws_kSFchw)[None])

    def _marked(self, entering: Carried, cut_F: Tensor | None, params: Params) -> Carried:
        """With the marks of a cut. Where a change of the parameters empties what is remembered, it is."""
        form = Form.of(params)
        if form is None:
            if self._remembers:
                # What is there now was laid out for a bank.
                self._memory, self._remembers = {}, ()
            return entering
        texts = (params.prompt, params.negative_prompt) if "prompt" in params.bank_reset else ()
        if self._remembers != (form, *texts):
            self._memory, self._remembers, self._turns = {}, (form, *texts), 0
        self._turns += 1
        if cut_F is None or "cut" not in params.bank_reset:
            return entering._replace(marks=self._uncut)
        cut = cut_F.to(torch.float32)
        return entering._replace(marks=torch.stack((torch.ones_like(cut), cut), -1)[None])

    def decode(self, finished: Latents[Tag]) -> Painted[Tag]:
        """Pictures of finished latents."""
        levels = self._codec.levels(finished.latent_Fchw, finished.tolerance)
        levels = self._pictures.steadied(levels, finished.guide)
        if finished.behind is not None:
            levels = finished.behind.behind(levels)
        if finished.params is not None:
            self._picture_feedback.painted(levels, finished.params)
        return Painted(packed(enlarged(levels, finished.enlarge)), finished.tag)

    def step(
        self,
        frame_FHWC: Tensor,
        tag: Tag,
        plan: Plan,
        planes: Mapping[str, Tensor] = MappingProxyType({}),
        numbers: Sequence[int] = (),
    ) -> Painted[Tag] | None:
        """The whole frame path, one after the other: the plain twin of running its three parts on three threads."""
        finished = self.advance(self.encode(frame_FHWC, planes, plan, numbers), tag, plan)
        return None if finished is None else self.decode(finished)

    def _entering(self, latent_Fchw: Tensor, planes: Mapping[str, Tensor]) -> Carried:
        """What the first stage reads of new frames."""
        latent = latent_Fchw[None]
        return Carried(
            latent,
            latent,
            torch.zeros_like(latent) if self._sampler.remembers else None,
            self._unmarked,
            {
                name: (
                    plane.read(planes[plane.source or name])
                    if (plane.source or name) in planes
                    else torch.zeros((self.config.frame_buffer, *plane.shape), device=self._device)
                )[None]
                for name, plane in self._denoiser.planes.items()
            },
            draw=self._as_drawn,
            history=self._sampler.history(latent),
        )

    def _advance_batch(self, entering: Carried, tag: Tag, plan: Plan) -> Latents[Tag] | None:
        guide = entering.guide or None
        held = (tag, guide, entering.behind or None)
        carried = self._flight.enter(plan.stages, held, entering._replace(guide=(), behind=()))
        guides = [None if slot is None else slot[0][1] for slot in self._flight.tags]
        after = self._denoise(carried, plan.passes[0], plan, guides)
        leaving = self._flight.move_on(after)
        tolerance = tolerance_of(plan.params, self._device)
        return None if leaving is None else Latents(after.estimate[-1], *leaving[0], tolerance)

    def _advance_alone(self, entering: Carried, tag: Tag, plan: Plan) -> Latents[Tag] | None:
        self._flight.clear()  # frames in flight are older than the one that leaves in this turn
        guide = entering.guide or None
        carried = entering._replace(guide=(), behind=())
        for turn in plan.passes:
            carried = self._denoise(carried, turn, plan, [guide])
        return Latents(
            carried.estimate[0], tag, guide, entering.behind or None, tolerance_of(plan.params, self._device)
        )

    def _denoise(self, carried: Carried, turn: Pass, plan: Plan, guides: Sequence[Guide | None]) -> Carried:
        k = turn.coefficients
        x = k.a * carried.estimate + k.b * turn.noise_for(carried, guides)
        made = self._predicted(x, carried, turn, plan)
        steadied = self._estimates.steadied(made["estimate"], turn.rows[0].stage, guides)
        return carried._replace(**{**made, "estimate": steadied})

    def _predicted(self, x: Tensor, carried: Carried, turn: Pass, plan: Plan) -> dict[str, Any]:
        """What one stage makes of these latents, noise and all: fields of `Carried` by name."""
        k = turn.coefficients
        inputs = turn.inputs
        if carried.planes:
            inputs = inputs._replace(planes=mapped(turn.rows_of, carried.planes))
        if turn.inputs.bank:
            inputs = inputs._replace(bank=self._bank(turn, carried, plan))
        by_role = turn.by_role(self._eps(turn.rows_of(x), inputs, turn, plan))
        eps, anchor = plan.guidance.combine(by_role, x, carried.anchor, k, plan.scales)
        step = self._sampler.step(Denoised(x, eps, by_role, carried), k)
        return {**step._asdict(), "anchor": anchor}

    def _eps(self, x_Rchw: Tensor, inputs: RowInputs, turn: Pass, plan: Plan) -> Tensor:
        """(R, c, h, w): the predictions of one U-Net call, or what is kept of them."""
        stage, memory = turn.rows[0].stage, self._remembered(plan, turn)
        # What the denoiser remembers, and planes, are other inputs in every turn.
        tolerance = tolerance_of(plan.params, self._device) if memory is None and not inputs.planes else None
        if tolerance is None:
            self._kept.forget(stage)
            eps_Rchw, self._memory[turn.rows] = self._denoiser(x_Rchw, turn.t_R, inputs, memory)
            return eps_Rchw

        def of(rows: Sequence[int] | slice) -> Tensor:
            return self._denoiser(x_Rchw[rows], turn.t_R[rows], part(inputs, rows), None)[0]

        return self._kept.of(stage, turn, x_Rchw, tolerance, of)

    def _bank(self, turn: Pass, carried: Carried, plan: Plan) -> BankInputs:
        """What the rows read of their bank's settings, with what is known of their frames."""
        assert carried.marks is not None
        frame_R, cut_R = turn.rows_of(carried.marks).unbind(-1)
        params, age = plan.params, self._turns - 1
        # While the first frames come through, each of them is the first for some row.
        due = age % params.bank_interval == 0 or age < plan.stages
        bank: BankInputs = turn.inputs.bank
        return bank._replace(cut=cut_R[:, None], write=frame_R[:, None] if due else ())

    def _remembered(self, plan: Plan, turn: Pass) -> Any:
        """What the denoiser remembers of the rows of a call. After a change of steps, guidance or mode, the rows that
        there were before keep theirs."""
        if turn.rows not in self._memory:
            before = {row: part(m, slice(i, i + 1)) for rows, m in self._memory.items() for i, row in enumerate(rows)}
            self._memory = {}
            for other in plan.passes:
                fresh = self._denoiser.memory(other.rows, plan.params)
                pieces = [before.get(row, part(fresh, slice(i, i + 1))) for i, row in enumerate(other.rows)]
                self._memory[other.rows] = None if fresh is None else cat(pieces)
        return self._memory[turn.rows]


def admit(similarity: SimilarityFilter, given: Input, plan: Plan) -> bool:
    """Whether a frame has to be run under `plan`; the filter follows along."""
    params = plan.params
    if params.paused:
        similarity.changed()
        return False
    if not params.similarity_filter:
        similarity.changed()
        return True
    return similarity.admit(
        given.colour if given.look is None else given.look,
        depth=plan.depth,
        threshold=params.similarity_threshold,
        max_skip=params.similarity_max_skip,
        key=params,
    )


def _as_it_comes(entering: Carried, turn: Pass) -> Carried:
    return entering


def _pure_noise(entering: Carried, turn: Pass) -> Carried:
    """The clean latents that the first stage's noise level turns into its noise alone: z with a z + b e = e. So txt2img
    is the repainting of that, and its virtual residual noise is e, as in the original."""
    k = turn.coefficients
    latent = (1.0 - k.b[:1]) / k.a[:1] * turn.noise_SFchw[:1]
    return entering._replace(estimate=latent, anchor=latent)


def _between(first: PromptText, second: PromptText, share: float) -> PromptText:
    """What lies between two prompts: keys and values are linear in the text encoder's output, so mixing them is mixing
    that."""

    def mixed(a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(a, b, share)

    return PromptText(
        mapped(mixed, first.embedding, second.embedding), mapped(mixed, first.keys_values, second.keys_values)
    )


def _seed_share(params: Params) -> float:
    """How far the noise is on its way to the second seed's, 0 to 1."""
    return 0.0 if params.seed < 0 or params.seed_to == params.seed else params.seed_mix


def _same_passes(a: Params, b: Params) -> bool:
    """True when both parameter values lead to the same passes (texts, noise, stages, mode and bank)."""

    def read(p: Params) -> tuple[Any, ...]:
        bank = (Form.of(p), p.bank_fusion, p.bank_threshold)
        mix = (p.prompt_mix, p.prompt_to if p.prompt_mix > 0.0 else "")
        share = _seed_share(p)
        seed = (p.seed, p.noise_draws, share, p.seed_to if share > 0.0 else 0)
        control = [p.control_strengths(stage, MAX_CONTROLS) for stage in range(len(p.stages()))]
        added = (p.loras(MAX_LORAS), control, p.reference, p.reference_scale)
        return p.stages(), seed, p.mode, p.prompt, mix, p.negative_prompt, bank, added

    return read(a) == read(b)


_ENTERING: dict[str, Callable[[Carried, Pass], Carried]] = {"img2img": _as_it_comes, "txt2img": _pure_noise}
_ADVANCE: dict[str, Callable[..., Latents | None]] = {
    "throughput": Stream._advance_batch,
    "latency": Stream._advance_alone,
}
