"""Captioned pictures of wherever a user has them: a folder, CIFAR-10's binary version, a recording of a channel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bridge.page.picture import picture_of
from bridge.recording.file import RecordingError, RecordingReader, unpacked
from bridge.recording.replay import in_order
from bridge.ring import Kind
from bridge.ring.colour import CHANNELS
from bridge.ring.colour import in_order as channels_in_order
from core.training.datasets import CIFAR_NAMES, CIFAR_SIDE, DataError, cifar10
from core.training.folder import MOST_PICTURES, Captioned, read_folder, squared


def pictures_of(place: Path, side_px: int, template: str | None, ring: str = "in") -> Captioned:
    """Squares of `side_px`. template: see `read_folder`. ring: "in" or "out", of a recording, whose captions are the
    prompts in force where there is no template. Raises `DataError`."""
    return _recorded(place, side_px, template, ring) if place.is_file() else read_folder(place, side_px, template)


def is_cifar(place: Path) -> bool:
    """Whether a folder looks as if CIFAR-10's binary version had been unpacked to it."""
    return next(place.glob("data_batch_*.bin"), None) is not None


def cifar(folder: Path) -> Captioned:
    """Its training pictures, of CIFAR_SIDE, each with the name of its class. Raises `DataError`."""
    training, _ = cifar10(folder)
    planes = ((training.x_ND + 1.0) * 127.5).round().to(torch.uint8).view(-1, 3, CIFAR_SIDE, CIFAR_SIDE)
    captions = tuple(CIFAR_NAMES[int(number)] for number in training.caption_N)
    return Captioned(planes.permute(0, 2, 3, 1).contiguous(), captions, tuple(map(str, range(len(captions)))))


def _frames(recording: RecordingReader, ring: str) -> Iterator[tuple[bytes, str]]:
    """Frames of a ring as they were written, each with the prompt in force."""
    prompt = ""
    for entry in in_order(iter(recording)):
        if entry.topic == "params":
            prompt = str(json.loads(entry.data)["values"].get("prompt", prompt))
        elif entry.topic == ring:
            yield entry.data, prompt


def _recorded(path: Path, side_px: int, template: str | None, ring: str) -> Captioned:
    try:
        recording = RecordingReader(path)
        count = sum(1 for _ in _frames(recording, ring))
        wanted = {i * count // MOST_PICTURES for i in range(MOST_PICTURES)} if count > MOST_PICTURES else None
        pictures, captions, names = [], [], []
        for number, (data, prompt) in enumerate(_frames(recording, ring)):
            if wanted is not None and number not in wanted:
                continue
            name = f"{ring} {number}"
            caption = prompt if template is None else template.replace("{name}", name)
            if not caption:
                raise DataError(f"no caption for {name} of {path}: no prompt was recorded; give one caption for all")
            frame = unpacked(data)
            if Kind.COLOUR not in frame.planes:
                raise DataError(f"{path} holds no colours of {ring}")
            picture = picture_of(frame)
            rgb = channels_in_order(picture.pixels, CHANNELS[picture.layout][:3])
            pictures.append(torch.from_numpy(squared(np.ascontiguousarray(rgb), side_px, name).copy()))
            captions.append(caption)
            names.append(name)
    except RecordingError as error:
        raise DataError(str(error)) from error
    if not pictures:
        raise DataError(f"{path} holds no picture of {ring}")
    return Captioned(torch.stack(pictures), tuple(captions), tuple(names))
