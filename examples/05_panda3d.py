"""A game engine: a moving scene in Panda3D, and on the wall behind it the same scene, repainted.

    .venv/bin/python -m pip install -c constraints.txt -e ".[examples]"     Panda3D, an extra (BSD licence)
    python3 run.py host --channel demo
    .venv/bin/python examples/05_panda3d.py                a window; Esc ends it
    .venv/bin/python examples/05_panda3d.py --offscreen    without a window or a graphics card: 300 results

You see shapes that move on a floor and, on the wall, what a second camera sees of them, painted by the model. That
camera does not see the wall. It sends colour and depth; both lie bottom row first, as in OpenGL, and the ring says so.
Offscreen the last view becomes out/wall.png.
"""

import argparse
import math
import sys
from pathlib import Path

import cv2
import numpy as np

from bridge.ring import Format, Kind, Origin, RingError, RingReader, RingWriter, State, now_ns

try:
    from direct.showbase.ShowBase import ShowBase
    from panda3d import core as panda
except ModuleNotFoundError:
    sys.exit('this example needs Panda3D:  .venv/bin/python -m pip install -c constraints.txt -e ".[examples]"')

SIZE = 192
WALL_SIZE = 256
"""Pixels of the wall's texture; the software renderer draws powers of two only."""
FIELD_DEG = 50.0
FAR_M = 16.0
LEVELS = 4096
SETTINGS = "win-size 768 576\nclock-mode limited\nclock-frame-rate 30\naudio-library-name null\n"
OFFSCREEN = "load-display p3tinydisplay\nwindow-type offscreen\n"
STAGE = panda.BitMask32.bit(1)
"""What the camera of the stage sees."""


def build_stage(base: ShowBase) -> list[panda.NodePath]:
    """Floor and lights; returns the shapes that move. Panda3D: x right, y forward, z up, metres."""
    stage = base.render.attachNewNode("stage")
    card = panda.CardMaker("tile")
    card.setFrame(-0.5, 0.5, -0.5, 0.5)
    card.setHasNormals(True)
    for x in range(-6, 7):
        for y in range(-4, 10):  # many small tiles: the software renderer lights and textures by corners
            tile = stage.attachNewNode(card.generate())
            tile.setPosHpr(x, y, 0, 0, -90, 0)
            tile.setColor(0.6, 0.6, 0.6, 1)
    ball, box, small = (base.loader.loadModel(f"models/{name}") for name in ("smiley", "box", "smiley"))
    for shape, scale in ((ball, 0.8), (box, 1.3), (small, 0.45)):
        shape.reparentTo(stage)
        shape.setScale(scale)
        shape.setTextureOff(1)
        shape.setColor((0.8, 0.8, 0.8, 1), 1)
    sun = stage.attachNewNode(panda.DirectionalLight("sun"))
    sun.setHpr(-40, -50, 0)
    sky = stage.attachNewNode(panda.AmbientLight("sky"))
    sky.node().setColor((0.35, 0.35, 0.35, 1))
    for light in (sun, sky):
        stage.setLight(light)
    return [ball, box, small]


def move(shapes: list[panda.NodePath], time_s: float) -> None:
    ball, box, small = shapes
    ball.setPos(-1.4 + 0.5 * math.sin(time_s), 3.0, 0.8 + 0.7 * abs(math.sin(2 * time_s)))
    box.setPosHpr(1.2, 3.6 + 0.8 * math.sin(0.7 * time_s), 0.7, 40 * time_s, 0, 0)
    small.setPos(2.2 * math.cos(0.8 * time_s), 1.6 + 1.2 * math.sin(0.8 * time_s), 0.45)


def build_wall(base: ShowBase) -> panda.Texture:
    """A wall behind the shapes, hidden from the stage's camera; returns its texture."""
    texture = panda.Texture("painted")
    texture.setup2dTexture(WALL_SIZE, WALL_SIZE, panda.Texture.TUnsignedByte, panda.Texture.FRgba8)
    texture.setClearColor((0.1, 0.1, 0.1, 1))
    card = panda.CardMaker("wall")
    card.setFrame(-2.9, 2.9, 0, 5.8)
    wall = base.render.attachNewNode(card.generate())
    wall.setPos(0, 7, 0.3)
    wall.setTexture(texture)
    wall.hide(STAGE)
    return texture


def add_camera(base: ShowBase, name: str) -> tuple[panda.Camera, panda.Texture]:
    """A camera of the stage, and the texture whose memory holds what it saw (BGRA, bottom row first)."""
    texture = panda.Texture(name)
    buffer = base.win.makeTextureBuffer(name, SIZE, SIZE, texture, True)
    buffer.setClearColor((0.55, 0.58, 0.62, 1))
    path = base.makeCamera(buffer, scene=base.render)
    path.reparentTo(base.render)
    path.setPosHpr(0, -2.2, 2.0, 0, -10, 0)
    camera = path.node()
    camera.setCameraMask(STAGE)
    camera.getLens().setFov(FIELD_DEG)
    camera.getLens().setNearFar(0.3, FAR_M)
    return camera, texture


def paint_depth(camera: panda.Camera) -> None:
    """Let a camera see distance as colour: a texture lies along its axis, with the level in red and green.

    It works without shaders, and where depth buffers cannot be read, as in the software renderer.
    """
    levels = np.arange(LEVELS) * (65536 // LEVELS)
    bgr = np.stack([0 * levels, levels % 256, levels // 256], axis=-1).astype(np.uint8)
    ramp = panda.Texture("ramp")
    ramp.setup2dTexture(LEVELS, 1, panda.Texture.TUnsignedByte, panda.Texture.FRgb)
    ramp.setRamImage(bgr.tobytes())
    ramp.setMinfilter(panda.SamplerState.FTNearest)
    ramp.setMagfilter(panda.SamplerState.FTNearest)
    ramp.setWrapU(panda.SamplerState.WMClamp)
    look = panda.NodePath("look")
    stage = panda.TextureStage.getDefault()
    # 2: above what the shapes say of themselves.
    look.setAttrib(panda.TextureAttrib.make(ramp), 2)
    look.setTexGen(stage, panda.TexGenAttrib.MEyePosition)
    along = panda.LMatrix4f(0, 0, 0, 0, 1 / FAR_M, 0, 0, 0, 0, 0, 0, 0, 0, 0.5, 0, 1)  # u = y / FAR_M, v = 0.5
    look.setTexTransform(stage, panda.TransformState.makeMat(along))
    look.setLightOff(2)
    look.setColor((1, 1, 1, 1), 2)
    camera.setInitialState(look.getState())


def pixels(texture: panda.Texture) -> np.ndarray:
    """What a camera saw: uint8 (height, width, BGRA), bottom row first."""
    return np.frombuffer(texture.getRamImage(), np.uint8).reshape(SIZE, SIZE, 4)


def metres(seen: np.ndarray) -> np.ndarray:
    """Depth along the axis, float32 (height, width), from what a camera of `paint_depth` saw; no thing: infinite."""
    levels = seen[..., 2] * np.float32(256) + seen[..., 1]
    return np.where(seen[..., 0] > 0, np.inf, levels * np.float32(FAR_M / 65536)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="A scene in Panda3D that shows itself repainted; see the top.")
    parser.add_argument("--channel", default="demo")
    parser.add_argument("--offscreen", action="store_true", help="software rendering without a window")
    parser.add_argument("--results", type=int, default=None, help="stop after so many (default with --offscreen: 300)")
    parser.add_argument("--save", type=Path, default=Path("out/wall.png"), metavar="FILE", help="of the last view")
    args = parser.parse_args()
    until = args.results or (300 if args.offscreen else None)

    panda.loadPrcFileData("", SETTINGS + (OFFSCREEN if args.offscreen else ""))
    with RingWriter(f"{args.channel}.in") as to_host, RingReader(f"{args.channel}.out") as from_host:
        if from_host.state is State.LIVE:
            run(ShowBase(), to_host, from_host, until, args.save if args.offscreen else None)
        if from_host.state is not State.LIVE:
            sys.exit(
                f"no host is there for channel {args.channel!r}: start one with  "
                f"python3 run.py host --channel {args.channel}"
            )


def run(base: ShowBase, to_host: RingWriter, from_host: RingReader, until: int | None, save: Path | None) -> None:
    """Move, send, and hang up what comes back, until `until` results came or the host is gone."""
    base.disableMouse()
    base.accept("escape", sys.exit)
    base.setBackgroundColor(0.08, 0.08, 0.1, 1)
    base.camera.setPosHpr(0, -9, 3.4, 0, -4, 0)
    shapes = build_stage(base)
    wall = build_wall(base)
    _, colour = add_camera(base, "colour")
    depth_camera, depth = add_camera(base, "depth")
    paint_depth(depth_camera)
    focal_px = SIZE / 2 / math.tan(math.radians(FIELD_DEG) / 2)
    started_ns = now_ns()
    number = results = 0
    while from_host.state is State.LIVE and (until is None or results < until):
        move(shapes, number / 30)
        number += 1
        captured_ns = now_ns()
        base.taskMgr.step()  # draws, and waits for the next thirtieth of a second
        if not colour.hasRamImage():
            continue
        to_host.write(
            {Kind.COLOUR: pixels(colour), Kind.DEPTH: metres(pixels(depth))},
            source_frame_id=number,
            capture_ns=captured_ns,
            formats={Kind.COLOUR: Format.BGRA8},
            origin=Origin.BOTTOM_LEFT,
            intrinsics=(focal_px, focal_px, SIZE / 2, SIZE / 2),
        )
        frame = from_host.read()
        if frame is not None and frame.capture_ns > started_ns:
            results += 1
            painted = cv2.resize(frame.planes[Kind.COLOUR], (WALL_SIZE, WALL_SIZE), interpolation=cv2.INTER_LINEAR)
            wall.setRamImage(cv2.cvtColor(painted[::-1], cv2.COLOR_RGBA2BGRA).tobytes())
    print(f"{number} frames written, {results} results hung up")
    if save is not None and results:
        base.taskMgr.step()
        save.parent.mkdir(parents=True, exist_ok=True)
        base.win.saveScreenshot(panda.Filename.fromOsSpecific(str(save)))
    base.destroy()


if __name__ == "__main__":
    try:
        main()
    except RingError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
