"""Prompts with weights: what is read as one, what is not, and what the network is told."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.families.family import Encoder
from core.families.stable_diffusion_xl import POOLED, TwoEncoders
from core.params import ParamError, Params
from core.prompt import MAX_BLENDED, PromptError, WeightedText, blend_of, parse
from core.text import TextConditioner, encoded
from tests.random_model import random_parts, random_text

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def text():
    _, _, encoder, tokenizer = random_parts()
    return TextConditioner(tokenizer, encoder, CPU)


def plain(text, words):
    return encoded(text._tokenizer, text._encoder, words, CPU)[0][0]


@pytest.mark.parametrize(
    "words",
    ["", "red ball", "a cat (sitting), a (dog", "time 12:30", "(a:b)", "red (ball:)", '("a", "b")', "x.blend(1)"],
)
def test_any_other_text_is_what_it_is(words):
    ((share, parts),) = parse(words)
    assert share == 1.0 and parts == (WeightedText(words, 1.0),)


def test_weights_belong_to_the_words_in_their_brackets():
    ((_, parts),) = parse("(red ball:1.5), blue (box: .5)")
    assert parts == (WeightedText("red ball", 1.5), WeightedText(", blue ", 1.0), WeightedText("box", 0.5))


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="ascii", exclude_characters='"():'), max_size=9), st.floats(0.1, 9)),
        min_size=2,
        max_size=MAX_BLENDED,
    )
)
def test_a_blend_that_was_written_is_read_again(prompts):
    read = parse(blend_of(prompts))
    assert [prompt.text for prompt in read] == [text for text, _ in prompts]
    whole = sum(weight for _, weight in prompts)
    assert [prompt.share for prompt in read] == pytest.approx([w / whole for _, w in prompts], rel=1e-4)


@given(st.text(max_size=200))
def test_no_text_is_more_than_refused(words):
    try:
        assert "".join(prompt.text for prompt in parse(words)) is not None
    except PromptError as error:
        assert len(str(error)) < 200


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("(red:9)", "weights go from -4 to 4"),
        ('("a", "b").blend(1)', "has 1 weights"),
        ('("a", "b").blend(0, 0)', "not all of them 0"),
        ('("a", "b").blend(1, -1)', "0 or more"),
        ('("a", "b").blend(x, y)', "give numbers"),
        ('("a", "b").blend(nan, 1)', "0 or more"),
        ("(" + ", ".join(['"a"'] * 17) + ").blend(" + ", ".join("1" * 17) + ")", "at most 16"),
    ],
)
def test_weights_that_make_no_sense_are_refused_where_they_arrive(words, told):
    for name in ("prompt", "prompt_to", "negative_prompt"):
        with pytest.raises(ParamError, match=f"^{name}: .*{told}"):
            Params().with_values(**{name: words})


def test_a_blend_of_a_thousand_prompts_is_refused_at_once():
    words = "(" + ", ".join(f'"a {i}"' for i in range(1000)) + ").blend(" + ", ".join("1" * 1000) + ")"
    with pytest.raises(PromptError, match="^a blend of 1000 prompts; use at most 16$"):
        parse(words)
    with pytest.raises(ParamError, match=f"^prompt: got {len(words)} characters; send text of at most 2000"):
        Params().with_values(prompt=words)


def test_a_part_is_as_far_from_nothing_as_its_weight_says(text):
    """The tokens of this tokenizer: a beginning, a letter each, an end."""
    said, nothing = plain(text, "ab, c d"), plain(text, "")
    weights = torch.ones(len(said))
    weights[1:3], weights[5] = 1.5, -0.5
    expected = nothing + weights[:, None] * (said - nothing)
    assert torch.allclose(text.embed("(ab:1.5), c (d:-0.5)").tokens, expected, atol=1e-6)
    assert not torch.allclose(expected, said, atol=1e-3)


def test_weight_one_and_no_weight_are_the_same_and_weight_zero_is_nothing(text):
    assert torch.equal(text.embed("(ab:1.0), c").tokens, text.embed("ab, c").tokens)
    assert torch.allclose(text.embed("(ab:0)").tokens[1:3], plain(text, "")[1:3], atol=1e-6)


def test_a_blend_lies_between_its_prompts(text):
    blend = text.embed('("ab", "cd").blend(1, 3)').tokens
    expected = 0.25 * plain(text, "ab") + 0.75 * plain(text, "cd")
    assert torch.allclose(blend, expected, atol=1e-6)


def test_everything_that_two_encoders_say_is_blended():
    pairs = [random_text(32, 2, 16), random_text(32, 2, 16, pooled=24)]
    both = TwoEncoders([Encoder(*pair) for pair in pairs], CPU)
    a, b, blend = (both.embed(words) for words in ("ab", "cd", '("ab", "cd").blend(1, 1)'))
    assert torch.allclose(blend.tokens, (a.tokens + b.tokens) / 2, atol=1e-6)
    assert torch.allclose(blend.others[POOLED], (a.others[POOLED] + b.others[POOLED]) / 2, atol=1e-6)
