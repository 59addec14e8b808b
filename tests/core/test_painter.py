"""The recipe of the embedded model's painter, and what judges it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from core.model import load_model
from core.params import Params
from core.stream import StreamConfig
from core.tiny import AUTOENCODER
from core.tiny import train_painter as recipe
from core.tiny.arranged import arranged
from core.tiny.batches import Batch, Mix, Shards, draw, seed_of
from core.tiny.judge import as_bytes, filtered_pictures, trained_judge
from core.tiny.photographs import evaluate_photographs
from core.tiny.pictures import dead_leaves
from core.tiny.shards import (
    AS_IT_CAME,
    PROMPTS,
    UNKNOWN,
    Shard,
    Sizes,
    describe,
    make_shard,
    path_of,
    save_shard,
    stream_of,
)
from core.tiny.stage import Levels, Progress
from core.tiny.train_painter import (
    Painter,
    PainterSettings,
    _as_before,
    _evenly,
    _on_own_estimates,
    load_painter,
    train,
)
from core.tiny.vocabulary import TOKENS, build_tokenizer
from core.world import COLOUR_NAMES, SHAPES, STYLES, scenes_from_seeds
from core.world.filters import FILTERS, filtered
from core.world.scene import SLOT_SHAPES
from core.world.trace import FIRST_OBJECT, GROUND
from core.world.world import View

CPU = torch.device("cpu")

TOY = PainterSettings(
    steps=4,
    checkpoint_s=0.0,
    mix=Mix(rows=5, large_rows=2, large_every=2),
    sizes=Sizes(
        pictures=5,
        filters=2,
        world=4,
        large=2,
        arranged=3,
        large_arranged=1,
        looks=3,
        first=1,
        window=2,
        steps_per_shard=2,
    ),
)


def halved(x: torch.Tensor) -> torch.Tensor:
    """Stands for an encoder: 16 channels at an eighth."""
    return torch.nn.functional.avg_pool2d(x, 8).repeat(1, 6, 1, 1)[:, :16]


@pytest.fixture(scope="module")
def shard() -> Shard:
    return make_shard(0, 0, TOY.sizes, halved)


@pytest.fixture
def shards(shard, tmp_path) -> Shards:
    """One shard, whatever the step."""
    return Shards(tmp_path, replace(TOY.sizes, steps_per_shard=1000), lambda number: shard, CPU)


def batch_at(shards: Shards, seed: int, step: int, mix: Mix) -> Batch:
    """The batch of a step, as the training draws it."""
    shards.go_to(step)
    return draw(shards, torch.Generator().manual_seed(seed_of(seed, step)), mix, mix.is_large(step))


def said(tokens_BT: torch.Tensor) -> list[str]:
    """The prompts behind tokens."""
    return build_tokenizer().batch_decode(tokens_BT.long(), skip_special_tokens=True)


def test_batches_depend_on_the_step_alone_and_their_prompts_fit(shards):
    mix = replace(TOY.mix, rows=40, large_every=4)
    first, again = (batch_at(shards, 7, 0, mix) for _ in range(2))
    assert torch.equal(first.source, again.source) and torch.equal(first.tokens, again.tokens)
    assert not torch.equal(batch_at(shards, 7, 1, mix).tokens, first.tokens)
    assert first.source.shape == (40, 16, 16, 16) and first.tokens.shape == (40, TOKENS)
    assert batch_at(shards, 7, 3, mix).source.shape == (2, 16, 32, 32)
    assert torch.equal(first.source[~first.pair], first.target[~first.pair])
    assert bool(first.pair[:24].all()) and not bool(first.pair[24:].all()), "pictures come first, scenes may be plain"
    assert all(mix.pair_t[0] <= int(t) < mix.pair_t[1] for t in first.t[first.pair])
    assert mix.arranged_rows(large=False) == 8 and not bool(first.pair[-8:].any())
    assert all(mix.arranged_t[0] <= int(t) < mix.arranged_t[1] for t in first.t[-8:])
    assert all(int(t) < mix.plain_t for t in first.t[:-8])


def test_rows_are_pieces_of_the_pictures_that_their_prompts_describe(shards):
    mix = replace(
        TOY.mix, rows=64, picture_share=0.5, arranged_share=0.0, keep_share=0.5, drop_share=1.0, large_every=1000
    )
    batch, parts = batch_at(shards, 1, 0, mix), {kind: shards.part(kind) for kind in ("pictures", "world")}

    def homes(piece, kind):
        """Where a piece lies: looks of the pictures of a kind that hold it."""
        part, found = parts[kind], []
        side = part.latent.shape[-1]
        for row, look in ((r, k) for r in range(len(part.look)) for k in range(part.look.shape[1])):
            for y, x in ((y, x) for y in range(0, side - 15, 2) for x in range(0, side - 15, 2)):
                if torch.equal(part.latent[row, look, :, y : y + 16, x : x + 16].float(), piece):
                    found.append((row, look, y, x))
        return found

    for i, prompt in enumerate(said(batch.tokens)):
        kind = "pictures" if i < 32 else "world"
        row, look, y, x = homes(batch.target[i], kind)[0]
        assert homes(batch.source[i], kind)[0][0] == row and homes(batch.source[i], kind)[0][2:] == (y, x)
        style = int(parts[kind].look[row, look])
        if not bool(batch.pair[i]):
            assert prompt == ""
        elif style != AS_IT_CAME:
            assert STYLES[style] in prompt.replace(" ", "") or STYLES[style] in prompt
        if style == AS_IT_CAME:
            assert torch.equal(batch.source[i], batch.target[i])
        objects = parts[kind].objects[row, y : y + 16, x : x + 16].float()
        assert torch.equal(batch.objects[i, 0], objects)


def test_a_prompt_names_the_style_and_the_objects_and_now_and_then_something_else():
    prompts = [describe(["red sphere", "blue box"], STYLES.index("neon"), stream_of(i)) for i in range(200)]
    assert all("neon" in p for p in prompts)
    assert sum("red sphere" in p and "blue box" in p for p in prompts) > 160
    alone = [describe([], STYLES.index("glass"), stream_of(i)) for i in range(200)]
    assert all("glass" in p for p in alone) and any("stained glass" in p for p in alone)
    assert any(any(word in p for word in UNKNOWN) for p in alone)
    as_it_came = [describe([], AS_IT_CAME, stream_of(i)) for i in range(50)]
    assert "" in as_it_came and not any(style in p.split() for p in as_it_came for style in STYLES)


def test_shards_are_functions_of_their_number_and_are_made_when_a_step_wants_them(tmp_path):
    made = []

    def make(number):
        made.append(number)
        return make_shard(3, number, TOY.sizes, halved)

    shards = Shards(tmp_path, TOY.sizes, make, CPU)
    assert shards.go_to(0) == range(1)
    first = shards.part("world").latent[:4].clone()
    assert made == [0] and [len(shards.go_to(step)) for step in (0, 2, 4)] == [1, 2, 2]
    assert made == [0, 1, 2] and not path_of(tmp_path, 0).exists() and path_of(tmp_path, 2).exists()
    again, other = (make_shard(3, number, TOY.sizes, halved) for number in (0, 2))
    assert torch.equal(first, again.world.latent)
    assert torch.equal(shards.part("world").latent[:4], other.world.latent), "it takes the place of the oldest"
    for name in ("pictures", "world", "large"):
        assert not torch.equal(getattr(again, name).latent, getattr(other, name).latent)
    read_back = Shards(tmp_path, TOY.sizes, None, CPU)
    assert read_back.go_to(4) == range(1, 3)
    assert torch.equal(read_back.part("world").tokens, shards.part("world").tokens)


def test_a_pair_is_the_same_picture_through_the_filter_that_its_look_names(shard):
    part = shard.pictures
    assert part.latent.shape == (5, 3, 16, 32, 32)
    assert all(int(look) == AS_IT_CAME for look in part.look[:, 0])
    for row in range(5):
        styles = [STYLES[int(look)] for look in part.look[row, 1:]]
        assert len(set(styles)) == 2 and set(styles) <= set(FILTERS)


def test_every_look_of_a_scene_has_its_own_colours_and_names_them(shard):
    part = shard.world
    assert part.objects.shape == (4, 16, 16) and 0 < float(part.objects.mean()) < 1
    assert part.tokens.shape == (4, 3, PROMPTS, TOKENS)
    for row in range(4):
        assert STYLES[int(part.look[row, 0])] == "grey"
        named = []
        for look in range(3):
            prompts = " ".join(said(part.tokens[row, look])).replace(",", " ").split()
            pairs = set(zip(prompts, prompts[1:], strict=False))
            named.append({(c, s) for c, s in pairs if c in COLOUR_NAMES and s in SHAPES})
        assert len({frozenset(things) for things in named}) == 3
        assert {s for _, s in named[0]} == {s for _, s in named[1]} == {s for _, s in named[2]}


def test_things_are_arranged_each_in_its_place_whatever_the_scene():
    scenes = scenes_from_seeds(range(40))
    alone = arranged(scenes)
    view = View(alone, torch.zeros(40), 128, 128)
    assert view.instance().unique().tolist() == [GROUND, *(FIRST_OBJECT + slot for slot in (0, 2, 4, 5))], "one of each"
    for kind in range(len(SHAPES)):
        slots = torch.tensor([slot for slot, shape in enumerate(SLOT_SHAPES) if shape == kind])
        assert torch.equal(alone.present[:, slots].any(1), scenes.present[:, slots].any(1))
        seen = [int((view.instance()[row] == FIRST_OBJECT + int(slots[0])).sum()) for row in range(40)]
        assert all((pixels > 400) == bool(alone.present[row, slots[0]]) for row, pixels in enumerate(seen))
    assert all(len(getattr(alone, name).unique(dim=0)) == 1 for name in ("home", "size", "camera", "light"))
    assert torch.equal(alone.colour, scenes.colour)


def test_kept_pairs_are_answered_as_before_and_other_rows_as_they_are(shards):
    batch = batch_at(shards, 0, 0, replace(TOY.mix, rows=20, picture_share=0.2, plain_share=0.5))

    def before(x, t_B, tokens):
        return x + 1.0

    noised = torch.randn_like(batch.source)
    kept = _as_before(before, batch, noised, 4)
    assert torch.equal(kept.target[batch.pair], noised[batch.pair] + 1.0)
    assert bool((~batch.pair[:16]).any()) and torch.equal(kept.target[~batch.pair], batch.target[~batch.pair])
    assert torch.equal(kept.source, batch.source)


def test_the_models_own_estimates_replace_sources_and_are_noised_less(shards):
    asked, none = [], replace(TOY, own_share=0.0)

    def nothing(x, t_B, tokens):
        asked.append(len(x))
        assert len(x) == len(t_B) == len(tokens)
        return torch.zeros_like(x)

    batch = batch_at(shards, 0, 0, replace(TOY.mix, rows=16))
    settings = replace(TOY, own_share=0.25, own_t_low=5)
    own = _on_own_estimates(nothing, batch, Levels(CPU), settings, torch.Generator())
    changed = list(range(16))[_evenly(16, 4)]
    assert asked == [len(changed)] == [4]
    assert all(own.source[i].abs().max() == 0 for i in changed)
    assert all(5 <= int(own.t[i]) <= max(6, int(batch.t[i])) for i in changed)
    assert torch.equal(own.target, batch.target) and torch.equal(own.tokens, batch.tokens)
    kept = [i for i in range(16) if i not in changed]
    assert torch.equal(own.source[kept], batch.source[kept]) and torch.equal(own.t[kept], batch.t[kept])
    assert _on_own_estimates(nothing, batch, Levels(CPU), none, torch.Generator()) is batch


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path):
    def run(work, out, settings):
        train(settings, AUTOENCODER, tmp_path / work, tmp_path / out, CPU, lambda message: None)
        return {p.relative_to(tmp_path / out): p.read_bytes() for p in (tmp_path / out).rglob("*.safetensors")}

    straight = run("a", "a_out", TOY)
    assert len(straight) == 3

    class Interrupted(Exception):
        pass

    original_follow = Progress.follow

    def stop_in_the_middle(self, decay):
        original_follow(self, decay)
        if self.step == 3:
            raise Interrupted

    Progress.follow = stop_in_the_middle
    try:
        with pytest.raises(Interrupted):
            run("b", "b_out", TOY)
    finally:
        Progress.follow = original_follow
    assert run("b", "b_out", TOY) == straight


def test_shards_that_another_process_makes_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("core.tiny.batches.time.sleep", lambda s: save_shard(path_of(tmp_path, 0), made))
    made = make_shard(0, 0, TOY.sizes, halved)
    waiting = Shards(tmp_path, TOY.sizes, None, CPU)
    waiting.go_to(0)
    assert torch.equal(waiting.part("large").latent[:2], made.large.latent)
    monkeypatch.setattr("core.tiny.batches.time.sleep", lambda s: None)
    monkeypatch.setattr("core.tiny.batches.LONGEST_WAIT_S", 0.05)
    with pytest.raises(TimeoutError, match="was not made within"):
        waiting.go_to(2)


def test_a_producer_makes_the_shards_of_a_run(tmp_path):
    settings = replace(TOY, steps=2, sizes=replace(TOY.sizes, pictures=5, world=2, large=1))
    threads = torch.get_num_threads()
    try:
        recipe.produce(AUTOENCODER, tmp_path, settings, "cpu")
    finally:
        torch.set_num_threads(threads)
    assert path_of(tmp_path, 0).exists() and path_of(tmp_path, 1).exists()
    assert len(Shards(tmp_path, settings.sizes, None, CPU).go_to(2)) == 2
    shared = tmp_path / "shared"
    shared.mkdir()
    try:
        for first in range(2):
            recipe.produce(AUTOENCODER, shared, settings, "cpu", first, 2)
    finally:
        torch.set_num_threads(threads)
    assert all(path_of(shared, n).read_bytes() == path_of(tmp_path, n).read_bytes() for n in range(2))


def test_a_training_goes_on_from_a_folder(tmp_path):
    train(replace(TOY, steps=1), AUTOENCODER, tmp_path / "work", tmp_path / "out", CPU, lambda message: None)
    torch.manual_seed(5)
    fresh, loaded = Painter(), Painter()
    load_painter(loaded, tmp_path / "out")
    x, t, tokens = torch.randn(1, 16, 16, 16), torch.tensor([99]), torch.full((1, TOKENS), 7)
    again = Painter()
    load_painter(again, tmp_path / "out")
    kept = replace(TOY, steps=1, kept=True)
    train(kept, AUTOENCODER, tmp_path / "kept", tmp_path / "more", CPU, lambda message: None, start=tmp_path / "out")
    assert (tmp_path / "more" / "unet").exists()
    with torch.no_grad():
        assert torch.equal(loaded(x, t, tokens), again(x, t, tokens))
        assert not torch.equal(loaded(x, t, tokens), fresh(x, t, tokens))


def test_a_trained_folder_loads_and_streams(tmp_path):
    """Text that scales every layer, no middle block, "sample" prediction, sixteen latent channels."""
    train(replace(TOY, steps=1), AUTOENCODER, tmp_path / "work", tmp_path / "out", CPU, lambda message: None)
    configs = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*.json")]
    assert len(configs) > 4 and not any("_name_or_path" in text for text in configs), "no path of this machine"
    source = as_bytes(dead_leaves(1, 64, torch.Generator().manual_seed(0)))

    def looks(backend):
        stream = load_model(tmp_path / "out", CPU, torch.float32, backend).stream(StreamConfig(64, 64))
        plans = (stream.plan(Params(prompt=f"{s} style", steps=1, mode="latency")) for s in ("neon", "pencil"))
        return [stream.step(source, 0, plan).frame_FHWC[..., :3] for plan in plans]

    neon, pencil = looks("eager")
    assert neon.shape == (1, 64, 64, 3) and not torch.equal(neon, pencil)
    # OpenVINO's code generator ended the process at such a network.
    for ours, theirs in zip(looks("openvino"), (neon, pencil), strict=True):
        assert int((ours.int() - theirs.int()).abs().max()) <= 1


def test_the_judge_tells_styles_apart_and_photographs_are_scored_by_their_filter():
    pictures, styles = filtered_pictures(8, torch.Generator().manual_seed(0))
    judge = trained_judge([(pictures, styles)], steps=60, batch=24)
    assert float((judge.styles(pictures) == styles).float().mean()) > 0.5
    photographs = dead_leaves(3, 128, torch.Generator().manual_seed(1))

    def filter_itself(picture, prompt):
        return as_bytes(filtered(picture.permute(2, 0, 1)[None].float() / 255.0, prompt.split()[0]))[0]

    chosen = ("neon", "mosaic")
    right, _ = evaluate_photographs(photographs, photographs, filter_itself, judge, chosen)
    wrong, outputs = evaluate_photographs(photographs, photographs * 0.5, lambda p, prompt: p, judge, chosen)
    assert right.edges > 0.95 > wrong.edges and right.feature_ratio < 0.05 < wrong.feature_ratio
    assert right.style == right.style_truth and wrong.autoencoder_db < right.autoencoder_db
    assert torch.equal(outputs["neon"], as_bytes(photographs))
