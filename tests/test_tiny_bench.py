"""The figures of `bench tiny`: the judge of objects, the taught look, and bars for all that is asked for."""

from __future__ import annotations

import json

import pytest
import torch

from core.params import Params
from core.tiny.evaluate import JUDGE_SEED, HeldOut
from core.tiny.objects import (
    ABSENT,
    CELL_PX,
    STYLES_EACH,
    ObjectJudge,
    colours_of,
    evaluate_text,
    examples,
    reliability,
    shown,
    trained_object_judge,
)
from core.world import COLOUR_NAMES, COLOURED_STYLES, SHAPES, caption
from core.world.scene import SLOT_SHAPES
from tests.bench import tiny, tiny_teach


@pytest.fixture(scope="module")
def scenes():
    return HeldOut(6, JUDGE_SEED)


def test_what_a_render_shows_is_known_by_cell_and_kind(scenes):
    rendered = shown(scenes, ("toy",))
    assert rendered.kind_Bhw.shape == (6, 128 // CELL_PX, 128 // CELL_PX)
    for row in range(6):
        present = {SLOT_SHAPES[k] for k in range(len(SLOT_SHAPES)) if scenes.scenes.present[row, k]}
        assert {int(k) for k in torch.nonzero(rendered.colour_BS[row] != ABSENT)} == present
        for kind in range(len(SHAPES)):
            cells, pixels = int((rendered.kind_Bhw[row] == 1 + kind).sum()), int(rendered.pixels_BS[row, kind])
            assert abs(cells * CELL_PX**2 - pixels) <= 40 + 0.3 * pixels
            assert pixels == 0 or kind in present
    again, other = shown(scenes, ("toy",)), shown(scenes, ("toy",), seed=1)
    assert torch.equal(again.picture_BHWC, rendered.picture_BHWC)
    assert not torch.equal(other.colour_BS, rendered.colour_BS)


def test_the_judge_learns_from_every_scene_in_some_styles(monkeypatch):
    monkeypatch.setattr("core.tiny.objects.TOGETHER", 2)
    learnt, again = examples(3), examples(3)
    assert len(learnt.picture_BHWC) == len(learnt.kind_Bhw) == len(learnt.colour_BS) == 3 * STYLES_EACH
    assert torch.equal(learnt.picture_BHWC, again.picture_BHWC)


def test_colours_are_those_that_the_caption_names(scenes):
    colours = colours_of(scenes, scenes.scenes.colour)
    for row in range(6):
        text = caption(scenes.scenes, "toy", row)
        for kind, name in enumerate(SHAPES):
            colour = int(colours[row, kind])
            assert (f"{COLOUR_NAMES[colour]} {name}" in text) if colour != ABSENT else (name not in text)


def test_the_judge_learns_renders_by_heart_and_says_what_is_not_there(scenes):
    few = HeldOut(2, JUDGE_SEED + 2)  # scenes without some of the kinds
    learnt = shown(few, ("toy",))
    judge = trained_object_judge(learnt, steps=120, batch=4)
    there, absent = reliability(judge, learnt)
    assert there > 0.9 and absent > 0.9


class Counting(ObjectJudge):
    """Finds what the first pixels of a picture say: one number for each kind."""

    def found(self, picture_BHWC):
        return picture_BHWC[:, 0, : len(SHAPES), 0].long() - 1


class Painting:
    """A model that writes what its prompt names where `Counting` reads it."""

    def __init__(self, obeys):
        self.obeys = obeys

    def stream(self, config):
        return self

    def plan(self, params):
        return params

    def step(self, frame, index, params: Params):
        assert params.task == "txt2img" and params.stages()[0] == 0, "from noise alone"
        words = params.prompt.replace(",", " ").split()
        frame = torch.zeros((1, 128, 128, 4), dtype=torch.uint8)
        for kind, name in enumerate(SHAPES):
            if self.obeys and name in words:
                frame[0, 0, kind, 0] = 1 + COLOUR_NAMES.index(words[words.index(name) - 1])
        return type("Picture", (), {"frame_FHWC": frame})


def test_named_objects_are_counted_against_the_prompt_and_against_other_prompts(scenes):
    right, pictures = evaluate_text(Painting(True), Params(), scenes, Counting(), ("toy", "neon"))
    assert right.named == right.kinds == 1.0 and right.named_by == {"toy": 1.0, "neon": 1.0}
    assert right.by_chance < 0.5 and pictures["toy"].shape == (6, 128, 128, 3)
    wrong, _ = evaluate_text(Painting(False), Params(), scenes, Counting(), ("toy",))
    assert wrong.named == wrong.kinds == wrong.by_chance == 0.0


def test_the_taught_look_is_none_of_the_old_ones():
    pictures = tiny_teach.sources(4, 9)
    taught = tiny_teach.tartan(pictures)
    assert taught.shape == pictures.shape and 0.0 <= float(taught.min()) and float(taught.max()) <= 1.0
    from core.world.filters import FILTERS, filtered

    apart = [float((taught - filtered(pictures, style)).abs().mean()) for style in FILTERS]
    assert min(apart) > 0.08


def test_every_figure_that_is_asked_for_is_in_the_list_with_the_reason_where_it_is_missing(capsys):
    results = {"teach": {"judge_on_filtered": 1.0, "look": 0.5, "minutes": 5.0, "old": 0.9, "old_before": 0.92}}
    bars = {bar["name"]: bar for bar in tiny.bars_of(results, {"speed": "left out by --without speed"})}
    assert len(bars) == len(tiny.ASKED) and {a.section for a in tiny.ASKED} == set(tiny.SECTIONS)
    assert bars["teach, pictures in the taught look"]["holds"] is False
    assert bars["teach, old styles lost"] == {
        **{"name": "teach, old styles lost", "value": 0.02, "bar": 0.05, "sense": "<=", "holds": True}
    }
    left = bars["frames per second at 128 px, AVX2"]
    assert (left["value"], left["holds"], left["why"]) == (None, None, "left out by --without speed")


def test_a_section_runs_alone_and_an_unknown_one_is_refused(capsys, tmp_path):
    words = ["--only", "objects", "--scenes", "2", "--object-steps", "2", "--object-scenes", "2", "--device", "cpu"]
    assert tiny.main([*words, "--text-sheet", str(tmp_path / "sheet.png")]) == 0
    out = capsys.readouterr().out
    document = json.loads(out.splitlines()[-1])
    assert "its figures are unreliable" in out and (tmp_path / "sheet.png").exists()
    by_name = {bar["name"]: bar for bar in document["bars"]}
    assert by_name["text-to-image, named objects appear, 1 step"]["value"] is not None
    assert by_name["teach, pictures in the taught look"]["why"] == "left out by --only objects"
    assert set(document["results"]["objects"]["4"]["named_by"]) == set(COLOURED_STYLES)
    with pytest.raises(SystemExit) as ended:
        tiny.main(["--only", "nothing"])
    assert ended.value.code == 2
