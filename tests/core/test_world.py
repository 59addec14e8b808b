"""The procedural world: the same everywhere, and its planes tell the truth about one another."""

from __future__ import annotations

import math

import pytest
import torch

from core.world import CLASSES, COLOUR_NAMES, PLANES, SHAPES, STYLES, T_CAM_LIDAR, World, view

SIDE = 64


def _points_world(world: World, time_s: float, depth_HW: torch.Tensor) -> torch.Tensor:
    """World positions (H,W,3) of the pixels' surfaces, from the depth plane and the public camera alone."""
    height, width = depth_HW.shape
    K = world.intrinsics(width, height)
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ray = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], -1)
    T = world.T_world_cam(time_s)
    return (ray * depth_HW[..., None]) @ T[:3, :3].T + T[:3, 3]


def _project(world: World, time_s: float, points_N3: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel places (N,2) and depths (N,) of world points."""
    T, K = world.T_cam_world(time_s), world.intrinsics(side, side)
    seen = points_N3 @ T[:3, :3].T + T[:3, 3]
    uv = seen @ K.T
    return uv[:, :2] / uv[:, 2:], seen[:, 2]


def test_same_seed_same_picture_other_seed_other_picture() -> None:
    first = World(3).render(1.25, SIDE, SIDE, "toy")["colour"]
    assert torch.equal(first, World(3).render(1.25, SIDE, SIDE, "toy")["colour"])
    assert not torch.equal(first, World(4).render(1.25, SIDE, SIDE, "toy")["colour"])
    assert not torch.equal(first, World(3).render(2.25, SIDE, SIDE, "toy")["colour"])


@pytest.mark.parametrize("seed", range(6))
def test_one_scene_alone_equals_the_same_scene_in_a_batch(seed: int) -> None:
    """Alone, objects are only tried where they can project to; the batch tries every pixel."""
    batch = view([seed, seed + 50], [0.7, 0.7], SIDE, SIDE)
    alone = World(seed).render(0.7, SIDE, SIDE, "neon", ("colour", "depth", "instance"))
    assert torch.equal(alone["instance"], batch.instance()[0])
    assert torch.equal(alone["depth"], batch.depth()[0])
    assert torch.equal(alone["colour"], batch.colour("neon")[0])


def test_planes_have_the_promised_shapes_and_types() -> None:
    planes = World(0).render(0.5, 48, 32, "comic", PLANES)
    assert set(planes) == set(PLANES)
    wanted = {
        "colour": ((32, 48, 3), torch.uint8),
        "depth": ((32, 48), torch.float32),
        "normal": ((32, 48, 3), torch.float32),
        "motion": ((32, 48, 2), torch.float32),
        "instance": ((32, 48), torch.uint8),
        "class": ((32, 48), torch.uint8),
    }
    for name, (shape, dtype) in wanted.items():
        assert (tuple(planes[name].shape), planes[name].dtype) == (shape, dtype), name
        assert planes[name].is_contiguous(), name


def test_sky_ground_and_objects_agree_across_planes() -> None:
    for seed in range(4):
        planes = World(seed).render(1.0, SIDE, SIDE, planes=PLANES)
        sky = planes["instance"] == 0
        assert torch.equal(sky, torch.isinf(planes["depth"]))
        assert torch.equal(planes["class"] == CLASSES.index("sky"), sky)
        assert torch.equal(planes["class"] == CLASSES.index("ground"), planes["instance"] == 1)
        assert (planes["class"] > 1).any(), "an object is in view"
        length = planes["normal"].norm(dim=-1)
        assert torch.all(length[sky] == 0)
        torch.testing.assert_close(length[~sky], torch.ones_like(length[~sky]), atol=1e-4, rtol=0)


def test_depth_puts_the_ground_at_height_zero_and_objects_above() -> None:
    for seed in range(4):
        world = World(seed)
        planes = world.render(2.0, SIDE, SIDE, planes=("depth", "instance", "normal"))
        points = _points_world(world, 2.0, planes["depth"])
        ground, body = planes["instance"] == 1, planes["instance"] > 1
        near = ground & (planes["depth"] < 30.0)
        assert points[near][:, 2].abs().max() < 1e-3
        assert points[body][:, 2].min() > -1e-3
        to_eye = world.T_world_cam(2.0)[:3, 3] - points
        facing = (planes["normal"] * to_eye).sum(-1)
        assert facing[body].min() > -1e-3, "normals point to the viewer"


def test_normals_are_the_gradient_of_the_surface() -> None:
    """On the inside of an object, neighbouring points differ by a vector across the normal."""
    world = World(1)
    planes = world.render(0.0, 256, 256, planes=("depth", "instance", "normal"))
    points = _points_world(world, 0.0, planes["depth"])
    same = (planes["instance"][:, 1:] == planes["instance"][:, :-1]) & (planes["instance"][:, 1:] > 1)
    same &= (planes["normal"][:, 1:] * planes["normal"][:, :-1]).sum(-1) > 0.999
    step = points[:, 1:] - points[:, :-1]
    slant = ((step * planes["normal"][:, 1:]).sum(-1) / step.norm(dim=-1))[same]
    assert same.sum() > 1000
    assert slant.abs().max() < 0.05


def _motion_error_px(seed: int, time_s: float, dt_s: float) -> torch.Tensor:
    """How far the previous frame's surfaces are from where the motion plane says this frame's came from."""
    world = World(seed)
    now = world.render(time_s, 128, 128, planes=("depth", "motion", "instance"), motion_dt_s=dt_s)
    v, u = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    here = torch.stack([u, v], -1)
    came_from = here - now["motion"]
    ground = (now["instance"] == 1) & (now["depth"] < 30.0)
    # the ground does not move: its points project, through the previous camera, to where they came from
    points = _points_world(world, time_s, now["depth"])[ground]
    before_px, _ = _project(world, time_s - dt_s, points, 128)
    return (before_px - came_from[ground]).norm(dim=1)


@pytest.mark.parametrize("seed", range(3))
def test_motion_of_the_ground_is_the_cameras_own(seed: int) -> None:
    error_px = _motion_error_px(seed, 1.5, 0.1)
    assert len(error_px) > 1000
    assert error_px.max() < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_motion_of_actors_lands_on_the_same_actor(seed: int) -> None:
    world, dt_s = World(seed), 0.1
    now = world.render(1.5, 128, 128, planes=("motion", "instance"), motion_dt_s=dt_s)
    before = world.render(1.5 - dt_s, 128, 128, planes=("instance",))["instance"]
    rows, columns = torch.nonzero(now["instance"] > 1, as_tuple=True)
    motion = now["motion"][rows, columns]
    from_x = torch.floor(columns + 0.5 - motion[:, 0]).long()
    from_y = torch.floor(rows + 0.5 - motion[:, 1]).long()
    inside = (from_x >= 0) & (from_x < 128) & (from_y >= 0) & (from_y < 128)
    right = before[from_y[inside], from_x[inside]] == now["instance"][rows, columns][inside]
    assert motion.norm(dim=1).max() > 0.1, "something moves"
    assert right.float().mean() > 0.93, "all but the pixels along silhouettes and behind other objects"
    still = world.render(1.5, 128, 128, planes=("motion",), motion_dt_s=0.0)["motion"]
    assert still.abs().max() < 1e-3


def test_lidar_sees_what_the_camera_sees() -> None:
    for seed in range(3):
        world, time_s, side = World(seed), 0.8, 256
        sweep = world.lidar(time_s, beams=48, columns=720)
        assert sweep.shape[1] == 4 and sweep.dtype == torch.float32
        assert 0.0 <= sweep[:, 3].min() and sweep[:, 3].max() <= 1.0
        T = world.T_world_lidar(time_s)
        points = sweep[:, :3] @ T[:3, :3].T + T[:3, 3]
        assert points[:, 2].min() > -1e-2
        px, depth = _project(world, time_s, points, side)
        ahead = (depth > 0.5) & (px > 1).all(1) & (px < side - 1).all(1)
        columns, rows = px[ahead].floor().long().unbind(1)
        camera = world.render(time_s, side, side, planes=("depth",))["depth"][rows, columns]
        error = (camera - depth[ahead]).abs() / depth[ahead]
        assert ahead.sum() > 300
        assert error.median() < 0.01, "the same surface, up to the pixel's footprint"
        assert (error < 0.06).float().mean() > 0.9, "all but what the 13 cm between the two eyes hides"


def test_lidar_frame_is_forward_left_up() -> None:
    forward = T_CAM_LIDAR[:3, :3] @ torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(forward, torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(torch.linalg.det(T_CAM_LIDAR), torch.tensor(1.0))


def test_every_style_is_visibly_its_own() -> None:
    assert STYLES[0] == "grey" and len(STYLES) >= 9 and len(set(STYLES)) == len(STYLES)
    seen = view(range(8), [0.0] * 8, SIDE, SIDE)
    pictures = {style: seen.shade(style) for style in STYLES}
    for i, a in enumerate(STYLES):
        for b in STYLES[i + 1 :]:
            difference = (pictures[a] - pictures[b]).abs().mean((1, 2, 3))
            assert difference.min() > 0.04, (a, b)


def test_grey_does_not_tell_the_colours_and_toy_does() -> None:
    world, recoloured = view([5], [0.0], SIDE, SIDE), view([5], [0.0], SIDE, SIDE)
    recoloured.scenes.colour.copy_((recoloured.scenes.colour + 3) % len(COLOUR_NAMES))
    assert torch.equal(world.shade("grey"), recoloured.shade("grey"))
    assert not torch.equal(world.shade("toy"), recoloured.shade("toy"))
    grey = world.colour("grey")
    assert torch.equal(grey[..., 0], grey[..., 1]) and torch.equal(grey[..., 1], grey[..., 2])


def test_caption_names_the_style_and_every_kind_of_object_once() -> None:
    for seed in range(20):
        world = World(seed)
        style, *things = world.caption("neon").split(", ")
        assert style == "neon style"
        shapes = [thing.split()[1] for thing in things]
        present = {
            SHAPES[k] for k, there in zip((0, 0, 1, 1, 2, 3), world.scenes.present[0].tolist(), strict=True) if there
        }
        assert set(shapes) == present and len(shapes) == len(present)
        assert all(thing.split()[0] in COLOUR_NAMES for thing in things)


def test_camera_pose_is_a_rigid_motion_and_it_moves() -> None:
    world = World(2)
    T = world.T_world_cam(0.0)
    torch.testing.assert_close(T[:3, :3] @ T[:3, :3].T, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(T[:3, :3]), torch.tensor(1.0))
    torch.testing.assert_close(T @ world.T_cam_world(0.0), torch.eye(4), atol=1e-5, rtol=0)
    assert (world.T_world_cam(1.0) - T).abs().max() > 0.01


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"style": "rococo"}, "rococo"),
        ({"planes": ("colour", "smell")}, "smell"),
        ({"width": 0}, "size"),
        ({"time_s": math.nan}, "time_s"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        World(0).render(**arguments)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "7"])
def test_a_seed_that_is_none_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="seed"):
        World(seed)  # type: ignore[arg-type]


def test_a_window_is_a_piece_of_the_whole_picture() -> None:
    from core.world.world import View

    whole = view([9, 12], [0.0, 3.0], SIDE, SIDE)
    corner = (torch.tensor([8.0, 20.0]), torch.tensor([16.0, 4.0]), 32, 24)
    piece = View(whole.scenes, whole.time_s, SIDE, SIDE, corner)
    for row, (x, y) in enumerate(((8, 16), (20, 4))):
        part = whole.instance()[row, y : y + 24, x : x + 32]
        assert (piece.instance()[row] != part).float().mean() < 0.005, "rays differ by rounding alone"


def test_a_world_that_ran_for_ten_days_still_moves_evenly() -> None:
    """In float32 a time of ten days comes in steps of 1/16 s: objects would stand still for frames, and then jump."""
    seen = view([4] * 8, [864_000.0 + k / 60 for k in range(8)], SIDE, SIDE)
    on_circles = seen.poses.centre[:, seen.scenes.present[0], :2]
    steps = on_circles.diff(dim=0).norm(dim=-1)
    assert steps.amax() > 1e-3
    assert (steps.amax(0) < 1.01 * steps.amin(0) + 1e-6).all()
