"""What is wrong with LoRAs and ControlNets of a host is told before anything is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from bridge.commands.arguments import parse_control
from bridge.host.config import HostConfig, HostError
from bridge.host.loading import check
from core.params import specs_for


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loras": ("nothing.safetensors",)}, "there is no LoRA file .*nothing.safetensors"),
        ({"loras": (".",) * 5}, "5 LoRAs are given; 4 at once is the most"),
        ({"loras": (".",), "model": "passthrough"}, "passthrough has no model that a LoRA could change"),
        ({"controls": (("depth", "nothing"),)}, "there is no folder .*nothing of a ControlNet"),
        ({"controls": (("pose", "."),)}, "'pose' is no picture for a ControlNet; use one of depth, normal"),
        ({"controls": (("depth", "."),) * 3}, "3 ControlNets are given; 2 at once is the most"),
        ({"controls": (("depth", "."),), "model": "passthrough"}, "passthrough has no model that a ControlNet"),
    ],
)
def test_what_cannot_be_is_told_at_the_start(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    loras = tuple(tmp_path / name for name in options.pop("loras", ()))
    controls = tuple((source, tmp_path / name) for source, name in options.pop("controls", ()))
    with pytest.raises(HostError, match=words):
        check(HostConfig("stage", loras=loras, controls=controls, **options))


def test_the_words_for_a_controlnet() -> None:
    assert parse_control("canny=nets/edges") == ("canny", Path("nets/edges"))
    for text in ("canny", "=nets", "canny=", "pose=nets"):
        with pytest.raises(argparse.ArgumentTypeError, match="write WHAT=FOLDER with one of depth"):
            parse_control(text)


def test_a_host_shows_the_controlnets_that_it_has() -> None:
    shown = {spec.name: spec.title for spec in specs_for("embedded", (), ["depth"])}
    assert shown["control_1"] == "Control by depth" and shown["control_1_end"] == "Control by depth: end"
    assert "control_2" not in shown and "control_2_start" not in shown
    assert not any(spec.name.startswith("control_") for spec in specs_for("embedded"))
