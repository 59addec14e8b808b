"""What `bench temporal` leaves to look at: a film per mode beside single frames, a sheet of all modes, and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.opencv import opencv
from core.training.curves import Line, Panel, drawn, save_picture
from tests.bench.temporal_clips import FPS, SIZE_PX, Clip

STRETCH = 6.0
"""Changes are shown so many times as large."""
ZOOM = 2


def _seen(clip: Clip, out: Mapping[int, Tensor], number: int) -> Tensor:
    """Where the output and the one before it, moved along, differ: (H, W, 3) levels, stretched."""
    from core.motion import identity_grid, moved

    grid = identity_grid(SIZE_PX, SIZE_PX, torch.device("cpu")) + clip.motion[number][None] * (2.0 / SIZE_PX)
    then = moved(out[number - 1].permute(2, 0, 1)[None], grid.nan_to_num())[0].permute(1, 2, 0)
    return ((out[number] - then).abs().mean(-1, keepdim=True) * STRETCH).clamp(0, 255).expand(-1, -1, 3)


def _labelled(picture: Tensor, text: str) -> Tensor:
    cv2 = opencv()
    array = picture.round().clamp(0, 255).to(torch.uint8).contiguous().numpy().copy()
    array = cv2.resize(array, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(array, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, width, cv2.LINE_AA)
    return torch.from_numpy(array)


def write(folder: Path, clip: Clip, outputs: Mapping[str, Mapping[int, Tensor]]) -> list[str]:
    """One MP4 film per mode (input, single frames, the mode; below what changes from frame to frame beside the motion)
    and sheet.jpg. outputs: by mode, "off" among them, by number of the frame. Returns the paths."""
    cv2 = opencv()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    off = outputs["off"]
    last = max(off)
    columns = []
    for mode, out in outputs.items():
        numbers = [n for n in sorted(out) if n - 1 in out and n in off and n - 1 in off]
        path = folder / f"{clip.kind}-{mode.replace(', ', '-').replace(' ', '-')}.mp4"
        film = cv2.VideoWriter(
            str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (3 * ZOOM * SIZE_PX, 2 * ZOOM * SIZE_PX)
        )
        for number in numbers:
            source = clip.colour[number].float()
            before = {n: clip.colour[n].float() for n in (number - 1, number)}
            above = [(source, "input"), (off[number], "off"), (out[number], mode)]
            changes = [_seen(clip, which, number) for which in (before, off, out)]
            rows = [
                torch.cat([_labelled(picture, text) for picture, text in above], 1),
                torch.cat([_labelled(change, f"changes x{STRETCH:.0f}") for change in changes], 1),
            ]
            film.write(cv2.cvtColor(torch.cat(rows).numpy(), cv2.COLOR_RGB2BGR))
        film.release()
        written.append(str(path))
        columns.append(torch.cat([_labelled(out[last], mode), _labelled(_seen(clip, out, last), f"x{STRETCH:.0f}")]))
    sheet = folder / f"{clip.kind}.jpg"
    cv2.imwrite(str(sheet), cv2.cvtColor(torch.cat(columns, 1).numpy(), cv2.COLOR_RGB2BGR))
    return [*written, str(sheet)]


def plot(path: Path, errors: Mapping[str, Mapping[str, Sequence[float]]], clips: int) -> None:
    """Error along the true motion from frame to frame, of each mode, in a panel for each kind of clip. errors: by kind
    and mode, of so many clips one after the other."""
    panels = []
    for kind, by_mode in errors.items():
        means = {mode: torch.tensor(series).unflatten(0, (clips, -1)).mean(0) for mode, series in by_mode.items()}
        lines = {mode: Line(range(len(mean)), mean.tolist()) for mode, mean in means.items()}
        panels.append(Panel(f"{kind}: levels along the true motion", lines, "frames"))
    save_picture(path, drawn(panels))
