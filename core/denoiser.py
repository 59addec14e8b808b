"""One signature for whatever predicts the noise, and the U-Net behind it.

The stream knows only `Denoiser`: rows of noisy latents, their timesteps and their text in, the noise estimate out. What
the model really predicts (epsilon, v or the clean sample), its dtype, and where the cross-attention keys and values
come from stays in here.

Shapes: R rows, c h w latent, N text tokens, C embedding width, P prompts, H heads, D head width, T tokens of a picture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from core.backend import Call
from core.bank import BankInputs, Form, Layer, Memory, Read, Reader, emptied, may_hold, partitions, read, written
from core.guidance import POSITIVE, ROLES, Row, guidance_embedding
from core.lora import LORA, Scales, scaled, scales_of
from core.params import Params
from core.schedule import NoiseSchedule
from core.text import Embedding
from core.tree import mapped, stack


@dataclass(frozen=True)
class PromptText:
    """One prompt as the denoiser wants it, computed once per prompt.

    embedding: the text encoder's output. keys_values: (k_HND, v_HND) per cross-attention layer, in the model's own
    layer order; empty for a denoiser that projects in every call.
    """

    embedding: Embedding
    keys_values: tuple[tuple[Tensor, Tensor], ...] = ()


class RowInputs(NamedTuple):
    """What the rows of a U-Net call read beside latents and timesteps; a tree, so `core.tree.part` of it is that of
    some rows. embedding (R, ...), keys_values (k_RHND, v_RHND) per layer: of the prompts, and (k_RHTD, v_RHTD) after
    them of the reference picture, where the model is shown one. planes: what a client sent
    with its picture, (R, ...) by the names of `Denoiser.planes`. bank: `core.bank.BankInputs`, or () without a bank.
    strengths: of the ControlNets, (R, n), or () where none acts."""

    embedding: Embedding
    keys_values: tuple[tuple[Tensor, ...], ...] = ()
    planes: Mapping[str, Tensor] = {}
    bank: Any = ()
    strengths: Any = ()


class PlaneInput(NamedTuple):
    """How a denoiser takes a plane. shape: of what it reads of one frame. read: plane (F, H, W, ...) to (F, *shape).
    source: the plane's name, "colour" for the picture; empty where it is that under which the denoiser has it."""

    shape: tuple[int, ...]
    read: Callable[[Tensor], Tensor]
    source: str = ""


class Denoiser(Protocol):
    """Predicts the noise in rows of latents. `prompt`, `rows` and `memory` are set-up verbs: they may allocate and
    compute.

    planes: those of the client's planes that it reads, by name. Each is read once, when its frame comes in, and travels
    with the frame; of a frame that lacks it, zeros do.
    """

    planes: Mapping[str, PlaneInput]

    def prompt(self, embedding: Embedding) -> PromptText:
        """Prepare one prompt."""

    def rows(self, prompts: Sequence[PromptText], rows: Sequence[Row], params: Params) -> RowInputs:
        """Lay prompts out: row r reads prompts[r]."""

    def with_scale(self, inputs: RowInputs, scale: float) -> RowInputs:
        """The same rows under another guidance scale; a set-up verb too. Most denoisers do not read it."""

    def prepare(self, rows: int) -> None:
        """Make ready for calls of some of the rows that were laid out, so many, without memory; a set-up verb too."""

    def memory(self, rows: Sequence[Row], params: Params) -> Any:
        """What it remembers of such rows before their first call: a tree of tensors (R, ...), or None for nothing."""

    def __call__(self, x_Rchw: Tensor, t_R: Tensor, inputs: RowInputs, memory: Any) -> tuple[Tensor, Any]:
        """Noise estimate, float32 (R, c, h, w), of float32 latents at integer timesteps t_R, and what it remembers for
        the next call of these rows. `memory` belongs to the caller and is not written to."""


# What the network's output means, as noise: with x = a x0 + b e and v = a e - b x0 (Salimans and Ho 2022, section 4).
Prediction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": lambda out, x, a, b: out,
    "v_prediction": lambda out, x, a, b: a * out + b * x,
    "sample": lambda out, x, a, b: (x - a * out) / b,
}


class _CrossAttention:
    """diffusers attention processor that reads keys and values prepared for the prompt, if there are any.

    Takes the place of AttnProcessor2_0 on cross-attention layers of the plain kind that `supports` describes.
    """

    def __init__(self, layer: int) -> None:
        self._layer = layer

    @staticmethod
    def supports(attn: Any) -> bool:
        return (
            attn.group_norm is None
            and attn.spatial_norm is None
            and attn.norm_q is None
            and attn.norm_k is None
            and not attn.norm_cross
            and not attn.residual_connection
        )

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        prepared: tuple[tuple[Tensor, ...], ...] = (),
        bank: Reader | None = None,
    ) -> Tensor:
        query = heads_first(attn.to_q(hidden_states), attn.heads)
        key, value, *picture = prepared[self._layer] if prepared else keys_values(attn, encoder_hidden_states)
        mixed = nnf.scaled_dot_product_attention(query, key, value)
        if picture:
            mixed = mixed + nnf.scaled_dot_product_attention(query, picture[0], picture[1])
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2)) / attn.rescale_output_factor


class _Other:
    """The processor of any other attention layer: as `inner` has it. diffusers hands what is prepared to all of them
    and would warn of it in every call. bank_layer, coarse: of a self-attention layer that can read a bank."""

    def __init__(self, inner: Any, bank_layer: int | None = None, coarse: bool = False) -> None:
        self.inner = inner
        self._bank_layer = bank_layer
        self._coarse = coarse

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        prepared: tuple[tuple[Tensor, ...], ...] = (),
        bank: Reader | None = None,
    ) -> Tensor:
        if bank is None or self._bank_layer is None:
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return bank.attend(attn, self._bank_layer, hidden_states, self._coarse)


def heads_first(x_RNC: Tensor, heads: int) -> Tensor:
    """(R, N, H D) to (R, H, N, D)."""
    return x_RNC.unflatten(-1, (heads, -1)).transpose(1, 2)


def keys_values(attn: Any, embedding_RNC: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (R, H, N, D) of one cross-attention layer."""
    return heads_first(attn.to_k(embedding_RNC), attn.heads), heads_first(attn.to_v(embedding_RNC), attn.heads)


PICTURE, PICTURE_SCALE = "picture", "picture scale"
"""Among an embedding's others: the tokens (T, C) of the reference picture and their weight (1), where keys and values
are not prepared."""


def picture_keys_values(attn: Any, tokens_RTC: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (R, H, T, D) of one cross-attention layer, of a picture's tokens; see `core.image_prompt`."""
    return heads_first(attn.to_k_ip(tokens_RTC), attn.heads), heads_first(attn.to_v_ip(tokens_RTC), attn.heads)


def prepared(cross: Sequence[Any], embedding: Embedding, loras: Scales | None) -> tuple[tuple[Tensor, ...], ...]:
    """Keys and values (R, H, N, D) of each of the cross-attention layers, of an embedding (R, ...); those of a picture
    that is among its others after them."""
    with scaled(loras, embedding.others.get(LORA)):
        pairs = tuple(keys_values(attn, embedding.tokens) for attn in cross)
    if PICTURE not in embedding.others:
        return pairs
    tokens, scale = embedding.others[PICTURE], embedding.others[PICTURE_SCALE][:, :, None, None]
    pictures = [picture_keys_values(attn, tokens) for attn in cross]
    return tuple((*pair, k, scale * v) for pair, (k, v) in zip(pairs, pictures, strict=True))


SCALE = "guidance_scale"
"""Among an embedding's others: the guidance scale as a distilled U-Net reads it, see `guidance_embedding`."""


class UnetCall(nn.Module):
    """A diffusers UNet2DConditionModel as a function of tensors alone.

    cross: the cross-attention layers that take keys and values prepared for the prompt. banked: the names of the
    self-attention layers that can read a bank. loras: the weights of the LoRAs that change the layers, or None.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.loras = scales_of(unet)
        self.cross: list[Any] = []
        self.banked: list[str] = []
        for name, module in unet.named_modules():
            if not name.endswith((".attn1", ".attn2")):
                continue
            plain, given = _CrossAttention.supports(module), module.processor
            given = given.inner if isinstance(given, _Other) else given
            if plain and name.endswith(".attn2"):
                module.set_processor(_CrossAttention(len(self.cross)))
                self.cross.append(module)
            elif plain:
                module.set_processor(_Other(given, len(self.banked), Layer(name, 0, 0).coarse))
                self.banked.append(name)
            else:
                module.set_processor(_Other(given))

    def forward(
        self,
        x_Rchw: Tensor,
        t_R: Tensor,
        embedding: Embedding,
        keys_values: tuple[tuple[Tensor, ...], ...],
        bank: Reader | None = None,
        residuals: tuple[tuple[Tensor, ...], Tensor] | None = None,
    ) -> Tensor:
        """The network's output (R, c, h, w). embedding: (R, ...). keys_values: per layer as in `RowInputs`, or empty.
        residuals: to be added to its own, of the way down and of the middle."""
        if not keys_values and PICTURE in embedding.others:
            keys_values = prepared(self.cross, embedding, self.loras)
        more: dict[str, Any] = {"prepared": keys_values} if keys_values else {}
        if bank is not None:
            more["bank"] = bank
        with scaled(self.loras, embedding.others.get(LORA)):
            return self.unet(
                x_Rchw,
                t_R,
                timestep_cond=embedding.others.get(SCALE),
                encoder_hidden_states=embedding.tokens,
                added_cond_kwargs=self.added(x_Rchw, embedding),
                cross_attention_kwargs=more or None,
                down_block_additional_residuals=None if residuals is None else residuals[0],
                mid_block_additional_residual=None if residuals is None else residuals[1],
                return_dict=False,
            )[0]

    def added(self, x_Rchw: Tensor, embedding: Embedding) -> dict[str, Tensor] | None:
        """What networks of a family read beside latent, timestep and tokens; none here."""
        return None


class BankedCall(nn.Module):
    """`UnetCall`, or `core.control.ControlledCall`, with a bank: (output, `core.bank.Fresh` per self-attention
    layer)."""

    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call

    def forward(
        self,
        x_Rchw: Tensor,
        t_R: Tensor,
        embedding: Embedding,
        keys_values: tuple[tuple[Tensor, ...], ...],
        bank: Read,
        *control: Any,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        reader = Reader(bank)
        return self.call(x_Rchw, t_R, embedding, keys_values, *control, bank=reader), tuple(reader.fresh)


@dataclass(frozen=True)
class Banks:
    """How a denoiser comes by a bank. layers: the self-attention layers that can read one. call(example, *control): the
    `BankedCall` as a back end runs it, for a bank (2 rows) like the example, and ControlNets where they act."""

    layers: tuple[Layer, ...]
    call: Callable[..., Call]


@dataclass(frozen=True)
class Steering:
    """The ControlNets of a denoiser. planes: what they read of a frame, in their order. example: of `controls` for two
    rows. call: `core.control.ControlledCall` as a back end runs it. controls(pictures, strengths): what it reads."""

    planes: Mapping[str, PlaneInput]
    example: Any
    call: Callable[[], Call]
    controls: Callable[[tuple[Tensor, ...], Tensor], Any]


class UnetDenoiser:
    """A diffusers UNet2DConditionModel as a `Denoiser`.

    call: `UnetCall` as a back end runs it. banks: of its self-attention, asked for when the parameters first want one;
    None where none can be had. cross: its layers. prediction: key of `PREDICTIONS`. dtype: of the weights.
    cache_text: project keys and values of a prompt once instead of once per call (StreamDiffusion, arXiv 2312.12491,
    appendix A.2); False is the plain twin. scale_width: of the embedding by which the network is told the guidance
    scale; 0 for a network that does not ask. planes: see `Denoiser`; the network finds them among the others of an
    embedding. loras: see `UnetCall`. steering: its ControlNets, or None; they read planes of their own. pictures: see
    `core.image_prompt.ImagePrompt.tokens`, or None for a network without layers for them.
    """

    def __init__(
        self,
        call: Call,
        cross: Sequence[Any],
        noise: NoiseSchedule,
        prediction: str,
        device: torch.device,
        dtype: torch.dtype,
        *,
        cache_text: bool = True,
        scale_width: int = 0,
        planes: Mapping[str, PlaneInput] = MappingProxyType({}),
        banks: Callable[[], Banks] | None = None,
        loras: Scales | None = None,
        steering: Steering | None = None,
        pictures: Callable[[str], Tensor] | None = None,
    ) -> None:
        self._network = call
        self._network_planes = tuple(planes)
        self._control_planes = () if steering is None else tuple(steering.planes)
        self.planes: Mapping[str, PlaneInput] = {**planes, **({} if steering is None else steering.planes)}
        self._loras = loras
        self._steering = steering
        self._pictures = pictures
        self._picture: tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]] | None = None
        self._steered = None if steering is None else functools.cache(steering.call)
        self._banks = None if banks is None else functools.cache(banks)
        self._banked: dict[tuple[Form, bool], Call] = {}
        self._orders: dict[int, Tensor] = {}
        self._cross = cross
        self._convert = PREDICTIONS[prediction]
        self._dtype = dtype
        alpha_bar = noise.alphas_cumprod_T.to(device)
        self._a_T = alpha_bar.sqrt().to(torch.float32)
        self._b_T = (1.0 - alpha_bar).sqrt().to(torch.float32)
        self._cache_text = cache_text
        self._scale_width = scale_width
        self.projections = 0
        """Number of prompts whose keys and values were computed so far."""

    @torch.inference_mode()
    def prompt(self, embedding: Embedding) -> PromptText:
        """See `Denoiser.prompt`."""
        embedding = mapped(lambda leaf: leaf.to(self._dtype), embedding)
        if not self._cache_text:
            return PromptText(embedding)
        self.projections += 1
        one = mapped(lambda leaf: leaf[None], embedding)
        pairs = prepared(self._cross, one, self._loras)
        return PromptText(embedding, tuple((k[0].contiguous(), v[0].contiguous()) for k, v in pairs))

    @torch.inference_mode()
    def rows(self, prompts: Sequence[PromptText], rows: Sequence[Row] = (), params: Params | None = None) -> RowInputs:
        """See `Denoiser.rows`. Where it is not said which rows they are, each is of the prompt itself."""
        texts = (stack([p.embedding for p in prompts]), stack([p.keys_values for p in prompts]))
        inputs = self.with_scale(RowInputs(*texts, self._blank(prompts)), 1.0)
        inputs = inputs._replace(strengths=self._strengths(rows, params))
        if self._pictures is not None:
            inputs = self._with_picture(inputs, rows, params or Params())
        steered = isinstance(inputs.strengths, Tensor)
        form = None if params is None or self._banks is None else Form.of(params)
        if params is None or form is None:
            (self._steered() if steered and self._steered else self._network).prepare(len(prompts))
            return inputs
        self._with_bank(form, params, steered).prepare(len(prompts))
        groups = [list(ROLES).index(row.role) for row in rows]
        return inputs._replace(bank=form.inputs(params, groups, self._a_T.device))

    @torch.inference_mode()
    def with_scale(self, inputs: RowInputs, scale: float) -> RowInputs:
        """See `Denoiser.with_scale`."""
        if not self._scale_width:
            return inputs
        tokens = inputs.embedding.tokens
        told = guidance_embedding(scale, self._scale_width).to(tokens).expand(len(tokens), -1).contiguous()
        others = {**inputs.embedding.others, SCALE: told}
        return inputs._replace(embedding=inputs.embedding._replace(others=others))

    def prepare(self, rows: int) -> None:
        """See `Denoiser.prepare`."""
        self._network.prepare(rows)

    def _with_picture(self, inputs: RowInputs, rows: Sequence[Row], params: Params) -> RowInputs:
        """The rows with the reference picture, or what stands for none in rows of the negative prompt."""
        assert self._pictures is not None
        tokens_2TC = self._pictures(params.reference)
        known = [row.role for row in rows] or [POSITIVE] * len(inputs.embedding.tokens)
        roles = torch.tensor([list(ROLES).index(role) for role in known], device=tokens_2TC.device)
        if not self._cache_text:
            others = {
                **inputs.embedding.others,
                PICTURE: tokens_2TC[roles].to(self._dtype),
                PICTURE_SCALE: torch.full((len(roles), 1), params.reference_scale).to(inputs.embedding.tokens),
            }
            return inputs._replace(embedding=inputs.embedding._replace(others=others))
        if self._picture is None or self._picture[0] is not tokens_2TC:
            tokens = tokens_2TC.to(self._dtype)
            self._picture = (tokens_2TC, tuple(picture_keys_values(attn, tokens) for attn in self._cross))
        pairs = [(k[roles], params.reference_scale * v[roles]) for k, v in self._picture[1]]
        texts = zip(inputs.keys_values, pairs, strict=True)
        return inputs._replace(keys_values=tuple((*text, *pair) for text, pair in texts))

    def _blank(self, prompts: Sequence[PromptText]) -> dict[str, Tensor]:
        """What is read of planes until a frame brings some."""
        device = self._a_T.device
        return {name: torch.zeros(len(prompts), *plane.shape, device=device) for name, plane in self.planes.items()}

    def _strengths(self, rows: Sequence[Row], params: Params | None) -> Any:
        """Of the ControlNets for each row; () where none acts on any."""
        if params is None or not self._control_planes:
            return ()
        strengths = [params.control_strengths(row.stage, len(self._control_planes)) for row in rows]
        return torch.tensor(strengths, device=self._a_T.device) if any(map(any, strengths)) else ()

    def _controls(self, inputs: RowInputs) -> tuple[Any, ...]:
        """What a call reads of the ControlNets, where one acts."""
        if self._steering is None or not isinstance(inputs.strengths, Tensor):
            return ()
        return (self._steering.controls(tuple(inputs.planes[name] for name in self._control_planes), inputs.strengths),)

    def _with_bank(self, form: Form, params: Params, steered: bool) -> Call:
        assert self._banks is not None
        if (form, steered) not in self._banked:
            banks, device = self._banks(), self._a_T.device
            example = read(
                form.empty(banks.layers, 2, device, self._dtype), form.inputs(params, (0, 0), device), len(banks.layers)
            )
            control = (self._steering.example,) if steered and self._steering else ()
            self._banked[form, steered] = banks.call(example, *control)
            self._orders.update({layer.tokens: partitions(layer.tokens, device) for layer in banks.layers})
        return self._banked[form, steered]

    @torch.inference_mode()
    def memory(self, rows: Sequence[Row], params: Params | None = None) -> Any:
        """See `Denoiser.memory`: the bank, where the parameters want one."""
        form = None if params is None or self._banks is None else Form.of(params)
        if form is None or self._banks is None:
            return None
        return form.empty(self._banks().layers, len(rows), self._a_T.device, self._dtype)

    def _remembering(self, x_Rchw: Tensor, t_R: Tensor, inputs: RowInputs, memory: Memory) -> tuple[Tensor, Memory]:
        bank: BankInputs = inputs.bank
        if isinstance(bank.cut, Tensor) and may_hold(bank.cut):
            memory = emptied(memory, bank.cut)
        given = read(memory, bank, len(self._banks().layers))  # type: ignore[misc]
        control = self._controls(inputs)
        call = self._banked[bank.form, bool(control)]
        out, fresh = call(x_Rchw, t_R, inputs.embedding, inputs.keys_values, given, *control)
        if memory.rolling and isinstance(bank.write, Tensor):
            memory = written(memory, fresh, bank.write, bank.form, self._orders)
        return out, memory

    @torch.inference_mode()
    def __call__(self, x_Rchw: Tensor, t_R: Tensor, inputs: RowInputs, memory: Any = None) -> tuple[Tensor, Any]:
        """See `Denoiser.__call__`."""
        if self._network_planes:
            read = {name: inputs.planes[name].to(self._dtype) for name in self._network_planes}
            embedding = inputs.embedding
            inputs = inputs._replace(embedding=embedding._replace(others={**embedding.others, **read}))
        if memory is None:
            control = self._controls(inputs)
            network = self._steered() if control and self._steered else self._network
            out = network(x_Rchw, t_R, inputs.embedding, inputs.keys_values, *control)
        else:
            out, memory = self._remembering(x_Rchw, t_R, inputs, memory)
        a, b = (table[t_R].view(-1, 1, 1, 1) for table in (self._a_T, self._b_T))
        return self._convert(out, x_Rchw, a, b), memory
