"""The feature bank: what self-attention remembers of the frames before, row by row of a U-Net batch.

Source: StreamV2V (arXiv 2405.15757). Section 3.2, extended self-attention: keys and values of earlier frames are read
beside those of this one. Section 3.3, feature fusion: an attention output is drawn towards the most similar one of the
bank. Section 3.4, dynamic merging: a full bank takes a new frame by merging the most similar keys. A row of Stream
Batch always works at one noise level, so that its bank holds features of that level alone.

Beyond the source, each by a setting that can be turned off: an empty place is masked, a row starts with its first real
frame, merged tokens weigh as many as they stand for (proportional attention: Token Merging, arXiv 2210.09461, section
3), the first frame of a take stays (a sink), partitions are seeded.

Everything about it is a tensor with a first axis of rows, so that a back end records the call with the bank as an input
and this frame's features as an output. Merging happens outside of the recorded call, on the frames that are kept alone.

Shapes: R rows, N tokens of a layer, T banked tokens, C channels, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.params import Params
from core.tree import mapped

FUSED = ("mid_block", "up_blocks.0", "up_blocks.1")
"""Where in a U-Net attention outputs are fused, and where a sink is kept: the coarse layers (as in the source)."""
PARTITIONS = 16
"""So many ways of splitting tokens into those that are merged and those that they are merged into take turns."""
EMPTY = -1e4
"""Attention logit of an empty place; half precision holds it."""


class Slots(NamedTuple):
    """Banked tokens of one layer. key, value: (R, T, C), before heads are split. size (R, T): how many tokens of a
    frame each stands for; 0 is an empty place. output: after the layer's projection, before fusion, (R, T, C), or ()
    where nothing is fused."""

    key: Tensor
    value: Tensor
    size: Tensor
    output: Any = ()


class Fresh(NamedTuple):
    """What a layer made of this frame, as `Slots` without sizes."""

    key: Tensor
    value: Tensor
    output: Any = ()


class Memory(NamedTuple):
    """The bank of some rows. rolling: per layer. sink: per layer, () where none is kept. writes (R,): how many frames
    each row has taken in. bias: per layer, what the sizes are as logits, see `_biases`."""

    rolling: tuple[Slots, ...]
    sink: tuple[Any, ...]
    writes: Tensor
    bias: tuple[Tensor, ...] = ()


class BankInputs(NamedTuple):
    """What the rows of a call read of the parameters. form: of their bank. strength, threshold: of fusion, (R, 1).
    group (R, 1): rows with the same number read one another's tokens, or () where none does. cut, write: (R, 1), 1 for
    a row whose frame is the first after a cut, and for one whose frame is taken in, or ()."""

    form: Form
    strength: Tensor
    threshold: Tensor
    group: Any
    cut: Any = ()
    write: Any = ()


class Read(NamedTuple):
    """What a recorded call reads of a bank: `BankInputs` and, per layer, slots one after the other, without their
    sizes, and `Memory.bias`, or () where there are none."""

    strength: Tensor
    threshold: Tensor
    group: Any
    layers: tuple[tuple[Fresh, ...], ...]
    bias: tuple[Any, ...]


@dataclass(frozen=True)
class Layer:
    """A self-attention layer: its name in the U-Net, tokens and channels at the stream's size."""

    name: str
    tokens: int
    channels: int

    @property
    def coarse(self) -> bool:
        return any(part in self.name for part in FUSED)


@dataclass(frozen=True)
class Form:
    """The shape of a bank: what cannot change without another recorded call. frames: places of a frame each; 0: no
    bank, 1 with merged: a new frame is merged into the one place there is. wide: rows read one another."""

    frames: int
    merged: bool = False
    sink: bool = False
    sizes: bool = False
    fused: bool = False
    wide: bool = False

    @classmethod
    def of(cls, params: Params) -> Form | None:
        """What the parameters ask for; None for nothing."""
        if params.temporal != "bank":
            return cls(0, wide=True) if params.batch_attention else None
        merged = params.bank == "merged"
        return cls(
            1 if merged else params.bank_frames,
            merged,
            params.bank_sink,
            merged and params.bank_sizes,
            params.bank_fusion > 0.0,
            params.batch_attention,
        )

    def empty(self, layers: Sequence[Layer], rows: int, device: torch.device, dtype: torch.dtype) -> Memory:
        """The memory of rows that have seen nothing."""

        def slots(layer: Layer, tokens: int) -> Slots:
            room = torch.zeros((rows, tokens, layer.channels), device=device, dtype=dtype)
            output = room.clone() if self.fused and layer.coarse else ()
            return Slots(room, room.clone(), torch.zeros((rows, tokens), device=device), output)

        rolling = tuple(slots(layer, layer.tokens * self.frames) for layer in layers) if self.frames else ()
        sink = tuple(slots(layer, layer.tokens) if layer.coarse else () for layer in layers) if self.sink else ()
        writes = torch.zeros(rows, dtype=torch.long, device=device)
        return Memory(rolling, sink, writes, _biases(rolling, sink, [layer.tokens for layer in layers]))

    def inputs(self, params: Params, groups: Sequence[int], device: torch.device) -> BankInputs:
        """Settings as the rows read them; groups: of the rows, for `BankInputs.group`."""

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        rows = len(groups)
        return BankInputs(
            self,
            column([params.bank_fusion] * rows),
            column([params.bank_threshold] * rows),
            column([float(g) for g in groups]) if self.wide else (),
        )


def read(memory: Memory, inputs: BankInputs, layers: int) -> Read:
    """What the recorded call is given."""

    def of(number: int) -> tuple[Fresh, ...]:
        slots = (kept[number] for kept in (memory.rolling, memory.sink) if kept and kept[number])
        return tuple(Fresh(one.key, one.value, one.output) for one in slots)

    bias = memory.bias or ((),) * layers
    return Read(inputs.strength, inputs.threshold, inputs.group, tuple(of(i) for i in range(layers)), bias)


def _biases(rolling: Sequence[Slots], sink: Sequence[Any], tokens: Sequence[int]) -> tuple[Tensor, ...]:
    """Per layer, (R, N + T): what is added to the logits of a frame's own tokens, of which there are so many, and of
    the banked ones. Made when sizes change, as most calls find them as they were."""

    def of(layer: int) -> Tensor:
        size = torch.cat([kept[layer].size for kept in (rolling, sink) if kept and kept[layer]], 1)
        banked = torch.where(size > 0, size.clamp_min(1e-6).log(), EMPTY)
        return nnf.pad(banked, (tokens[layer], 0))

    return tuple(of(layer) for layer in range(len(rolling)))


def _with_biases(rolling: tuple[Slots, ...], sink: tuple[Any, ...], writes: Tensor, before: Memory) -> Memory:
    own = [
        b.shape[1] - sum(k[i].size.shape[1] for k in (rolling, sink) if k and k[i]) for i, b in enumerate(before.bias)
    ]
    return Memory(rolling, sink, writes, _biases(rolling, sink, own))


# ---- in the recorded call ------------------------------------------------------------------------------------------


class Reader:
    """A bank as the attention layers of one call read it, and what they leave. fresh: per layer."""

    def __init__(self, given: Read) -> None:
        self._given = given
        self.fresh: list[Any] = [None] * len(given.layers)

    def attend(self, attn: Any, layer: int, hidden_RNC: Tensor, coarse: bool) -> Tensor:
        """Self-attention of one layer, extended and fused."""
        slots = self._given.layers[layer]
        query, key, value = attn.to_q(hidden_RNC), attn.to_k(hidden_RNC), attn.to_v(hidden_RNC)
        keys, values, bias = self._extended(key, value, slots, self._given.bias[layer])
        mixed = nnf.scaled_dot_product_attention(
            _heads(query, attn.heads),
            _heads(keys, attn.heads),
            _heads(values, attn.heads),
            attn_mask=bias[:, None, None].to(query.dtype),
        )
        out = attn.to_out[0](mixed.transpose(1, 2).flatten(2)) / attn.rescale_output_factor
        fused = coarse and bool(slots) and isinstance(slots[0].output, Tensor)
        # A plain tuple, which every back end can return.
        self.fresh[layer] = (key, value, out if fused else ())
        return self._fused(out, slots, self._given.bias[layer]) if fused else out

    def _extended(
        self, key: Tensor, value: Tensor, slots: tuple[Fresh, ...], banked: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values (R, M, C) that are read, and what is added to the logits of each, (R, M)."""
        keys, values, group = [key], [value], self._given.group
        bias = banked if isinstance(banked, Tensor) else torch.zeros_like(key[..., 0], dtype=torch.float32)
        if isinstance(group, Tensor):
            together = (group == group.T).to(torch.float32)
            others = (1.0 - together[..., None]).mul(EMPTY).expand(-1, -1, key.shape[1]).flatten(1)
            bias = torch.cat((others, bias[:, key.shape[1] :]), 1)
            keys = [key.flatten(0, 1)[None].expand(key.shape[0], -1, -1)]
            values = [value.flatten(0, 1)[None].expand(key.shape[0], -1, -1)]
        keys += [banked.key.to(key.dtype) for banked in slots]
        values += [banked.value.to(key.dtype) for banked in slots]
        return torch.cat(keys, 1), torch.cat(values, 1), bias

    def _fused(self, out: Tensor, slots: tuple[Fresh, ...], bias: Tensor) -> Tensor:
        """Drawn towards the banked output of highest cosine, where that is high enough (section 3.3)."""
        banked = torch.cat([s.output.to(out.dtype) for s in slots], 1)
        rows, tokens, _ = banked.shape
        full = bias[:, None, -tokens:] > 0.5 * EMPTY
        cosine = nnf.normalize(out.float(), dim=-1) @ nnf.normalize(banked.float(), dim=-1).transpose(1, 2)
        best, at = torch.where(full, cosine, -2.0).max(dim=-1)
        # By whole tokens, which takes a fifth of the time of `gather` in OpenVINO.
        at = at + tokens * torch.arange(rows, device=at.device)[:, None]
        picked = nnf.embedding(at, banked.flatten(0, 1))
        share = self._given.strength * (best >= self._given.threshold).to(torch.float32)
        return out + share[..., None].to(out.dtype) * (picked - out)


def _heads(x_RNC: Tensor, heads: int) -> Tensor:
    return x_RNC.unflatten(-1, (heads, -1)).transpose(1, 2)


# ---- between calls -------------------------------------------------------------------------------------------------


def partitions(tokens: int, device: torch.device) -> Tensor:
    """Orders (PARTITIONS, 2 N) of the tokens of two frames: the first half is merged into the second."""
    generator = torch.Generator().manual_seed(tokens)
    return torch.stack([torch.randperm(2 * tokens, generator=generator) for _ in range(PARTITIONS)]).to(device)


def emptied(memory: Memory, cut_R1: Tensor) -> Memory:
    """The memory, without what rows knew whose frame comes after a cut."""

    def forget(slots: Any) -> Any:
        return slots._replace(size=slots.size * (1.0 - cut_R1)) if slots else ()

    return _with_biases(tuple(map(forget, memory.rolling)), tuple(map(forget, memory.sink)), memory.writes, memory)


def may_hold(condition: Tensor) -> bool:
    """Whether it holds anywhere; on a card, where to look would be to wait for it, whether it could."""
    return condition.device.type != "cpu" or bool(condition.any())


def written(
    memory: Memory, fresh: Sequence[tuple[Any, ...]], write_R1: Tensor, form: Form, orders: dict[int, Tensor]
) -> Memory:
    """The memory with this frame taken in by the rows that `write_R1` says; the others keep theirs. orders: of
    `partitions`, by the number of tokens."""
    take = write_R1 > 0
    rolling: list[Slots] = []
    new_ones = [Fresh(*made) for made in fresh]
    for old, new in zip(memory.rolling, new_ones, strict=True):
        tokens = new.key.shape[1]
        ones = torch.ones_like(new.key[..., 0], dtype=torch.float32)
        incoming = Slots(new.key.to(old.key.dtype), new.value.to(old.key.dtype), ones, _cast(new.output, old.key.dtype))
        if form.merged:
            order = orders[tokens][memory.writes % PARTITIONS]
            after = _either(_blank(old)[:, None], incoming, _merged(old, incoming, order, form.sizes))
        else:
            after = mapped(lambda o, n: torch.cat((o, n), 1)[:, n.shape[1] :], old, incoming)
        rolling.append(_either(take, after, old))
    sink = tuple(
        _either(take & _blank(old)[:, None], _as_slots(new, old), old) if old else ()
        for old, new in zip(memory.sink, new_ones, strict=False)
    )
    return _with_biases(tuple(rolling), sink, memory.writes + take[:, 0], memory)


def _as_slots(new: Fresh, like: Slots) -> Slots:
    dtype = like.key.dtype
    return Slots(new.key.to(dtype), new.value.to(dtype), torch.ones_like(like.size), _cast(new.output, dtype))


def _cast(output: Any, dtype: torch.dtype) -> Any:
    return output.to(dtype) if isinstance(output, Tensor) else ()


def _blank(slots: Slots) -> Tensor:
    """Rows (R,) that hold nothing."""
    return slots.size.sum(1) == 0


def _either(condition_R1: Tensor, yes: Slots, no: Slots) -> Slots:
    if not may_hold(condition_R1):
        return no
    if not may_hold(~condition_R1):
        return yes
    return mapped(lambda a, b: torch.where(condition_R1[..., None] if a.dim() == 3 else condition_R1, a, b), yes, no)


def _merged(old: Slots, new: Slots, order_R2N: Tensor, sizes: bool) -> Slots:
    """N tokens out of 2 N: each of the first half in the order goes to the one of the second half whose key is most
    like its own, and they become their mean (section 3.4). With sizes the mean is weighted, and sizes add up, scaled so
    that the bank counts as one frame."""
    rows, tokens = order_R2N.shape[0], order_R2N.shape[1] // 2
    first_R1 = torch.arange(rows, device=order_R2N.device)[:, None]
    # Keys, values and outputs side by side, so that whole tokens are moved.
    widths = [leaf.shape[-1] for leaf in old if isinstance(leaf, Tensor) and leaf.dim() == 3]
    both = torch.cat([torch.cat([x for x in s if isinstance(x, Tensor) and x.dim() == 3], -1) for s in (old, new)], 1)
    ordered = both.flatten(0, 1).index_select(0, (order_R2N + 2 * tokens * first_R1).flatten()).float()
    source, target = ordered.unflatten(0, (rows, -1)).split(tokens, 1)
    size = torch.cat((old.size, new.size), 1).gather(1, order_R2N)
    size_s, size_t = (size if sizes else (size > 0).to(torch.float32)).split(tokens, 1)
    key_s, key_t = (nnf.normalize(x[..., : widths[0]], dim=-1) for x in (source, target))
    likeness = key_s @ key_t.transpose(1, 2)
    to = torch.where(size_t[:, None] > 0, likeness, -2.0).max(-1).indices
    total = size_t.scatter_add(1, to, size_s)
    at = (to + tokens * first_R1).flatten()[:, None].expand(-1, sum(widths))
    summed = (target * size_t[..., None]).flatten(0, 1).scatter_add_(0, at, (source * size_s[..., None]).flatten(0, 1))
    mean = summed.unflatten(0, (rows, -1)) / total.clamp_min(1e-6)[..., None]
    after = total * (tokens / total.sum(1, keepdim=True).clamp_min(1e-6)) if sizes else (total > 0).to(torch.float32)
    key, value, *output = (
        x.to(both.dtype, memory_format=torch.contiguous_format, copy=True) for x in mean.split(widths, -1)
    )
    return Slots(key, value, after, output[0] if output else ())


def bytes_of(memory: Memory) -> int:
    """Memory of a bank in bytes."""
    total = 0

    def add(leaf: Tensor) -> Tensor:
        nonlocal total
        total += leaf.numel() * leaf.element_size()
        return leaf

    mapped(add, memory)
    return total
