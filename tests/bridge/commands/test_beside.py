"""The sheet of a steadied demo: the same frames painted by themselves, beside how they were painted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bridge.commands.beside import STRETCH, beside
from bridge.commands.contact_sheet import MARGIN_PX, TILE_PX, Pair, write_sheet
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model


def test_each_frame_is_painted_by_itself_beside_how_it_was_painted(tmp_path: Path) -> None:
    model = random_model()
    params = Params(strength=0.64, steps=2, temporal="flow")
    frames = random_frames(2)
    plan = model.stream(StreamConfig(SIZE_PX, SIZE_PX)).plan(params.with_values(mode="latency", prompt="red ball"))
    alone = []
    for frame in frames:
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        picture = stream.step(frame[None], None, plan)
        assert picture is not None
        alone.append(picture.frame_FHWC[0].numpy())
    steady = [np.full_like(alone[0], 100), np.full_like(alone[0], 110)]
    earlier, now = (
        Pair(f.numpy(), shown, "red ball") for f, shown in zip(torch.as_tensor(frames), steady, strict=True)
    )
    (made,) = beside(model, params, [now], [earlier])
    assert np.abs(made.output.astype(int) - alone[1]).max() <= 1
    assert np.array_equal(made.more[0], steady[1])
    expected = np.abs(alone[1][..., :3].astype(float) - alone[0][..., :3]).mean(-1) * STRETCH
    assert np.abs(made.more[1][..., 0] - expected.clip(0, 255)).max() <= 1.0 + STRETCH
    assert (made.more[2] == 10 * STRETCH).all()
    path = tmp_path / "sheet.png"
    write_sheet(path, [made], "five rows")
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    assert pixels[-MARGIN_PX - TILE_PX // 2, MARGIN_PX + TILE_PX // 2].tolist() == [10 * STRETCH] * 3
    assert beside(model, params, [], []) == []
