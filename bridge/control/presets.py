"""The presets of one channel: what is saved, recalled and morphed, and the one table of what may be asked for.

OSC (`/preset/recall NAME`) and the page (`{"type": "preset", "do": "recall", "name": NAME}`) both read `COMMANDS`.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bridge.control.live import LiveParams
from bridge.control.morph import BLENDS, EASINGS, NEW_NOISE, USUAL_EASING, between
from bridge.control.shelf import MAX_NAME_CHARS, PresetError, Shelf
from core.params import SPECS, Params

MORPH_HZ = 30.0
MAX_MORPH_S = 600.0
MIN_TRAVEL_S = 0.2

__all__ = ["COMMANDS", "PresetCommand", "PresetError", "Presets", "from_fields", "from_words"]


class Presets:
    """The presets of `shelf` for the channel whose parameters are `live`.

    look: gives a thumbnail of what the channel shows now, a small JPEG, or nothing; it may take a moment. Any thread
    may call; all raise `PresetError` with a sentence, and nothing has changed then.
    """

    def __init__(self, live: LiveParams, shelf: Shelf, look: Callable[[], bytes] = bytes) -> None:
        self.live = live
        self.shelf = shelf
        self._look = look
        self._one_after_another = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.morphing = ""
        """The preset that a morph is on its way to, or nothing."""
        self.travelling = False
        """Whether the noise is on its way from seed to seed."""

    def save(self, name: str, replaces: str | None = None) -> str:
        """Save the parameters in force; see `Shelf.save`."""
        return self.shelf.save(name, self.live.current, self._look(), replaces).name

    def recall(self, name: str | int) -> str:
        """Set everything that a preset says, between the same two frames. Returns what could not be used, or ""."""
        preset = self.shelf.get(name)
        with self._one_after_another:
            self.stop()
            self.live.update(preset.values)
        return "; ".join(preset.notes)

    def morph(self, start: str | int, name: str | int, seconds: float, easing: str = USUAL_EASING) -> str:
        """Go from one preset ("": from what is in force) to another in so many seconds; returns at once.

        A parameter that somebody sets meanwhile is theirs from then on; a second morph, and a recall, end the first.
        Returns what could not be used, or "".
        """
        _check_seconds("morph", seconds, 0.0)
        if not isinstance(easing, str) or easing not in EASINGS:
            raise PresetError(f"morph: unknown easing {str(easing)[:40]!r}; use one of {', '.join(EASINGS)}")
        first = None if start == "" else self.shelf.get(start)
        last = self.shelf.get(name)
        notes = "; ".join([*(() if first is None else first.notes), *last.notes])
        with self._one_after_another:
            self.stop()
            if first is not None:
                self.live.update(first.values)
            self.morphing = last.name
            self._run(self._morph, dict(last.values), float(seconds), EASINGS[easing])
        return notes

    def travel(self, seconds: float) -> None:
        """Let the noise walk from seed to seed, each drawn at random and reached in so many seconds; returns at once.

        Goes on until `stop`, a recall or a morph, or until somebody sets a seed.
        """
        _check_seconds("travel", seconds, MIN_TRAVEL_S)
        with self._one_after_another:
            self.stop()
            self.travelling = True
            self._run(self._travel, float(seconds))

    def _run(self, way: Callable[..., None], *about: Any) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=way, args=(*about, self._stop), name="morph", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End a morph or a travel where it is; harmless when there is none."""
        with self._one_after_another:
            self._stop.set()
            if self._thread is not None:
                self._thread.join()
            self._thread = None

    def _morph(
        self, last: dict[str, Any], seconds: float, easing: Callable[[float], float], stop: threading.Event
    ) -> None:
        try:
            self._go(last, seconds, easing, stop)
        finally:
            if self._stop is stop:
                self.morphing = ""

    def _travel(self, seconds: float, stop: threading.Event) -> None:
        try:
            now = self.live.current
            if now.seed == NEW_NOISE:
                self.live.update({"seed": _any_seed(), "seed_mix": 0.0})
            elif now.seed_mix > 0.0:
                # It was left between two seeds: the rest of that way first.
                rest = {"seed": now.seed, "seed_to": now.seed_to, "seed_mix": 1.0}
                if not self._go(rest, seconds * (1.0 - now.seed_mix), EASINGS["linear"], stop):
                    return
                self.live.update({"seed": now.seed_to, "seed_mix": 0.0})
            target = _any_seed()
            while self._go({"seed": target, "seed_to": target, "seed_mix": 0.0}, seconds, EASINGS["linear"], stop):
                target = _any_seed()
        finally:
            if self._stop is stop:
                self.travelling = False

    def _go(
        self, last: dict[str, Any], seconds: float, easing: Callable[[float], float], stop: threading.Event
    ) -> bool:
        """Bring some values into force over so many seconds. Whether they are: False where that was stopped, or where
        somebody else has set all of them."""
        glide = Glide(self.live.current, last)
        began = time.monotonic()
        while not stop.is_set():
            share = 1.0 if seconds == 0.0 else min(1.0, (time.monotonic() - began) / seconds)
            eased = 1.0 if share == 1.0 else easing(share)
            self.live.adjust(lambda now, eased=eased: glide.values(now, eased))  # type: ignore[misc]
            if share == 1.0 or not glide.left:
                return bool(glide.left)
            stop.wait(1.0 / MORPH_HZ)
        return False


def _check_seconds(do: str, seconds: Any, low: float) -> None:
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not low <= seconds <= MAX_MORPH_S:
        raise PresetError(f"{do}: got {repr(seconds)[:40]} seconds; send a number from {low:g} to {MAX_MORPH_S:g}")


def _any_seed() -> int:
    high = SPECS["seed_to"].high
    assert high is not None
    return secrets.randbelow(int(high) + 1)


class Glide:
    """A morph from what is in force to some values, without the parameters that somebody else sets on the way."""

    def __init__(self, first: Params, last: Mapping[str, Any]) -> None:
        self._first = asdict(first)
        self.left = dict(last)
        """What nobody else has set meanwhile."""
        self._set: dict[str, Any] = {}

    def values(self, now: Params, share: float) -> dict[str, Any]:
        """What to set at `share` of the way, 0 to 1; `now` is in force."""
        given_up = {name for name, value in self._set.items() if getattr(now, name) != value}
        back: dict[str, Any] = {}
        for blend in BLENDS:
            if given_up & set(blend):
                # Whoever writes a prompt in the middle of a cross-fade wants that prompt, and not a share of it.
                back |= {name: self._first[name] for name in blend[1:] if name in self._set and name not in given_up}
                given_up |= set(blend)
        for name in given_up:
            self.left.pop(name, None)
        self._set = between(self._first, self.left, share)
        return {**back, **self._set}


@dataclass(frozen=True)
class PresetCommand:
    """One thing that may be asked for.

    fields: what it takes, in order; those after `needed` may be left out. run(presets, **fields) returns a sentence
    about what could not be done, or "".
    """

    fields: tuple[str, ...]
    needed: int
    run: Callable[..., str]
    changes: bool = False
    """Whether it writes files, and so may take a while."""


def _save(presets: Presets, name: Any, replaces: Any = None) -> str:
    if replaces is not None and not isinstance(replaces, str):
        raise PresetError('save: "replaces" is the digest of the preset to replace, or "" for none')
    presets.save(name, replaces)
    return ""


def _rename(presets: Presets, name: Any, to: Any) -> str:
    presets.shelf.rename(name, to)
    return ""


def _delete(presets: Presets, name: Any) -> str:
    presets.shelf.delete(name)
    return ""


def _restore(presets: Presets, name: Any) -> str:
    presets.shelf.restore(name)
    return ""


def _reorder(presets: Presets, names: Any) -> str:
    presets.shelf.reorder(names)
    return ""


def _recall(presets: Presets, name: Any) -> str:
    return presets.recall(_wanted(name))


def _morph(presets: Presets, start: Any, name: Any, seconds: Any, easing: Any = USUAL_EASING) -> str:
    return presets.morph(_wanted(start), _wanted(name), seconds, easing)


def _travel(presets: Presets, seconds: Any) -> str:
    presets.travel(seconds)
    return ""


def _stop(presets: Presets) -> str:
    presets.stop()
    return ""


def _wanted(name: Any) -> str | int:
    """A preset by its name, or by its place: controllers send whole numbers, some of them as floats."""
    if isinstance(name, float) and name.is_integer():
        return int(name)
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise PresetError("send the name of a preset, or its place, counted from 1")
    return name


COMMANDS: Mapping[str, PresetCommand] = {
    "save": PresetCommand(("name", "replaces"), 1, _save, changes=True),
    "recall": PresetCommand(("name",), 1, _recall),
    "morph": PresetCommand(("start", "name", "seconds", "easing"), 3, _morph),
    "travel": PresetCommand(("seconds",), 1, _travel),
    "stop": PresetCommand((), 0, _stop),
    "rename": PresetCommand(("name", "to"), 2, _rename, changes=True),
    "delete": PresetCommand(("name",), 1, _delete, changes=True),
    "restore": PresetCommand(("name",), 1, _restore, changes=True),
    "reorder": PresetCommand(("names",), 1, _reorder, changes=True),
}
_LAST_IS_A_LIST = frozenset({"reorder"})
_ONE_NAME = frozenset({"recall", "save", "delete", "restore"})
"""Those whose words are all of one name: patchers send every word of a text as an argument of its own."""


def from_words(presets: Presets, do: str, words: Sequence[Any]) -> str:
    """Run a command whose fields come in order, as OSC sends them: see `PresetCommand.run`."""
    command = _known(do)
    if do in _LAST_IS_A_LIST:
        words = [list(words)]
    elif do in _ONE_NAME and len(words) > 1:
        words = [" ".join(map(str, words))]
    elif do == "morph" and len(words) == 2:
        words = ["", *words]  # from what is in force
    if not command.needed <= len(words) <= len(command.fields):
        takes = " ".join(field.upper() for field in command.fields[: command.needed]) or "nothing"
        raise PresetError(f"{do}: got {len(words)} values; send {takes}")
    return command.run(presets, **dict(zip(command.fields, words, strict=False)))


def from_fields(presets: Presets, do: Any, fields: Mapping[str, Any]) -> str:
    """Run a command whose fields come by name, as the page sends them: see `PresetCommand.run`."""
    command = _known(do)
    given = {name: fields[name] for name in command.fields if name in fields}
    lacking = [name for name in command.fields[: command.needed] if name not in given]
    if lacking:
        raise PresetError(f"{do}: send {', '.join(lacking)}, too")
    return command.run(presets, **given)


def _known(do: Any) -> PresetCommand:
    if not isinstance(do, str) or do not in COMMANDS:
        raise PresetError(f"unknown command {str(do)[:MAX_NAME_CHARS]!r} for presets; use one of {', '.join(COMMANDS)}")
    return COMMANDS[do]
