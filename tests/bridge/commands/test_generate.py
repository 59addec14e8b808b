"""The committed files are those that `frameloom generate` makes."""

from __future__ import annotations

import pytest

from bridge.commands import generate
from bridge.commands.generate import unity


@pytest.mark.parametrize("generated", generate.GENERATED, ids=lambda generated: generated.path.name)
def test_a_generated_file_is_current(generated: generate.Generated) -> None:
    text = generated.path.read_text(encoding="utf-8")
    assert generated.make(text) == text, "run python3 run.py generate"


def test_every_asset_of_the_unity_package_has_its_meta_file() -> None:
    assert unity.assets(generate.UNITY)
    assert not unity.assets_without_meta(generate.UNITY), "run python3 run.py generate"


def test_only_what_changed_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([]) == 0
    assert capsys.readouterr().out == ""
    assert generate.main(["now"]) == 2
