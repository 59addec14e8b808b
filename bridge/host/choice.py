"""What a host changes while it runs, its model, what is added to that, and its size: the old ones paint until the new
ones are ready. And the models, LoRAs and ControlNets that it may change to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from bridge.control.live import LiveParams
from bridge.host.config import HostConfig, HostError
from bridge.host.loading import Loaded, Models, check
from bridge.host.planner import RECOVERABLE, Planner, wanted
from bridge.ring.scheduling import modest
from core.params import (
    AS_STARTED,
    CONTROL_NETS,
    CONTROL_SOURCES,
    LORA_FILES,
    NONE,
    Params,
    params_for,
    size_of,
)

MAX_CHOICES = 200
LEAVE_S = 0.5
"""Frames that are on their way in an old model leave it within so long."""
WHY_CHARS = 300
"""Of an error, in one message."""
LOADED = ("model", *CONTROL_NETS, *LORA_FILES)
"""The parameters that say what is loaded."""

Item = TypeVar("Item")


def choices(config: HostConfig) -> dict[str, str | Path]:
    """Models by the names that `Params.model` may have: the one that the host started with, and, where there is a
    folder of models, the embedded one and whatever that folder holds now."""
    found: dict[str, str | Path] = {AS_STARTED: config.model}
    if config.models_folder is not None:
        found["embedded"] = "embedded"
        found |= {path.name: path for path in _models_in(config.models_folder)}
    return found


def additions(config: HostConfig) -> dict[str, list[str]]:
    """What those of `CONTROL_NETS` and `LORA_FILES` may be that have a folder to choose from."""
    found: dict[str, list[str]] = {}
    if config.controls_folder is not None:
        found |= dict.fromkeys(CONTROL_NETS, [AS_STARTED, NONE, *_controls_in(config.controls_folder)])
    if config.loras_folder is not None:
        found |= dict.fromkeys(LORA_FILES, [AS_STARTED, NONE, *_loras_in(config.loras_folder)])
    return found


def equipped(config: HostConfig, chosen: Mapping[str, str]) -> HostConfig:
    """What to load where the host was started so and the parameters `LOADED` are as chosen. Raises `HostError`."""
    there, name = choices(config), chosen["model"]
    if name not in there:
        raise HostError(f"this host has no such model; {_hint(config.models_folder, 'models', there)}")
    model = there[name]
    if str(model) != str(config.model):
        # What was given for the first model is for that one.
        config = replace(
            config, model=model, loras=(), controls=(), adapter=None, references=(), embeddings=(), prediction=None
        )
    loras = _filled(config.loras, LORA_FILES, chosen, "loras", config.loras_folder, _loras_in)
    controls = _filled(config.controls, CONTROL_NETS, chosen, "controls", config.controls_folder, _controls_in)
    if None in controls:
        raise HostError(f"ControlNets are counted without gaps; choose {CONTROL_NETS[0]} first")
    return replace(config, loras=loras, controls=controls)


def _filled(
    given: Sequence[Item | None],
    names: Sequence[str],
    chosen: Mapping[str, str],
    option: str,
    folder: Path | None,
    look: Callable[[Path], Mapping[str, Item]],
) -> tuple[Any, ...]:
    """What is in the places of these names, None where nothing is, to the last that is taken."""
    filled: list[Item | None] = [*given, *[None] * (len(names) - len(given))]
    for place, name in enumerate(names):
        if chosen[name] == AS_STARTED:
            continue
        found: Mapping[str, Item | None] = {NONE: None, **({} if folder is None else look(folder))}
        if chosen[name] not in found:
            raise HostError(f"this host has none of that name; {_hint(folder, option, (AS_STARTED, *found))}")
        filled[place] = found[chosen[name]]
    while filled and filled[-1] is None:
        filled.pop()
    return tuple(filled)


def _hint(folder: Path | None, option: str, there: Iterable[str]) -> str:
    return f"start the host with --{option} FOLDER" if folder is None else f"take {', '.join(there)}"


def _loras_in(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in _listed(folder) if path.suffix == ".safetensors" and path.is_file()}


def _controls_in(folder: Path) -> dict[str, tuple[str, Path]]:
    """In folders that say what they are shown: FOLDER/depth/NAME."""
    return {
        f"{source}/{path.name}": (source, path)
        for source in CONTROL_SOURCES
        for path in _listed(folder / source)
        if (path / "config.json").is_file()
    }


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))[:MAX_CHOICES]
    except OSError:
        return []


def in_words(size: tuple[int, ...]) -> str:
    """A `Params.size` for people."""
    pixels = size_of(size)
    return "the size at the start" if pixels is None else "{}x{}".format(*pixels)


def _models_in(folder: Path) -> list[Path]:
    from core.folder import ModelError
    from core.hub import located
    from core.layouts import refuse_other_layouts

    found = []
    for path in _listed(folder):
        try:
            refuse_other_layouts(located(str(path)))
            found.append(path)
        except (ModelError, OSError):
            continue
    return found


class Change:
    """Follows the parameters `LOADED` and `size` of a host that runs.

    loaded: what runs now. changed(loaded, config): called when another one does, with what the host would have been
    started with for it. `run` is to have a thread of its own.
    """

    def __init__(
        self,
        config: HostConfig,
        live: LiveParams,
        models: Models,
        loaded: Loaded,
        planner: Planner,
        complain: Callable[[str, str], None],
        changed: Callable[[Loaded, HostConfig], None],
    ) -> None:
        self.preparing = ""
        """What is being made ready, in words; nothing: ""."""
        self._config = config
        self._live = live
        self._models = models
        # Lanes stay as they are.
        self._running = replace(config, overlap=loaded.overlap)
        self._execution = loaded.execution
        self._planner = planner
        self._complain = complain
        self._changed = changed
        self._chosen = dict.fromkeys(LOADED, AS_STARTED)
        self._stop = threading.Event()
        self._wake = threading.Event()

    def stop(self) -> None:
        """Let `run` end, after what is being made ready."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Until `stop`."""
        unsubscribe = self._live.subscribe(lambda params, revision: self._wake.set())
        try:
            while not self._stop.is_set():
                now = self._live.current
                if any(getattr(now, name) != value for name, value in self._chosen.items()):
                    self._follow_loaded(now)
                elif now.size != self._planner.size:
                    self._follow_size(now.size)
                else:
                    self._wake.wait()
                    self._wake.clear()
        finally:
            unsubscribe()

    def _follow_loaded(self, now: Params) -> None:
        chosen = {name: getattr(now, name) for name in LOADED}
        asked = {name: value for name, value in chosen.items() if value != self._chosen[name]}
        before = {name: self._chosen[name] for name in asked}
        stays = Path(self._running.model).name if "model" in asked else ", ".join(before.values())
        said = ", ".join(f"{name} {value!r}" for name, value in asked.items())
        self._follow(lambda: self._load(chosen), asked, before, f"{said} cannot be used, {stays} goes on")

    def _follow_size(self, size: tuple[int, ...]) -> None:
        before = self._planner.size
        said = f"size {in_words(size)} cannot be used, {in_words(before)} goes on"
        self._follow(lambda: self._use_size(size), {"size": size}, {"size": before}, said)

    def _follow(self, use: Callable[[], None], asked: Mapping[str, Any], before: Mapping[str, Any], said: str) -> None:
        """Change to other values of parameters. Those that are not available are told, and taken back."""
        try:
            # On a thread that ends with it, and what torch keeps for that thread, too.
            with ThreadPoolExecutor(1, initializer=self._beside_frames) as alone:
                alone.submit(use).result()
        except (HostError, *RECOVERABLE) as error:
            why = " ".join(str(error).split())[:WHY_CHARS] or type(error).__name__
            self._complain(next(iter(asked)), f"{said}: {why}")
            # Unless somebody has asked for yet another one meanwhile.
            self._live.adjust(
                lambda now: {name: before[name] for name, value in asked.items() if getattr(now, name) == value}
            )
        finally:
            self.preparing = ""

    def _beside_frames(self) -> None:
        if self._execution is not None:
            from bridge.host.cpu_threads import one_thread

            one_thread()
            modest()

    def _use_size(self, size: tuple[int, ...]) -> None:
        self.preparing = f"preparing {in_words(size)}"
        self._planner.use_size(size)

    def _load(self, chosen: dict[str, str]) -> None:
        config = equipped(replace(self._config, overlap=self._running.overlap), chosen)
        # A folder is the same by its text, given as a path or not.
        now, then = (replace(one, model=str(one.model)) for one in (self._running, config))
        if now != then:
            self.preparing = (
                f"loading {', '.join(chosen[name] for name in LOADED if chosen[name] != self._chosen[name])}"
            )
            check(config)
            loaded = self._models.load(config, wanted(self._live, self._config)[0], self._execution)
            if self._stop.is_set():
                return
            # What the old model is made of is freed here and not where frames are, which that would hold up.
            until_frames_left_it = self._planner.work
            old, new = params_for(str(self._running.model)), params_for(str(config.model))
            self._planner.use_model(loaded.model, loaded.plain, before=lambda: self._start_values(old, new))
            self._changed(loaded, config)
            self._running, self._execution = config, loaded.execution
            self._chosen, self.preparing = chosen, ""
            self._stop.wait(LEAVE_S)
            del until_frames_left_it
        self._chosen = chosen

    def _start_values(self, old: Params, new: Params) -> None:
        """What is still as the old model starts becomes as the new one does."""
        before, after = asdict(old), asdict(new)

        def moved(now: Params) -> dict[str, object]:
            values = asdict(now)
            return {key: after[key] for key in after if before[key] != after[key] and values[key] == before[key]}

        self._live.adjust(moved)
