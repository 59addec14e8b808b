"""The models that a host may change to while it runs, and the change: the old one paints until the new one is ready."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from bridge.control.live import LiveParams
from bridge.host.config import HostConfig, HostError
from bridge.host.loading import Loaded, Models, check
from bridge.host.planner import RECOVERABLE, Planner, wanted
from core.params import AS_STARTED, Params, params_for

MAX_CHOICES = 200


def choices(config: HostConfig) -> dict[str, str | Path]:
    """Models by the names that `Params.model` may have: the one that the host started with, and, where there is a
    folder of models, the embedded one and whatever that folder holds now."""
    found: dict[str, str | Path] = {AS_STARTED: config.model}
    if config.models_folder is not None:
        found["embedded"] = "embedded"
        found |= {path.name: path for path in _models_in(config.models_folder)}
    return found


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


class ModelChange:
    """Follows the parameter `model` of a host that runs.

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
        self.loading: str | None = None
        """The name of the model that is being loaded, if one is."""
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
        """Let `run` end, after the model that is being loaded."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Until `stop`."""
        unsubscribe = self._live.subscribe(lambda params, revision: self._wake.set())
        try:
            while not self._stop.is_set():
                name = self._live.current.model
                if name == self._name:
                    self._wake.wait()
                    self._wake.clear()
                    continue
                try:
                    self._change(name)
                except (HostError, *RECOVERABLE) as error:
                    self._complain("model", f"model {name!r} cannot be used, {self._called} goes on: {error}")
                    self._take_back(name)
                finally:
                    self.loading = None
        finally:
            unsubscribe()

    def _take_back(self, name: str) -> None:
        # Unless somebody has asked for yet another one meanwhile.
        self._live.adjust(lambda now: {"model": self._name} if now.model == name else {})

    @property
    def _called(self) -> str:
        return Path(self._model).name

    def _change(self, name: str) -> None:
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
            self.loading = name
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
