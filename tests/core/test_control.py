"""ControlNets, one and several, against diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core import control
from core.backend import BACKENDS
from core.model import Model, ModelError, load_model
from core.params import CONTROLS, MAX_CONTROLS, Params
from core.pixels import PixelError
from core.stream import Stream, StreamConfig
from tests.random_model import _fill, random_frames
from tests.tiny_pipelines import PIPELINES, SIDE_PX

CPU = torch.device("cpu")
# Where diffusers' LCM scheduler goes in two steps, from the start.
BASE = Params(
    prompt="red ball, neon", t_index=(0, 25), mode="latency", guidance="full", guidance_scale=2.0, control_2=0.0
)
TIMESTEPS = [999, 499]


def controlnet(pipeline: Any, seed: int) -> Any:
    """A random one for a pipeline's U-Net; nothing of it is zero, as it is before training."""
    from diffusers import ControlNetModel

    net = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
    _fill(net, seed, 0.7)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def repository(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[Any]]:
    """(folder with "model" and two ControlNets, pipeline, the two)."""
    pipeline = PIPELINES[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    pipeline.save_pretrained(folder / "model")
    nets = [controlnet(pipeline, seed) for seed in (31, 32)]
    for name, net in zip(("first", "second"), nets, strict=True):
        net.save_pretrained(folder / name)
    return folder, pipeline, nets


def load(folder: Path, *controls: tuple[str, str], backend: str = "eager", **more: Any) -> Model:
    given = [(source, folder / name) for source, name in controls]
    return load_model(folder / "model", CPU, torch.float32, backend, controls=given, **more)


@torch.no_grad()
def theirs(pipeline: Any, nets: Any, latent: Tensor, pictures: Any, params: Params, **more: Any) -> Tensor:
    """What diffusers' pipeline for ControlNets makes of the latent. pictures: (1, 3, H, W) in 0..1."""
    from diffusers import (
        LCMScheduler,
        StableDiffusionControlNetImg2ImgPipeline,
        StableDiffusionXLControlNetImg2ImgPipeline,
    )

    xl = hasattr(pipeline, "text_encoder_2")
    kind = StableDiffusionXLControlNetImg2ImgPipeline if xl else StableDiffusionControlNetImg2ImgPipeline
    parts = {**pipeline.components, "scheduler": LCMScheduler.from_config(pipeline.scheduler.config)}
    own = {"add_watermarker": False} if xl else {"requires_safety_checker": False}
    steered = kind(**parts, controlnet=nets, **own)
    steered.set_progress_bar_config(disable=True)
    return steered(
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        image=latent,
        control_image=pictures,
        height=SIDE_PX,
        width=SIDE_PX,
        strength=1.0,
        num_inference_steps=2,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator().manual_seed(params.seed),
        output_type="latent",
        return_dict=False,
        **more,
    )[0]


def painted(stream: Stream[int], params: Params, frame: Tensor, planes: dict[str, Tensor]) -> Tensor:
    plan = stream.plan(params)
    entering = stream.encode(frame, planes, plan, [0])
    finished = stream.advance(entering, 0, plan)
    assert finished is not None
    return finished.latent_Fchw


def depth_plane(seed: int = 4) -> Tensor:
    """Metres, (1, H, W)."""
    return 1.0 + 4.0 * torch.rand((1, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(seed))


def latent_of(pipeline: Any, frame: Tensor) -> Tensor:
    with torch.no_grad():
        pixels = frame.permute(0, 3, 1, 2) / 127.5 - 1.0
        return pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor


def test_one_and_two_paint_what_diffusers_pipeline_paints_live(repository: tuple[Path, Any, list[Any]]) -> None:
    folder, pipeline, nets = repository
    model = load(folder, ("depth", "first"), ("mask", "second"))
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
    assert stream.planes == ("depth", "mask")
    frame = random_frames(1)
    latent = latent_of(pipeline, frame)
    assert [model.noise.timestep(i) for i in BASE.stages()] == TIMESTEPS
    mask = random_frames(1, seed=9)[..., 0]
    planes = {"depth": depth_plane(), "mask": mask}
    near = 1.0 / planes["depth"]
    pictures = [(near / near.max())[:, None].repeat(1, 3, 1, 1), (mask / 255.0)[:, None].repeat(1, 3, 1, 1)]
    plain = painted(stream, BASE.with_values(control_1=0.0), frame, planes)
    one = painted(stream, BASE.with_values(control_1=0.8), frame, planes)
    expected = theirs(pipeline, nets[0], latent, pictures[0], BASE, controlnet_conditioning_scale=0.8)
    assert (one - expected).abs().max() < 1e-3
    assert (one - plain).abs().max() > 0.05
    both = painted(stream, BASE.with_values(control_1=0.5, control_2=1.2), frame, planes)
    expected = theirs(pipeline, nets, latent, pictures, BASE, controlnet_conditioning_scale=[0.5, 1.2])
    assert (both - expected).abs().max() < 1e-3
    # In the second of two steps alone, and in the first alone.
    for start, end in ((0.5, 1.0), (0.0, 0.5)):
        params = BASE.with_values(control_1=1.0, control_1_start=start, control_1_end=end)
        expected = theirs(
            pipeline,
            nets[0],
            latent,
            pictures[0],
            BASE,
            controlnet_conditioning_scale=1.0,
            control_guidance_start=start,
            control_guidance_end=end,
        )
        assert (painted(stream, params, frame, planes) - expected).abs().max() < 1e-3
    # And as at first, with nothing left behind.
    assert torch.equal(painted(stream, BASE.with_values(control_1=0.0), frame, planes), plain)


def test_a_frame_without_the_plane_is_painted_without_its_controlnet(
    repository: tuple[Path, Any, list[Any]],
) -> None:
    folder, *_ = repository
    model = load(folder, ("depth", "first"))
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
    frame = random_frames(1)
    with_plane = painted(stream, BASE, frame, {"depth": depth_plane()})
    without = painted(stream, BASE, frame, {})
    nothing = painted(stream, BASE.with_values(control_1=0.0), frame, {})
    assert torch.allclose(without, nothing, atol=1e-5)
    assert (with_plane - nothing).abs().max() > 0.05


@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if entry.measured])
def test_every_back_end_and_mode_follows_with_lora_and_bank_beside_it(
    repository: tuple[Path, Any, list[Any]], backend: str
) -> None:
    if not BACKENDS[backend].dtypes(CPU):
        pytest.skip(f"{backend} is not available here")
    folder, *_ = repository
    frames = random_frames(4)
    planes = [{"depth": depth_plane(i)} for i in range(4)]
    models = [load(folder, ("depth", "first"), ("canny", "second"), backend=name) for name in (backend, "eager")]
    base = BASE.with_values(mode="throughput", control_2=0.7)
    for params in (
        base,
        base.with_values(control_1=0.3, control_2_end=0.5),
        base.with_values(guidance="self-negative"),
        base.with_values(temporal="bank", bank_reset="never"),
        base.with_values(control_1=0.0, control_2=0.0),
        base.with_values(mode="latency", control_1_start=0.5),
    ):
        last = []
        for model in models:
            stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
            plan = stream.plan(params)
            out = [stream.step(frame[None], i, plan, planes[i], [i]) for i, frame in enumerate(frames)]
            assert out[-1] is not None
            last.append(out[-1].frame_FHWC.int())
        assert (last[0] - last[1]).abs().max() <= 1, params


def test_pictures_of_planes() -> None:
    depth = torch.tensor([[[1.0, 2.0], [4.0, float("inf")]]])
    near = control.nearness(depth[:, None])
    assert near.shape == (1, 3, 2, 2)
    assert near[0, 0].tolist() == [[1.0, 0.5], [0.25, 0.0]]
    assert control.nearness(torch.zeros(1, 1, 2, 2)).abs().max() == 0.0
    levels = torch.tensor([[0, 51], [102, 255]], dtype=torch.uint8)[None, None]
    for function in (control.nearness, control.directions, control.as_it_is):
        assert torch.allclose(function(levels)[0, 2], levels[0, 0] / 255.0)
    up = control.directions(torch.tensor([0.0, 1.0, -1.0, 0.0])[None, :, None, None])
    assert up.flatten().tolist() == [0.5, 1.0, 0.0]
    assert control.as_it_is(torch.tensor([float("nan"), 2.0])[None, None, None])[0, 0, 0].tolist() == [0.0, 1.0]
    with pytest.raises(PixelError, match="cannot be used"):
        control._channels_first(torch.zeros(4))


def test_edges_are_those_of_opencv() -> None:

    picture = _scene()
    ours = control.edges(torch.from_numpy(picture)[None].permute(0, 3, 1, 2))[0, 0].numpy() > 0
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    theirs = cv2.Canny(cv2.GaussianBlur(grey, (5, 5), 1.0), 100, 200) > 0
    # Within a pixel of one of the other's.
    close = np.ones((3, 3), np.uint8)
    recall = (theirs & (cv2.dilate(ours.astype(np.uint8), close) > 0)).sum() / theirs.sum()
    precision = (ours & (cv2.dilate(theirs.astype(np.uint8), close) > 0)).sum() / ours.sum()
    assert theirs.sum() > 100 and recall > 0.95 and precision > 0.95


def _scene() -> np.ndarray:
    """Overlapping shapes with sharp and soft edges, uint8 (H, W, 3)."""
    picture = np.full((128, 160, 3), 60, np.uint8)
    cv2.rectangle(picture, (20, 30), (80, 100), (200, 40, 40), -1)
    cv2.circle(picture, (100, 60), 30, (30, 160, 220), -1)
    cv2.line(picture, (0, 127), (159, 90), (250, 250, 250), 3)
    ramp = np.linspace(0, 60, 160).astype(np.uint8)
    return cv2.add(picture, np.repeat(ramp[None, :, None], 128, 0).repeat(3, 2))


def test_what_does_not_belong_to_the_model_is_refused(repository: tuple[Path, Any, list[Any]], tmp_path: Path) -> None:
    folder, pipeline, _ = repository
    other = PIPELINES["sd21"]()
    controlnet(other, 33).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="was made for another family"):
        load_model(folder / "model", CPU, torch.float32, "eager", controls=[("depth", tmp_path / "other")])
    pipeline.unet.save_pretrained(tmp_path / "unet")
    for given, words in (
        ([("depth", tmp_path / "unet")], "is a UNet2DConditionModel; give the folder of a ControlNetModel"),
        ([("depth", tmp_path / "nothing")], "is missing"),
        ([("pose", folder / "first")], "'pose' is no picture for a ControlNet; use one of depth, normal"),
        ([("depth", folder / "first" / "config.json")], "is a file"),
        ([("depth", folder / "first")] * (MAX_CONTROLS + 1), "2 at once is the most"),
    ):
        with pytest.raises(ModelError, match=words):
            load_model(folder / "model", CPU, torch.float32, "eager", controls=given)
    unknown = shutil.copytree(folder / "first", tmp_path / "unknown")
    config = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps({**config, "global_pool_conditions": True}))
    with pytest.raises(ModelError, match="global_pool_conditions True is not supported"):
        load_model(folder / "model", CPU, torch.float32, "eager", controls=[("depth", unknown)])
    broken = shutil.copytree(folder / "first", tmp_path / "broken")
    file = next(broken.glob("*.safetensors"))
    save_file({name: weight * float("nan") for name, weight in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="broken: the weights hold values that are no numbers"):
        load_model(folder / "model", CPU, torch.float32, "eager", controls=[("depth", broken)])
    assert len(CONTROLS) == MAX_CONTROLS
