"""What a host changes while it runs, its model and its size: the old one paints until the new one is ready. And the
models that it may change to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bridge.control.live import LiveParams
from bridge.host.config import HostConfig, HostError
from bridge.host.loading import Loaded, Models, check
from bridge.host.planner import RECOVERABLE, Planner, wanted
from core.params import AS_STARTED, Params, params_for, size_of

MAX_CHOICES = 200
WHY_CHARS = 300
"""Of an error, in one message."""


def choices(config: HostConfig) -> dict[str, str | Path]:
    """Models by the names that `Params.model` may have: the one that the host started with, and, where there is a
    folder of models, the embedded one and whatever that folder holds now."""
    found: dict[str, str | Path] = {AS_STARTED: config.model}
    if config.models_folder is not None:
        found["embedded"] = "embedded"
        found |= {path.name: path for path in _models_in(config.models_folder)}
    return found


def in_words(size: tuple[int, ...]) -> str:
    """A `Params.size` for people."""
    pixels = size_of(size)
    return "the size at the start" if pixels is None else "{}x{}".format(*pixels)


def _models_in(folder: Path) -> list[Path]:
    from core.folder import ModelError
    from core.hub import located
    from core.layouts import refuse_other_layouts

    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))[:MAX_CHOICES]
    except OSError:
        return []
    found = []
    for path in paths:
        try:
            refuse_other_layouts(located(str(path)))
            found.append(path)
        except (ModelError, OSError):
            continue
    return found


class Change:
    """Follows the parameters `model` and `size` of a host that runs.

    loaded: what runs now. changed(loaded, model): called when another one does, with what `HostConfig.model` would be
    for it. `run` is to have a thread of its own.
    """

    def __init__(
        self,
        config: HostConfig,
        live: LiveParams,
        models: Models,
        loaded: Loaded,
        planner: Planner,
        complain: Callable[[str, str], None],
        changed: Callable[[Loaded, str | Path], None],
    ) -> None:
        self.preparing = ""
        """What is being made ready, in words; nothing: ""."""
        self._config = config
        self._live = live
        self._models = models
        self._overlap = loaded.overlap
        self._planner = planner
        self._complain = complain
        self._changed = changed
        self._name = AS_STARTED
        self._model = config.model
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
                if now.model != self._name:
                    self._follow(self._use_model, "model", now.model)
                elif now.size != self._planner.size:
                    self._follow(self._use_size, "size", now.size)
                else:
                    self._wake.wait()
                    self._wake.clear()
        finally:
            unsubscribe()

    def _follow(self, use: Callable[[Any], None], name: str, value: Any) -> None:
        """Change to another value of a parameter. One that is not available is told, and taken back."""
        try:
            # On a thread that ends with it: the CPU threads that torch gives to one, where a model is measured, go with
            # it, and would be in the frame path's way otherwise (`bridge.host.cpu_threads.one_thread`).
            with ThreadPoolExecutor(1) as alone:
                alone.submit(use, value).result()
        except (HostError, *RECOVERABLE) as error:
            running = {"model": self._name, "size": self._planner.size}[name]
            asked, stays = (repr(value), Path(self._model).name) if name == "model" else map(in_words, (value, running))
            why = " ".join(str(error).split())[:WHY_CHARS] or type(error).__name__
            self._complain(name, f"{name} {asked} cannot be used, {stays} goes on: {why}")
            # Unless somebody has asked for yet another one meanwhile.
            self._live.adjust(lambda now: {name: running} if getattr(now, name) == value else {})
        finally:
            self.preparing = ""

    def _use_size(self, size: tuple[int, ...]) -> None:
        self.preparing = f"preparing {in_words(size)}"
        self._planner.use_size(size)

    def _use_model(self, name: str) -> None:
        there = choices(self._config)
        if name not in there:
            more = (
                "start the host with --models FOLDER"
                if self._config.models_folder is None
                else f"take {', '.join(there)}"
            )
            raise HostError(f"this host has no such model; {more}")
        model = there[name]
        if str(model) != str(self._model):
            self.preparing = f"loading {name}"
            # Lanes stay as they are. What was given for the first model is for that one.
            config = replace(self._config, model=model, overlap=self._overlap)
            if model != self._config.model:
                config = replace(
                    config, loras=(), controls=(), adapter=None, references=(), embeddings=(), prediction=None
                )
            check(config)
            loaded = self._models.load(config, wanted(self._live, self._config)[0])
            if self._stop.is_set():
                return
            old, new = params_for(str(self._model)), params_for(str(model))
            self._planner.use_model(loaded.model, loaded.plain, before=lambda: self._start_values(old, new))
            self._changed(loaded, model)
        self._name, self._model = name, model

    def _start_values(self, old: Params, new: Params) -> None:
        """What is still as the old model starts becomes as the new one does."""
        before, after = asdict(old), asdict(new)

        def moved(now: Params) -> dict[str, object]:
            values = asdict(now)
            return {key: after[key] for key in after if before[key] != after[key] and values[key] == before[key]}

        self._live.adjust(moved)
