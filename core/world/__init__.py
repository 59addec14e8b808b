"""The procedural world: the demo's game, the embedded model's training set and the truth that tests compare with."""

from core.world.scene import COLOUR_NAMES, COLOURS, SHAPES, Scenes, caption, scenes_from_seeds
from core.world.shade import COLOURED_STYLES, STYLES
from core.world.world import CLASSES, PLANES, T_CAM_LIDAR, View, World, view

__all__ = [
    "CLASSES",
    "COLOURED_STYLES",
    "COLOURS",
    "COLOUR_NAMES",
    "PLANES",
    "SHAPES",
    "STYLES",
    "T_CAM_LIDAR",
    "Scenes",
    "View",
    "World",
    "caption",
    "scenes_from_seeds",
    "view",
]
