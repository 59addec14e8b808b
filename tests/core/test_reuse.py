"""Work that is not done again: equal to doing it where nothing changed, near it where something did, never stale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf

from core.guidance import GUIDANCE
from core.model import Model, load_model
from core.params import Params
from core.reuse import Cells, Kept, KeptRows, Window, part_rows, window_sizes
from core.stream import Stream, StreamConfig
from core.tiny import WEIGHTS
from core.world import World
from tests.random_model import SIZE_PX, random_frames, random_model

PX = 128
TOLERANCE = 4.0
WINDOW_MEAN_LEVELS, WINDOW_MOST_LEVELS = 1.0, 10.0
"""What a window's halo may cost, over the picture and at its worst place."""


@pytest.fixture(scope="module")
def embedded() -> Model:
    return load_model(Path(WEIGHTS), torch.device("cpu"), torch.float32, "eager")


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model()


def painted(stream: Stream, params: Params, frames: torch.Tensor) -> list[torch.Tensor]:
    """Pictures (H, W, 3), one a turn once they come."""
    plan, out = stream.plan(params), []
    for number, frame in enumerate(frames):
        picture = stream.step(frame[None], number, plan, {}, (number + 1,))
        if picture is not None:
            out.append(picture.frame_FHWC[0, ..., :3].float())
    return out


class Blur:
    """A network that reaches two elements far, and remembers how large a part it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self._kernel = torch.rand((3, 3, 5, 5), generator=torch.Generator().manual_seed(0))

    def __call__(self, x: torch.Tensor, *others: object) -> torch.Tensor:
        self.seen.append(tuple(x.shape[-2:]))  # type: ignore[arg-type]
        return nnf.conv2d(x, self._kernel, padding=2)

    def prepare(self, rows: int) -> None:
        """Ready at once."""


@pytest.mark.parametrize("place", [(0, 0), (0, 7), (8, 8), (15, 15), (15, 3), (6, 11)])
def test_a_window_gives_what_the_whole_would_where_the_halo_is_wide_enough(place):
    part, whole = Blur(), Blur()
    kept = Kept(whole, Cells(1, 1, 2, reach=2))
    kept.windows = [Window(12, 12, part)]
    x = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    kept(x, 0.0)
    for change in (1.0, -2.0):
        x = x.clone()
        x[..., place[0], place[1]] += change
        torch.testing.assert_close(kept(x, 0.0), whole(x), rtol=1e-5, atol=1e-5)
    assert kept.done == {"whole": 1, "window": 2, "nothing": 0}
    assert part.seen == [(12, 12), (12, 12)]


def test_what_does_not_fit_a_window_is_done_whole_and_what_is_not_a_number_counts_as_changed():
    kept = Kept(Blur(), Cells(1, 1, 2))
    kept.windows = [Window(12, 12, Blur())]
    x = torch.zeros((1, 3, 16, 16))
    kept(x, 1.0)
    corners = x.clone()
    corners[..., 0, 0] = corners[..., 15, 15] = 9.0
    assert torch.equal(kept(corners, 1.0), Blur()(corners))
    lost = corners.clone()
    lost[..., 8, 8] = float("nan")
    kept(lost, 1.0)
    kept(lost, 1.0)
    assert kept.done == {"whole": 2, "window": 2, "nothing": 0}


def test_sizes_of_windows_are_even_and_smaller_than_the_picture():
    assert window_sizes(16, 16) == [(8, 8), (12, 12)]
    assert window_sizes(2, 2) == []
    for rows, columns in window_sizes(18, 32):
        assert rows % 2 == columns % 2 == 0 and rows < 18 and columns < 32


@pytest.mark.parametrize("mode", ["throughput", "latency"])
@pytest.mark.parametrize("guidance", ["none", "self-negative", "onetime-negative"])
def test_a_picture_that_stands_still_costs_nothing_and_is_the_same_bit_by_bit(model, mode, guidance):
    frames = random_frames(1).repeat(9, 1, 1, 1)
    params = Params(strength=0.64, steps=3, mode=mode, guidance=guidance, guidance_scale=1.5, negative_prompt="green")
    plain = painted(model.stream(StreamConfig(SIZE_PX, SIZE_PX)), params, frames)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    reused = painted(stream, params.with_values(reuse=True, reuse_tolerance=0.0), frames)
    assert len(plain) == len(reused) == (9 if mode == "latency" else 7)
    for a, b in zip(plain, reused, strict=True):
        assert torch.equal(a, b)
    assert stream.reused["encode"] == {"whole": 1, "window": 0, "nothing": 8}
    assert stream.reused["decode"] == {"whole": 1, "window": 0, "nothing": len(plain) - 1}
    # In throughput mode all stages have the same picture from the third turn on.
    nothing = 6 if mode == "throughput" else 24
    assert stream.reused["denoise"] == {"whole": 3, "part": 0, "nothing": nothing}


@pytest.mark.parametrize("guidance", list(GUIDANCE))
@pytest.mark.parametrize("every", [2, 3])
def test_rows_alone_give_what_the_whole_batch_would(model, guidance, every):
    """A picture that changes in every second or third frame: part of the rows have another input in a turn."""
    frames = random_frames(4).repeat_interleave(every, 0)
    params = Params(steps=2, strength=0.64, guidance=guidance, guidance_scale=1.5, negative_prompt="green")
    plain = painted(model.stream(StreamConfig(SIZE_PX, SIZE_PX)), params, frames)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    reused = painted(stream, params.with_values(reuse=True, reuse_tolerance=0.5), frames)
    for a, b in zip(plain, reused, strict=True):
        # Another number of rows is another order of sums.
        assert (a - b).abs().max() <= 1.0 and (a - b).abs().mean() < 0.01
    done = stream.reused["denoise"]
    assert done["part"] == 7 and sum(done.values()) == len(frames)


def test_of_rows_those_that_changed_are_computed_and_no_more_than_half():
    kept, seen = KeptRows(), []
    turn = object()

    def run(x: torch.Tensor, turn: object = turn) -> torch.Tensor:
        def make(rows):
            seen.append(list(range(5))[rows] if isinstance(rows, slice) else rows)
            return 2.0 * x[rows]

        return kept.of(0, turn, x, 4.0, make)

    x = torch.rand((5, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(run(x), 2.0 * x) and torch.equal(run(x), 2.0 * x)
    for changed in ([3], [0, 2, 4], [1, 2], [0, 1, 2, 3]):
        x = x.clone()
        x[changed] += 1.0
        before = run(x)
        assert torch.equal(before, 2.0 * x)
    run(x, object())
    everything = [0, 1, 2, 3, 4]
    assert seen == [everything, [0, 1, 3], [0, 2, 4], [0, 1, 2], everything, everything]
    assert kept.done == {"whole": 3, "part": 3, "nothing": 1}
    assert [part_rows(n) for n in range(1, 6)] == [0, 1, 2, 2, 3]


def actor(frames: int) -> torch.Tensor:
    """(N, PX, PX, 3): a scene of which a bright square moves, in front of a camera that stands still."""
    scene = World(11).render(1.0, PX, PX)["colour"]
    out = scene.repeat(frames, 1, 1, 1)
    for number in range(frames):
        out[number, 40:56, 30 + number : 46 + number] = torch.tensor([250, 240, 90], dtype=torch.uint8)
    return out


def test_windows_of_the_embedded_model_are_near_the_whole(embedded):
    frames = actor(10)
    params = Params(prompt="comic style, red sphere")
    plain = painted(embedded.stream(StreamConfig(PX, PX)), params, frames)
    stream = embedded.stream(StreamConfig(PX, PX))
    reused = painted(stream, params.with_values(reuse=True, reuse_tolerance=TOLERANCE), frames)
    assert stream.reused["encode"]["window"] == 9
    assert stream.reused["decode"]["window"] >= 5
    for a, b in zip(plain, reused, strict=True):
        assert (a - b).abs().mean() <= WINDOW_MEAN_LEVELS
    # Where the change is: a picture of before would be far off.
    box = (slice(40, 56), slice(30, 56))
    moved = (plain[-1][box] - plain[0][box]).abs().mean()
    late = (plain[-1][box] - reused[-1][box]).abs().mean()
    assert moved > 10.0 and late < 0.2 * moved


def test_the_autoencoders_windows_alone_stay_within_their_bound(embedded):
    stream, twin = (embedded.stream(StreamConfig(PX, PX)) for _ in range(2))
    stream.plan(Params(reuse=True))
    codec, plain = stream._codec, twin._codec
    for frame in actor(8):
        latent = plain.encode(frame[None])
        assert (codec.encode(frame[None], 0.0) - latent).abs().mean() < 0.02
        apart = (codec.levels(latent, 0.0) - plain.levels(latent)).abs()
        assert apart.mean() <= WINDOW_MEAN_LEVELS and apart.max() <= WINDOW_MOST_LEVELS
    assert codec.encoder.done["window"] == 7


def test_a_slow_fade_is_followed_at_the_tolerance(model):
    """Each frame differs by less than the tolerance from the one before; after some the picture has changed."""
    grey = torch.arange(60, 100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, SIZE_PX, SIZE_PX, 3).contiguous()
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    plan = stream.plan(Params(reuse=True, reuse_tolerance=4.5))
    whole = []
    for number, frame in enumerate(grey):
        stream.step(frame[None], number, plan, {}, (number + 1,))
        whole.append(stream.reused["encode"]["whole"])
    # Four levels are within the tolerance, the fifth is not.
    assert whole == [1 + number // 5 for number in range(40)]


def test_noise_of_a_camera_counts_as_standing_still_within_the_tolerance(model):
    generator = torch.Generator().manual_seed(0)
    still = random_frames(1).float()
    frames = torch.cat([(still + 2.0 * torch.randn(still.shape, generator=generator)) for _ in range(8)])
    frames = frames.round().clamp(0, 255).to(torch.uint8)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    out = painted(stream, Params(reuse=True, reuse_tolerance=TOLERANCE), frames)
    assert stream.reused["encode"]["nothing"] == 7
    assert all(torch.equal(picture, out[0]) for picture in out)


@pytest.mark.parametrize(
    "values",
    [{"prompt": "green box"}, {"seed": 9}, {"steps": 3}, {"guidance_scale": 1.9}, {"mode": "latency"}, {"seed": -1}],
)
def test_whatever_else_changes_is_seen_in_the_next_picture(model, values):
    frames = random_frames(1).repeat(5, 1, 1, 1)
    params = Params(prompt="red ball", strength=0.64, steps=2, guidance="self-negative", guidance_scale=1.3)
    pictures = {}
    for reuse in (False, True):
        torch.manual_seed(0)
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        first = params.with_values(reuse=reuse, reuse_tolerance=0.0)
        pictures[reuse] = painted(stream, first, frames) + painted(stream, first.with_values(**values), frames)
    for a, b in zip(*pictures.values(), strict=True):
        assert torch.equal(a, b)


def test_a_bank_and_changing_noise_are_not_reused_by_the_denoiser(model):
    frames = random_frames(1).repeat(6, 1, 1, 1)
    for values in ({"temporal": "bank"}, {"seed": -1}):
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        painted(stream, Params(strength=0.64, steps=2, reuse=True, reuse_tolerance=0.0, **values), frames)
        assert stream.reused["denoise"]["nothing"] == 0
        assert stream.reused["encode"]["nothing"] == 5


def test_reuse_goes_with_motion_and_can_be_switched_while_frames_come(model):
    frames = random_frames(1).repeat(6, 1, 1, 1)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    params = Params(strength=0.64, steps=2, temporal="flow", reuse_tolerance=0.0)
    for reuse in (True, False, True):
        stream.plan(params)
        out = painted(stream, params.with_values(reuse=reuse), frames)
        plain = painted(model.stream(StreamConfig(SIZE_PX, SIZE_PX)), params, frames)
        assert (out[-1] - plain[-1]).abs().max() <= 1.0
