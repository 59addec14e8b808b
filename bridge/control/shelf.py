"""Presets as files: one TOML file each in a folder of the user's, or beside a project.

A file holds the preset's name, every live parameter but the pause, and a thumbnail. Whatever is replaced or deleted is
kept in the subfolder `removed`. Files are read anew when they have changed, so that a folder may be edited by hand,
synchronised or used by several hosts. Knows nothing of who asks and of what the parameters do.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import difflib
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.atomic import replacing
from core.params import SPECS, ParamError, Params

FORMAT = 1
MAX_NAME_CHARS = 60
MAX_FILE_BYTES = 1 << 20
MAX_PRESETS = 500
MAX_THUMBNAIL_BYTES = 64 << 10
MAX_REMOVED = 200
"""So many replaced and deleted files are kept."""
NOT_SAVED = frozenset({"paused"})
"""Parameters that are no part of a look: a preset saved from a held picture must not hold the next one."""

LOCK_SECONDS = 5
"""So long a change waits for another program's; a change takes some milliseconds."""

_ORDER = "order.toml"
_LOCK = ".lock"
_REMOVED = "removed"
_NAME_LINE = re.compile(r"^name[ \t]*=.*$", re.MULTILINE)


class PresetError(ValueError):
    """Something could not be done with a preset; nothing has changed. The message says what to do."""


@dataclass(frozen=True)
class Preset:
    """One preset as its file has it.

    values: by the names of `core.params.SPECS`, checked; what the file does not say is not there. notes: what of the
    file cannot be used, in sentences. thumbnail: a JPEG, or nothing. digest: of the file, another after each change.
    """

    name: str
    values: Mapping[str, Any]
    notes: tuple[str, ...]
    thumbnail: bytes
    saved: str
    digest: str
    path: Path


@dataclass(frozen=True)
class Contents:
    """presets: in the user's order. problems: files that are none, in sentences."""

    presets: tuple[Preset, ...]
    problems: tuple[str, ...]


def users_folder() -> Path:
    """Where presets are kept unless somebody says otherwise."""
    if sys.platform == "win32":
        base = os.environ.get("APPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Roaming") / "frameloom" / "presets"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "frameloom" / "presets"
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "frameloom" / "presets"


class Shelf:
    """The presets of one folder, which is made with the first preset. Any thread may use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._read: dict[Path, tuple[tuple[int, ...], Preset | str | None]] = {}
        self._callbacks: tuple[Callable[[], None], ...] = ()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every change made here; returns what ends that. It must be quick and must not raise."""
        with self._lock:
            self._callbacks = (*self._callbacks, callback)

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks = tuple(c for c in self._callbacks if c is not callback)

        return unsubscribe

    def contents(self) -> Contents:
        """Everything that is there now. Never raises: what cannot be read is among the problems."""
        with self._lock:
            return self._contents()

    def get(self, wanted: str | int) -> Preset:
        """The preset of a name, or at a place, counted from 1. Raises `PresetError`."""
        presets = self.contents().presets
        if isinstance(wanted, int):
            if not 1 <= wanted <= len(presets):
                raise PresetError(f"no preset {wanted}; there are {len(presets)}")
            return presets[wanted - 1]
        name = clean_name(wanted)
        found = next((preset for preset in presets if preset.name == name), None)
        if found is None:
            names = {preset.name.casefold(): preset.name for preset in presets}
            near = difflib.get_close_matches(name.casefold(), names, 1)
            known = (
                f"did you mean {names[near[0]]!r}?" if near else f"there are {', '.join(names.values()) or 'none yet'}"
            )
            raise PresetError(f"no preset {name!r}; {known}"[:400])
        return found

    def save(self, name: str, params: Params, thumbnail: bytes = b"", replaces: str | None = None) -> Preset:
        """Keep `params` as a preset of this name.

        replaces: the digest of the preset that it may replace, "" for none; None replaces whatever is there. What is
        replaced goes to `removed`. Raises `PresetError`.
        """
        name = clean_name(name)
        with self._writing("saved"):
            presets = self._contents().presets
            old = next((preset for preset in presets if preset.name == name), None)
            if old is not None and replaces is not None and replaces != old.digest:
                raise PresetError(
                    f"there is a preset {name!r} already; replace it, or give another name"
                    if replaces == ""
                    else f"{name!r} was changed by somebody else meanwhile; look at it, then save again"
                )
            if old is None and len(presets) >= MAX_PRESETS:
                raise PresetError(f"there are {MAX_PRESETS} presets already; delete some")
            text = written(name, params, thumbnail)
            if old is not None:
                self._keep(old.path, copy=True)
                self._put(old.path, text)
            else:
                self._put(self._new_path(name), text)
            saved = self.get(name)
        self._told()
        return saved

    def rename(self, name: str, new_name: str) -> Preset:
        """Everything else of the file stays as it is, comments and unknown parameters too. Raises `PresetError`."""
        new_name = clean_name(new_name)
        with self._writing("renamed"):
            old = self.get(name)
            names = [preset.name for preset in self._contents().presets]
            if new_name == old.name:
                return old
            if new_name in names:
                raise PresetError(f"there is a preset {new_name!r} already; give another name")
            text = old.path.read_text(encoding="utf-8")
            line = f"name = {_toml(new_name)}"
            head, table, rest = text.partition("\n[")
            if _NAME_LINE.search(head) and not head.startswith("["):
                text = _NAME_LINE.sub(lambda _: line, head, count=1) + table + rest
            else:
                text = f"{line}\n{text}"
            # In this order: whatever happens in between, the preset is there.
            self._put(self._new_path(new_name), text)
            os.unlink(old.path)
            self._write_order([new_name if n == old.name else n for n in names])
            renamed = self.get(new_name)
        self._told()
        return renamed

    def delete(self, name: str) -> None:
        """Move a preset to `removed`; `restore` brings it back. Raises `PresetError`."""
        with self._writing("deleted"):
            self._keep(self.get(name).path, copy=False)
        self._told()

    def restore(self, name: str) -> Preset:
        """Bring back the preset of this name that was deleted last. Raises `PresetError`."""
        name = clean_name(name)
        with self._writing("restored"):
            if any(preset.name == name for preset in self._contents().presets):
                raise PresetError(f"there is a preset {name!r}; rename it first")
            path = self._deleted(name)
            self._put(self._new_path(name), path.read_text(encoding="utf-8"))
            path.unlink()
            restored = self.get(name)
        self._told()
        return restored

    def reorder(self, names: Sequence[str]) -> None:
        """Bring presets into this order; those not named follow as they were. Raises `PresetError`."""
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise PresetError("send the names of the presets in their new order")
        with self._writing("put in order"):
            now = [preset.name for preset in self._contents().presets]
            first = [name for name in dict.fromkeys(names) if name in now]
            self._write_order([*first, *(name for name in now if name not in first)])
        self._told()

    # -- files ---------------------------------------------------------------------------------------------------------

    def _contents(self) -> Contents:
        problems: list[str] = []
        found: dict[str, Preset] = {}
        seen: dict[Path, tuple[tuple[int, ...], Preset | str | None]] = {}
        for path in self._paths(problems):
            try:
                about = path.stat()
            except OSError:
                continue  # deleted meanwhile
            stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
            known = self._read.get(path)
            result = known[1] if known is not None and known[0] == stamp else _read(path)
            seen[path] = (stamp, result)
            if isinstance(result, str):
                problems.append(result)
            elif result is not None and result.name in found:
                problems.append(
                    f"{path.name}: its name {result.name!r} is that of {found[result.name].path.name}, too; give one of"
                    " the files another name"
                )
            elif result is not None:
                found[result.name] = result
        self._read = seen
        order = {name: place for place, name in enumerate(self._order(problems))}
        presets = sorted(found.values(), key=lambda p: (order.get(p.name, len(order)), p.name.casefold()))
        return Contents(tuple(presets), tuple(problems))

    def _paths(self, problems: list[str]) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == ".toml" and path.name != _ORDER)
        except FileNotFoundError:
            return []
        except OSError as error:
            problems.append(f"{self.folder} cannot be read ({error.strerror}); give another folder with --presets")
            return []

    def _order(self, problems: list[str]) -> list[str]:
        path = self.folder / _ORDER
        try:
            names = tomllib.loads(path.read_text(encoding="utf-8"))["names"]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            problems.append(f"{_ORDER} is damaged; the presets are shown by name until they are put in order again")
            return []
        return names

    def _write_order(self, names: Iterable[str]) -> None:
        lines = "".join(f"    {_toml(name)},\n" for name in names)
        self._put(self.folder / _ORDER, f"names = [\n{lines}]\n")

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Alone with the folder: nobody else changes it meanwhile. What files refuse is a `PresetError`."""
        import filelock  # not needed by those who only look

        with self._lock:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with filelock.FileLock(self.folder / _LOCK, timeout=LOCK_SECONDS):
                    yield
            except filelock.Timeout as error:
                raise PresetError(
                    f"the preset could not be {what}: another program has been changing {self.folder} for"
                    f" {LOCK_SECONDS} seconds; try again"
                ) from error
            except (OSError, UnicodeError) as error:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                raise PresetError(
                    f"the preset could not be {what} in {self.folder}: {why}; free some room there, or start the host"
                    " with --presets FOLDER"
                ) from error

    def _new_path(self, name: str) -> Path:
        """Where a new preset goes: nothing else may lie there."""
        path = self.folder / _file_name(name)
        if path.exists() and path.stat().st_size:
            raise PresetError(
                f"{path.name} is there already and is not the preset {name!r}, or is damaged; move it away, or give"
                " another name"
            )
        return path

    def _deleted(self, name: str) -> Path:
        for path in sorted((self.folder / _REMOVED).glob("*.toml"), key=_removed_at, reverse=True):
            found = _read(path)
            # A file without a name of its own was called by its file's name.
            if isinstance(found, Preset) and name in (found.name, found.name.rsplit(".", 1)[0]):
                return path
        raise PresetError(f"no preset {name!r} was deleted")

    def _put(self, path: Path, text: str) -> None:
        """Whole or not at all, whatever happens meanwhile."""
        with replacing(path) as draft, open(draft, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self._read.pop(path, None)

    def _keep(self, path: Path, copy: bool) -> None:
        """Put a file, or a copy of it, among the removed ones."""
        removed = self.folder / _REMOVED
        removed.mkdir(exist_ok=True)
        target = removed / f"{path.stem}.{time.time() * 1e6:.0f}.toml"
        if copy:
            shutil.copyfile(path, target)
        else:
            os.replace(path, target)
        for old in sorted(removed.glob("*.toml"), key=_removed_at)[:-MAX_REMOVED]:
            with contextlib.suppress(OSError):
                old.unlink()

    def _told(self) -> None:
        for callback in self._callbacks:
            callback()


def clean_name(name: Any) -> str:
    """A preset's name as it is kept. Raises `PresetError` for what can be none."""
    if not isinstance(name, str):
        raise PresetError("a preset's name is a text")
    name = unicodedata.normalize("NFC", " ".join("".join(c if c.isprintable() else " " for c in name).split()))
    if not name:
        raise PresetError("give the preset a name")
    if len(name) > MAX_NAME_CHARS:
        raise PresetError(f"a preset's name of {len(name)} characters; use at most {MAX_NAME_CHARS}")
    return name


def written(name: str, params: Params, thumbnail: bytes = b"") -> str:
    """The file of a preset, as text."""
    lines = [
        f"format = {FORMAT}",
        f"name = {_toml(name)}",
        f"saved = {datetime.now(UTC).isoformat(timespec='seconds')}",
        *([f'thumbnail = "{base64.b64encode(thumbnail).decode()}"'] if thumbnail else []),
        "",
        "[values]",
        *(f"{key} = {_toml(value)}" for key, value in asdict(params).items() if key not in NOT_SAVED),
    ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A value of `Params` as TOML 1.0. JSON's texts are TOML's but for one character that must be escaped."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


def _file_name(name: str) -> str:
    """Readable, safe on every system, and another one for every name: some systems take A and a for the same."""
    plain = re.sub(r"[^a-z0-9]+", "-", unicodedata.normalize("NFKD", name).lower()).strip("-")[:40]
    return f"{plain or 'preset'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.toml"


def _removed_at(path: Path) -> int:
    stamp = path.stem.rsplit(".", 1)[-1]
    return int(stamp) if stamp.isdigit() else 0


def _read(path: Path) -> Preset | str | None:
    """The preset in a file; a sentence where there is none, None for an empty file or one that has just gone."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if not data:
        return None
    if len(data) > MAX_FILE_BYTES:
        return f"{path.name} is larger than any preset ({MAX_FILE_BYTES >> 20} MiB); move it away"
    try:
        document = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return f"{path.name} is damaged ({str(error)[:100]}); correct it, or take an older one from {_REMOVED}"
    version = document.get("format", FORMAT)
    if version != FORMAT:
        return f"{path.name} has format {str(version)[:20]!r}; this version reads {FORMAT}: update frameloom to use it"
    given = document.get("values")
    if not isinstance(given, dict):
        return f"{path.name} is no preset: it has no table [values]"
    try:
        name = clean_name(document.get("name", path.stem))
    except PresetError as error:
        return f"{path.name}: {error}"
    values: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in given.items():
        if key not in SPECS:
            notes.append(f"{name}: unknown parameter {key[:40]!r} is left alone")
        elif key not in NOT_SAVED:
            try:
                values[key] = SPECS[key].check(value)
            except ParamError as error:
                notes.append(f"{name}: {error}")
    return Preset(
        name,
        values,
        tuple(notes),
        _thumbnail(document.get("thumbnail")),
        str(document.get("saved", ""))[:40],
        hashlib.sha256(data).hexdigest()[:16],
        path,
    )


def _thumbnail(text: Any) -> bytes:
    if not isinstance(text, str) or len(text) > 2 * MAX_THUMBNAIL_BYTES:
        return b""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if data.startswith(b"\xff\xd8") else b""
