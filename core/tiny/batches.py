"""Batches of the painter's training: drawn on the device from the shards that lie there.

Which shards a step uses depends on the step alone, and so does its batch: a run that was interrupted sees what an
uninterrupted one would have seen. Nothing of a batch is decided row by row in Python, or a card would wait for it; and
what differs between steps is read from tensors that stay where they are, so that a card can record a step once and
replay it for all others.

Shapes: B rows, T tokens, c h w latents.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.tiny.shards import (
    LARGE_PX,
    PROMPTS,
    SMALL_PX,
    Shard,
    ShardPart,
    Sizes,
    load_shard,
    path_of,
    save_shard,
    stream_of,
    tokens_of,
)

LONGEST_WAIT_S = 900.0


@dataclass(frozen=True)
class Batch:
    """Rows for one training step. source is what gets noised, target what has to come out of it; equal where `pair`
    is False. objects: (B, 1, h, w), as in `ShardPart`. t: timesteps. tokens: (B, T) of the prompts."""

    source: Tensor
    target: Tensor
    objects: Tensor
    pair: Tensor
    t: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Mix:
    """What a batch is made of. Shares are of the rows that they can apply to; t: training timesteps.

    picture_share: of synthetic pictures, which come first in a batch, arranged_share: of arranged scenes, which come
    last, the rest scenes. plain_share: of the scenes' rows, those that are noised themselves, at every t below plain_t.
    arranged_t: of the arranged, half of them from arranged_most_t on: text-to-image begins there. keep_share: of the
    pictures' rows, those that come out as they came, without a style. as_it_came_share, grey_share: of pairs, those
    whose source has not been filtered, or is a grey render."""

    rows: int = 32
    large_rows: int = 8
    large_every: int = 4
    picture_share: float = 0.6
    arranged_share: float = 0.2
    plain_share: float = 0.2
    plain_t: int = 900
    arranged_t: tuple[int, int] = (100, 1000)
    arranged_most_t: int = 900
    keep_share: float = 0.06
    as_it_came_share: float = 0.85
    grey_share: float = 0.6
    drop_share: float = 0.1
    pair_t: tuple[int, int] = (10, 420)
    focus_t: int = 160
    focus_share: float = 0.85

    def is_large(self, step: int) -> bool:
        """Whether a step takes whole large pictures instead of pieces of the small size."""
        return step % self.large_every == self.large_every - 1

    def arranged_rows(self, large: bool) -> int:
        """The last so many of a batch."""
        return round(self.arranged_share * (self.large_rows if large else self.rows))


class Shards:
    """The shards of a run on the device, as the training goes over them. make(number) is asked for those that are not
    there, unless other processes make them; then they are waited for.

    first, count: 0-d tensors, the numbers of the shards that the present step draws from."""

    def __init__(self, work: Path, sizes: Sizes, make: Callable[[int], Shard] | None, device: torch.device) -> None:
        self._work = work
        self._make = make
        self._device = device
        self._held: dict[int, None] = {}
        self._parts: dict[str, ShardPart] = {}
        self.sizes = sizes
        self.no_prompt = tokens_of([""]).to(device)
        self.first = torch.zeros((), dtype=torch.int64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def go_to(self, step: int) -> range:
        """Have those there that a step draws from, and older ones gone; the numbers."""
        numbers = self.sizes.used_at(step)
        for number in [n for n in self._held if n not in numbers]:
            del self._held[number]
            path_of(self._work, number).unlink(missing_ok=True)
        for number in numbers:
            if number not in self._held:
                self._take(number, self._fetch(number))
        self.first.fill_(numbers.start)
        self.count.fill_(len(numbers))
        return numbers

    def part(self, name: str) -> ShardPart:
        """All pictures of a kind, shard by shard: (window * N, ...). Shard n lies in place n modulo the window."""
        return self._parts[name]

    def _take(self, number: int, shard: Shard) -> None:
        window = self.sizes.window
        place = number % window
        for name, part in vars(shard).items():
            if name not in self._parts:
                empty = {
                    k: torch.empty((window * len(v), *v.shape[1:]), dtype=v.dtype, device=self._device)
                    for k, v in vars(part).items()
                }
                self._parts[name] = ShardPart(**empty)
            for key, value in vars(part).items():
                getattr(self._parts[name], key)[place * len(value) : (place + 1) * len(value)] = value
        self._held[number] = None

    def _fetch(self, number: int) -> Shard:
        path = path_of(self._work, number)
        if not path.exists() and self._make is not None:
            save_shard(path, self._make(number))
        until_s = time.monotonic() + LONGEST_WAIT_S
        while not path.exists():
            if time.monotonic() > until_s:
                raise TimeoutError(f"{path} was not made within {LONGEST_WAIT_S:.0f} s; see what its maker said above")
            time.sleep(0.5)
        return load_shard(path)


class _Dice:
    """Random numbers of the rows of a batch."""

    def __init__(self, generator: torch.Generator, rows: int) -> None:
        self.generator = generator
        self.rows = rows

    def share(self) -> Tensor:
        """(B,) in 0..1."""
        return torch.rand((self.rows,), generator=self.generator, device=self.generator.device)

    def below(self, high: int | Tensor) -> Tensor:
        """(B,) whole numbers from 0 to high - 1, of which there may be a few thousand."""
        return (self.share() * high).long().clamp(max=high - 1)

    def chance(self, share: float) -> Tensor:
        """(B,) bool, True for so many."""
        return self.share() < share


def _pair_timesteps(mix: Mix, dice: _Dice) -> Tensor:
    """Mostly where the product works, and there mostly at little noise."""
    low, high = mix.pair_t
    near = low + (mix.focus_t - low) * dice.share() ** 1.5
    anywhere = low + (high - low) * dice.share()
    return torch.where(dice.chance(mix.focus_share), near, anywhere).long()


def _plain_timesteps(mix: Mix, dice: _Dice, alone: bool) -> Tensor:
    """Of rows that are noised themselves. alone: arranged ones."""
    if not alone:
        return dice.below(mix.plain_t)
    low, high = mix.arranged_t
    first = mix.arranged_most_t + dice.below(high - mix.arranged_most_t)
    return torch.where(dice.chance(0.5), first, low + dice.below(high - low))


def _rows(shards: Shards, dice: _Dice, mix: Mix, kind: str, cells: int) -> tuple[Tensor, ...]:
    """source, target, objects, pair, t, tokens of `dice.rows` rows of one kind."""
    part, of_world, alone = shards.part(kind), kind != "pictures", kind.endswith("arranged")
    window, looks, side = shards.sizes.window, part.look.shape[1], part.latent.shape[-1]
    pictures = len(part.look) // window
    row = (shards.first + dice.below(shards.count)) % window * pictures + dice.below(pictures)
    # Masks are multiplied: a number beside a tensor would be copied to the card at every step.
    if of_world:
        to = dice.below(looks)
        pair = ~dice.chance(1.0 if alone else mix.plain_share)
        away = torch.where(pair, dice.below(looks) * ~dice.chance(mix.grey_share), to)
    else:
        kept = dice.chance(mix.keep_share)
        to = (1 + dice.below(looks - 1)) * ~kept
        away = dice.below(looks) * ~dice.chance(mix.as_it_came_share) * ~kept
        pair = torch.ones_like(kept)
    # Even offsets: the lattices of some filters are two cells wide.
    y, x = (2 * dice.below((side - cells) // 2 + 1)[:, None] + torch.arange(cells, device=row.device) for _ in "yx")
    channels = torch.arange(part.latent.shape[2], device=row.device)

    def piece(look: Tensor) -> Tensor:
        first = (row[:, None, None, None], look[:, None, None, None])
        return part.latent[(*first, channels[:, None, None], y[:, None, :, None], x[:, None, None, :])].float()

    objects = part.objects[row[:, None, None], y[:, :, None], x[:, None, :]][:, None].float()
    t = torch.where(pair, _pair_timesteps(mix, dice), _plain_timesteps(mix, dice, alone))
    dropped = ~pair & dice.chance(0.0 if alone else mix.drop_share)
    tokens = torch.where(dropped[:, None], shards.no_prompt, part.tokens[row, to, dice.below(PROMPTS)])
    return piece(away), piece(to), objects, pair, t, tokens.long()


def seed_of(seed: int, step: int) -> int:
    """Of all random numbers of one step."""
    return stream_of(seed, 4, step).randrange(2**62)


def draw(shards: Shards, generator: torch.Generator, mix: Mix, large: bool) -> Batch:
    """A batch of the shards that there are."""
    rows, cells = (mix.large_rows, LARGE_PX // 8) if large else (mix.rows, SMALL_PX // 8)
    pictures, alone = round(mix.picture_share * rows), mix.arranged_rows(large)
    scenes = ("large", "large_arranged") if large else ("world", "arranged")
    kinds = (("pictures", pictures), (scenes[0], rows - pictures - alone), (scenes[1], alone))
    drawn = [_rows(shards, _Dice(generator, count), mix, kind, cells) for kind, count in kinds if count]
    return Batch(*(torch.cat(pieces) for pieces in zip(*drawn, strict=True)))
