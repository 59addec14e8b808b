"""The live parameters: one frozen value, replaced between two frames, never mutated.

Every field carries its unit, range and one-line help. OSC addresses, the page's controls, the client
components and the docs are derived from `SPECS`; nothing else repeats a name, a default or a range.
This module and what it imports need the standard library only, so that every process can load it cheaply.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from core.hub import located
from core.prompt import PromptError, parse

STAGE_GRID = 50
"""Number of points of the timestep grid that a t-index selects from (LCM: 999, 979, ..., 19)."""

MAX_STEPS = 8
MAX_DRAWS = 16
SIZE_STEP_PX = 8
MAX_PROMPT_CHARS = 2000
MAX_LORAS = 4
MAX_CONTROLS = 2
CONTROL_SOURCES = ("depth", "normal", "mask", "canny", "colour")
"""What a ControlNet may be shown: planes of the client's, edges of its picture, or its picture."""

GUIDANCE_READS: dict[str, tuple[str, ...]] = {
    "none": (),
    "full": ("negative_prompt", "guidance_scale"),
    "onetime-negative": ("negative_prompt", "guidance_scale", "delta"),
    "self-negative": ("guidance_scale", "delta"),
}
"""The kinds of guidance, and the parameters that each of them reads."""
GUIDANCE_KINDS = tuple(GUIDANCE_READS)
MODES = ("throughput", "latency")
SWITCH_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
"""What people write for a switch."""
AS_STARTED = "as started"
"""What the host was started with, by this name: the model, the reference picture, a LoRA, a ControlNet."""
NONE = "none"
"""No LoRA, or no ControlNet, by this name."""
MAX_NAME_CHARS = 200
TASKS = ("img2img", "txt2img")
TEMPORAL = ("off", "bank", "engine", "flow")
BANKS = ("merged", "fifo")
RESETS = ("cut-and-prompt", "cut", "prompt", "never")


class ParamError(ValueError):
    """A parameter was refused. The message names the field, what arrived and what would be accepted."""


@dataclass(frozen=True)
class Spec:
    """What the outside may know of one parameter.

    kind is one of "str", "float", "int", "bool", "choice", "ints". `low`/`high` bound numbers (and every
    element of "ints"), and the length in characters of "str"; `max_items` bounds "ints", which are multiples of `step`
    where that is given, and each larger than the one before where `rising`.
    `acts_with` names another field and its values with which this one has an effect; None: it always has. `title` is
    what to show a person instead of the name.
    """

    name: str
    kind: str
    default: Any
    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    max_items: int = 0
    rising: bool = True
    main: bool = False
    acts_with: tuple[str, tuple[Any, ...]] | None = None
    prompt: bool = False
    title: str = ""

    def check(self, value: Any) -> Any:
        """Return `value` in the field's own type, or raise `ParamError` naming the fix."""
        return _CHECKS[self.kind](self, value)


def _refuse(spec: Spec, value: Any, wanted: str) -> ParamError:
    shown = repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return ParamError(f"{spec.name}: got {shown}; send {wanted}")


def _number(spec: Spec, value: Any, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refuse(spec, value, wanted)
    # An integer is finite, and one of 400 digits has no float to ask.
    if isinstance(value, float) and not math.isfinite(value):
        raise _refuse(spec, value, wanted)
    if not (spec.low <= value <= spec.high):  # type: ignore[operator]
        raise _refuse(spec, value, wanted)
    return value


def _check_float(spec: Spec, value: Any) -> float:
    return float(_number(spec, value, f"a number from {spec.low:g} to {spec.high:g}"))


def _check_int(spec: Spec, value: Any) -> int:
    wanted = f"a whole number from {spec.low:.0f} to {spec.high:.0f}"
    number = _number(spec, value, wanted)
    if number != int(number):
        raise _refuse(spec, value, wanted)
    return int(number)


def _check_bool(spec: Spec, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    raise _refuse(spec, value, "0 or 1")


def _check_choice(spec: Spec, value: Any) -> str:
    if isinstance(value, str) and value in spec.choices:
        return value
    raise _refuse(spec, value, "one of " + ", ".join(spec.choices))


def _check_str(spec: Spec, value: Any) -> str:
    wanted = f"text of at most {spec.high:.0f} characters"
    if not isinstance(value, str):
        raise _refuse(spec, value, wanted)
    if len(value) > spec.high:  # type: ignore[operator]
        raise ParamError(f"{spec.name}: got {len(value)} characters; send {wanted}")
    text = "".join(c if c.isprintable() else " " for c in value)
    if spec.prompt:
        try:
            parse(text)
        except PromptError as error:
            raise ParamError(f"{spec.name}: {error}") from None
    return text


def _check_ints(spec: Spec, value: Any) -> tuple[int, ...]:
    step = 1 if spec.step is None else int(spec.step)
    wanted = f"0 to {spec.max_items} {'whole numbers' if step == 1 else f'multiples of {step}'}"
    wanted += f" from {spec.low:.0f} to {spec.high:.0f}" + (", each larger than the one before" if spec.rising else "")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, (list, tuple)) or len(value) > spec.max_items:
        raise _refuse(spec, value, wanted)
    numbers = []
    for item in value:
        number = _number(spec, item, wanted)
        if number % step:
            raise _refuse(spec, value, wanted)
        numbers.append(int(number))
    if spec.rising and any(b <= a for a, b in zip(numbers, numbers[1:], strict=False)):
        raise _refuse(spec, value, wanted)
    return tuple(numbers)


_CHECKS = {
    "float": _check_float,
    "int": _check_int,
    "bool": _check_bool,
    "choice": _check_choice,
    "str": _check_str,
    "ints": _check_ints,
}


def _kinds_that_read(name: str) -> tuple[str, ...]:
    return tuple(kind for kind, reads in GUIDANCE_READS.items() if name in reads)


def _param(default: Any, kind: str, help: str, **about: Any) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help, **about})


def _control(which: str, what: str, default: float, high: float) -> Any:
    help = f"{what} the {which} ControlNet (--control, --controls)."
    return _param(default, "float", help, low=0.0, high=high, step=0.05)


def _lora(which: str) -> Any:
    help = f"Weight of the {which} LoRA (--lora, --loras)."
    return _param(1.0, "float", help, low=-2.0, high=2.0, step=0.05)


def _added(which: str, what: str, option: str) -> Any:
    help = f"The {which} {what}: as started, none, or one of the host's folder of them ({option}), by its name."
    return _param(AS_STARTED, "str", help, high=MAX_NAME_CHARS)


@dataclass(frozen=True)
class Params:
    """Everything that may change between two frames. Build changed copies with `with_values`."""

    prompt: str = _param(
        "neon style, red sphere, blue box",
        "str",
        "What the picture should show, and in which style.",
        high=MAX_PROMPT_CHARS,
        prompt=True,
        main=True,
    )
    prompt_to: str = _param(
        "",
        "str",
        "A second prompt, which prompt_mix fades to.",
        high=MAX_PROMPT_CHARS,
        prompt=True,
    )
    prompt_mix: float = _param(
        0.0, "float", "Cross-fade from the prompt (0) to the second prompt (1).", low=0.0, high=1.0, step=0.02
    )
    negative_prompt: str = _param(
        "",
        "str",
        f"What to steer away from; used by guidance {' and '.join(_kinds_that_read('negative_prompt'))}.",
        high=MAX_PROMPT_CHARS,
        prompt=True,
        acts_with=("guidance", _kinds_that_read("negative_prompt")),
    )
    strength: float = _param(
        0.1,
        "float",
        "How far from the input the picture may go; 1 ignores the input. Stable Diffusion models want 0.4 and more.",
        low=0.02,
        high=1.0,
        step=0.02,
        main=True,
        acts_with=("t_index", ((),)),
    )
    steps: int = _param(
        1,
        "int",
        "Denoising steps a frame gets; more is finer and slower.",
        low=1,
        high=MAX_STEPS,
        step=1,
        main=True,
        acts_with=("t_index", ((),)),
    )
    t_index: tuple[int, ...] = _param(
        (),
        "ints",
        "Explicit denoising stages on the 50-point grid; empty derives them from strength and steps.",
        low=0,
        high=STAGE_GRID - 1,
        max_items=MAX_STEPS,
    )
    guidance: str = _param(
        "none", "choice", "How the prompt is enforced; none costs nothing extra.", choices=GUIDANCE_KINDS, main=True
    )
    guidance_scale: float = _param(
        1.2,
        "float",
        "How hard the prompt is enforced; no effect at 1 or below, or with guidance none.",
        low=0.0,
        high=20.0,
        step=0.05,
        main=True,
        acts_with=("guidance", _kinds_that_read("guidance_scale")),
    )
    delta: float = _param(
        1.0,
        "float",
        "Weight of the virtual residual noise of residual guidance.",
        low=0.0,
        high=2.0,
        step=0.05,
        acts_with=("guidance", _kinds_that_read("delta")),
    )
    seed: int = _param(
        2, "int", "Noise seed; -1 draws new noise for every frame.", low=-1, high=2**31 - 1, step=1, main=True
    )
    seed_to: int = _param(0, "int", "A second seed, which seed_mix travels to.", low=0, high=2**31 - 1, step=1)
    seed_mix: float = _param(
        0.0,
        "float",
        "Travels from the noise of the seed (0) to that of the second seed (1); no effect at seed -1.",
        low=0.0,
        high=1.0,
        step=0.02,
    )
    noise_draws: int = _param(
        1,
        "int",
        "The noise is the best of so many draws for the first picture after a cut; 1 takes the seed's as it comes.",
        unit="draws",
        low=1,
        high=MAX_DRAWS,
        step=1,
        acts_with=("task", ("img2img",)),
    )
    mode: str = _param(
        "throughput",
        "choice",
        "throughput: stream batch, most frames per second; latency: each frame leaves in its own turn.",
        choices=MODES,
        main=True,
    )
    task: str = _param("img2img", "choice", "img2img repaints the input; txt2img ignores it.", choices=TASKS)
    size: tuple[int, ...] = _param(
        (),
        "ints",
        "Width and height to paint at, or one number for a square; empty: as the host was started.",
        unit="px",
        low=128,
        high=1024,
        step=SIZE_STEP_PX,
        max_items=2,
        rising=False,
    )
    upscale: int = _param(
        1, "int", "The picture comes out so many times as large as it is painted.", unit="times", low=1, high=2, step=1
    )
    similarity_filter: bool = _param(
        False, "bool", "Skip frames that look like the last processed one, so that the device can sleep.", main=True
    )
    similarity_threshold: float = _param(
        0.98,
        "float",
        "Cosine similarity above which frames are skipped, at random, ever more often.",
        low=0.0,
        high=1.0,
        step=0.005,
        acts_with=("similarity_filter", (True,)),
    )
    similarity_max_skip: int = _param(
        10,
        "int",
        "Longest run of skipped frames.",
        unit="frames",
        low=0,
        high=1000,
        step=1,
        acts_with=("similarity_filter", (True,)),
    )
    temporal: str = _param(
        "off",
        "choice",
        "Steady pictures: bank reads features of frames before (StreamV2V) and shares what was painted where pieces of"
        " the input are found again; engine carries pictures along the client's motion plane, flow along estimated"
        " motion.",
        choices=TEMPORAL,
        main=True,
    )
    bank: str = _param(
        "merged",
        "choice",
        "How the bank takes a new frame: merged into the old ones, or in a queue of whole frames.",
        choices=BANKS,
    )
    bank_frames: int = _param(1, "int", "Frames that a queue holds.", unit="frames", low=1, high=4, step=1)
    bank_interval: int = _param(
        4, "int", "Every so many frames the bank takes one in.", unit="frames", low=1, high=60, step=1
    )
    bank_fusion: float = _param(
        0.8,
        "float",
        "How far attention outputs are drawn to those of the bank.",
        low=0.0,
        high=1.0,
        step=0.05,
    )
    bank_threshold: float = _param(
        0.98, "float", "Cosine similarity from which outputs are drawn to the bank.", low=0.0, high=1.0, step=0.005
    )
    bank_match: float = _param(
        0.45,
        "float",
        "Share of the picture that is the one before, piece by piece, where pieces of the input are found again there.",
        low=0.0,
        high=0.95,
        step=0.05,
        acts_with=("temporal", ("bank",)),
    )
    bank_sink: bool = _param(True, "bool", "Keep the first frame of a take in the bank, in the coarse layers.")
    bank_sizes: bool = _param(True, "bool", "Merged features weigh as much as all that they stand for.")
    bank_reset: str = _param(
        "cut-and-prompt", "choice", "What empties the bank: a cut of the input, a new prompt.", choices=RESETS
    )
    cut_threshold: float = _param(
        0.4,
        "float",
        "A frame counts as a cut when it differs from the last one by this share of how much two strangers do.",
        low=0.0,
        high=2.0,
        step=0.05,
    )
    batch_attention: bool = _param(False, "bool", "Frames in one stream batch read one another's features.")
    motion_share: float = _param(
        0.92,
        "float",
        "Share of the picture that is the one before, moved along the motion.",
        low=0.0,
        high=0.95,
        step=0.01,
        acts_with=("temporal", ("engine", "flow")),
    )
    motion_latent: float = _param(
        0.0,
        "float",
        "Share of every stage's estimate that is the one before, moved along the motion; with 0, what comes into view"
        " is as single frames have it, to the pixel.",
        low=0.0,
        high=0.95,
        step=0.05,
        acts_with=("temporal", ("engine", "flow")),
    )
    motion_tolerance: float = _param(
        16.0,
        "float",
        "How far the input may differ from the one before, moved, for that to be used.",
        unit="levels",
        low=1.0,
        high=128.0,
        step=1.0,
        acts_with=("temporal", ("engine", "flow")),
    )
    motion_sharpen: float = _param(
        0.06,
        "float",
        "Sharpens what was moved, against the blur of moving it.",
        low=0.0,
        high=1.0,
        step=0.01,
        acts_with=("temporal", ("engine", "flow")),
    )
    model: str = _param(
        AS_STARTED,
        "str",
        "The model that paints: as started, embedded, or one of the host's folder of models (--models), by its name.",
        high=MAX_NAME_CHARS,
    )
    motion_noise: bool = _param(
        False,
        "bool",
        "Noise moves with the scene, so that texture does not stick to the screen.",
        acts_with=("temporal", ("engine", "flow")),
    )
    reuse: bool = _param(
        False,
        "bool",
        "Do not compute again what is unchanged, for cameras that stand still; a card computes everything.",
    )
    reuse_tolerance: float = _param(
        4.0,
        "float",
        "How far an input may differ, on average over a latent cell, to count as unchanged; 0 for not at all.",
        unit="levels",
        low=0.0,
        high=32.0,
        step=0.5,
        acts_with=("reuse", (True,)),
    )
    masked: bool = _param(
        False,
        "bool",
        "Repaint only where the client's mask plane is white; a frame without one is repainted as a whole.",
    )
    feedback: float = _param(
        0.0,
        "float",
        "Share of the incoming picture that is the last painting, moved as the next parameters say.",
        low=0.0,
        high=0.95,
        step=0.05,
        acts_with=("task", ("img2img",)),
    )
    feedback_zoom: float = _param(1.0, "float", "Zoom of the last painting, per frame.", low=0.5, high=2.0, step=0.01)
    feedback_rotate: float = _param(
        0.0,
        "float",
        "Turn of the last painting, counter-clockwise, per frame.",
        unit="degrees",
        low=-45.0,
        high=45.0,
        step=0.5,
    )
    feedback_x: float = _param(
        0.0, "float", "Move of the last painting to the right, in widths, per frame.", low=-0.5, high=0.5, step=0.01
    )
    feedback_y: float = _param(
        0.0, "float", "Move of the last painting upwards, in heights, per frame.", low=-0.5, high=0.5, step=0.01
    )
    feedback_hue: float = _param(
        0.0,
        "float",
        "Turn of the last painting's colours, red towards green, per frame.",
        unit="degrees",
        low=-180.0,
        high=180.0,
        step=1.0,
    )
    feedback_saturation: float = _param(
        1.0,
        "float",
        "The last painting's colours so many times as far from grey, per frame.",
        unit="times",
        low=0.0,
        high=2.0,
        step=0.01,
    )
    feedback_brightness: float = _param(
        1.0,
        "float",
        "The last painting so many times as bright, per frame; trails fade to black below 1.",
        unit="times",
        low=0.5,
        high=1.5,
        step=0.01,
    )
    control_1: float = _control("first", "Strength of", 1.0, 2.0)
    control_1_start: float = _control("first", "Share of the steps before those of", 0.0, 1.0)
    control_1_end: float = _control("first", "Share of the steps after which there are none of", 1.0, 1.0)
    control_2: float = _control("second", "Strength of", 1.0, 2.0)
    control_2_start: float = _control("second", "Share of the steps before those of", 0.0, 1.0)
    control_2_end: float = _control("second", "Share of the steps after which there are none of", 1.0, 1.0)
    control_net_1: str = _added("first", "ControlNet", "--controls")
    control_net_2: str = _added("second", "ControlNet", "--controls")
    lora_1: float = _lora("first")
    lora_2: float = _lora("second")
    lora_3: float = _lora("third")
    lora_4: float = _lora("fourth")
    lora_file_1: str = _added("first", "LoRA", "--loras")
    lora_file_2: str = _added("second", "LoRA", "--loras")
    lora_file_3: str = _added("third", "LoRA", "--loras")
    lora_file_4: str = _added("fourth", "LoRA", "--loras")
    reference: str = _param(
        AS_STARTED,
        "str",
        "The picture that the model is shown beside the prompt: as started, or by its name one that the host was given"
        " (--reference).",
        high=MAX_NAME_CHARS,
    )
    reference_scale: float = _param(
        0.6,
        "float",
        "How much the reference picture counts beside the prompt, where the host has an IP-Adapter (--ip-adapter).",
        low=0.0,
        high=1.5,
        step=0.05,
    )
    paused: bool = _param(False, "bool", "Hold the last picture and let the device sleep.")

    def with_values(self, /, **values: Any) -> Params:
        """A checked copy with the named fields replaced.

        Raises `ParamError` for an unknown name, a wrong type or a value out of range; nothing is changed then.
        """
        checked = {}
        for name, value in values.items():
            spec = SPECS.get(name)
            if spec is None:
                raise ParamError(f"{name}: no such parameter; use one of {', '.join(SPECS)}")
            checked[name] = spec.check(value)
        return replace(self, **checked)

    def loras(self, count: int) -> tuple[float, ...]:
        """The weights of the first so many LoRAs."""
        return tuple(getattr(self, name) for name in LORAS[:count])

    def control_strengths(self, stage: int, count: int) -> tuple[float, ...]:
        """Of the first so many ControlNets at a stage: none where it does not lie as a whole between start and end, as
        diffusers has it."""
        stages = len(self.stages())
        strengths = []
        for name in CONTROLS[:count]:
            start, end = (getattr(self, f"{name}_{edge}") for edge in ("start", "end"))
            acts = start <= stage / stages and (stage + 1) / stages <= end
            strengths.append(getattr(self, name) if acts else 0.0)
        return tuple(strengths)

    def stages(self) -> tuple[int, ...]:
        """The t-indices that a frame passes, first (noisiest) to last.

        Derived from strength and steps when `t_index` is empty: the start is (1 - strength) of the grid and the
        stages are spread evenly over the rest, so strength 0.64 gives 18 for one step and 18, 26, 34, 42 for four.
        """
        if self.t_index:
            return self.t_index
        start = min(STAGE_GRID - 1, round((1.0 - self.strength) * STAGE_GRID))
        span = STAGE_GRID - start
        picked = [start + (i * span) // self.steps for i in range(self.steps)]
        return tuple(dict.fromkeys(picked))


def _spec_of(f: Field[Any]) -> Spec:
    assert f.default is not MISSING
    return Spec(name=f.name, default=f.default, **f.metadata)


SPECS: dict[str, Spec] = {f.name: _spec_of(f) for f in fields(Params)}


def size_of(size: tuple[int, ...]) -> tuple[int, int] | None:
    """(width, height) in pixels that `Params.size` asks for; None where it asks for none."""
    return (size[0], size[-1]) if size else None


CONTROLS = tuple(f"control_{number}" for number in range(1, MAX_CONTROLS + 1))
"""The parameters with the ControlNets' strengths, in the order in which they are given."""

LORAS = tuple(f"lora_{number}" for number in range(1, MAX_LORAS + 1))
"""The parameters with the LoRAs' weights, in the order in which they are given."""

CONTROL_NETS = tuple(f"control_net_{number}" for number in range(1, MAX_CONTROLS + 1))
LORA_FILES = tuple(f"lora_file_{number}" for number in range(1, MAX_LORAS + 1))
"""The parameters that say which ControlNets and which LoRAs there are."""

REFERENCE = ("reference", "reference_scale")
"""The parameters of the IP-Adapter."""

_EDGES = ("start", "end")

GUIDANCE_TOLD = 8.0
"""The guidance scale that models distilled with one (LCM) are shown with, by their authors' examples."""


def params_for(model: str) -> Params:
    """What to start with. The embedded model repaints in one step from little noise; models trained in the usual way
    want more of both. A model that is told the guidance scale (`time_cond_proj_dim`) was never trained with one as
    small as the default."""
    # The autoencoder says what was trained as the embedded model was: one that has been taught a look.
    taught = _setting(located(model), "vae", "_class_name") == "PatchAutoencoder"
    if taught or model in ("embedded", "passthrough"):
        return Params()
    usual = Params(strength=0.5, steps=2)
    return replace(usual, guidance_scale=GUIDANCE_TOLD) if is_told_guidance(located(model)) else usual


def is_told_guidance(folder: Path) -> bool:
    """Whether a model's U-Net reads the guidance scale beside the timestep; False for a folder that cannot be read."""
    return bool(_setting(folder, "unet", "time_cond_proj_dim"))


def _setting(folder: Path, part: str, name: str) -> Any:
    """What a part's config.json says; None where it says nothing or cannot be read."""
    try:
        config = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return config.get(name) if isinstance(config, dict) else None


def specs_for(
    model: str,
    loras: Sequence[str] = (),
    controls: Sequence[str] = (),
    references: Sequence[str] = (),
    additions: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> tuple[Spec, ...]:
    """What the outside may know of the parameters where a host runs this model, changed by LoRAs of these names ("":
    none there), steered by these ControlNets, and shown one of these pictures, none where it has no IP-Adapter.
    additions: what those of `CONTROL_NETS` and `LORA_FILES` may be that may be changed. A model that is told the
    guidance scale is so with every kind of guidance."""
    named = {
        spec: replace(SPECS[spec], title=f"LoRA {name}", help=f"Weight of the LoRA {name}.", main=True)
        for spec, name in zip(LORAS, loras, strict=False)
        if name
    }
    named |= {name: replace(SPECS[name], kind="choice", choices=tuple(choices)) for name, choices in additions.items()}
    for spec, name in zip(CONTROLS, controls, strict=False):
        title = f"Control by {name}"
        named[spec] = replace(SPECS[spec], title=title, help=f"Strength of the ControlNet by {name}.", main=True)
        named |= {f"{spec}_{edge}": replace(SPECS[f"{spec}_{edge}"], title=f"{title}: {edge}") for edge in _EDGES}
    if references:
        named["reference"] = replace(SPECS["reference"], kind="choice", choices=tuple(references), main=True)
        named["reference_scale"] = replace(SPECS["reference_scale"], main=True)
    edges = ("", *(f"_{edge}" for edge in _EDGES))
    own = (*LORAS, *REFERENCE, *CONTROL_NETS, *LORA_FILES, *(f"{name}{edge}" for name in CONTROLS for edge in edges))
    specs = tuple(named.get(spec.name, spec) for spec in SPECS.values() if spec.name in named or spec.name not in own)
    if model in ("embedded", "passthrough") or not is_told_guidance(located(model)):
        return specs
    scale = replace(SPECS["guidance_scale"], default=GUIDANCE_TOLD, acts_with=None)
    return tuple(scale if spec.name == scale.name else spec for spec in specs)
