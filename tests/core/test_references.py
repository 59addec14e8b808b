"""Reference pictures that are sent: kept small, under a name of their own, and what is none is refused."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from core import references
from core.params import AS_STARTED
from core.references import KEPT_OF_A_RING, KEPT_SIDE_PX, MAX_KEPT, PictureError, keep, keep_newest, named, read


def sent(colour: tuple[int, int, int], form: str = "PNG", size: tuple[int, int] = (12, 8)) -> bytes:
    """The bytes of a file."""
    made = io.BytesIO()
    Image.new("RGB", size, colour).save(made, form)
    return made.getvalue()


RED, BLUE = sent((200, 20, 20)), sent((20, 20, 200), "WEBP")


def test_a_picture_is_kept_small_under_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "kept"
    assert keep(sent((200, 20, 20), size=(4000, 1000)), "Dawn.of day.PNG", folder) == "Dawn.of day.jpg"
    image = read(folder / "Dawn.of day.jpg")
    assert image.size == (KEPT_SIDE_PX, KEPT_SIDE_PX // 4)
    assert all(abs(a - b) < 8 for a, b in zip(image.getpixel((5, 5)), (200, 20, 20), strict=True))
    assert [path.name for path in folder.iterdir()] == ["Dawn.of day.jpg"]


def test_the_same_picture_is_kept_once_and_another_under_another_name(tmp_path: Path) -> None:
    names = [keep(data, "sun.png", tmp_path, {"sun 2.jpg"}) for data in (RED, RED, BLUE, RED, BLUE)]
    assert names == ["sun.jpg", "sun.jpg", "sun 3.jpg", "sun.jpg", "sun 3.jpg"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("", "picture.jpg"),
        ("..", "picture.jpg"),
        ("../../etc/passwd", "etc passwd.jpg"),
        ("C:\\pictures\\a.png", "C pictures a.jpg"),
        (".hidden.png", "hidden.jpg"),
        ("a\0b\nc.png", "a b c.jpg"),
        ("x" * 5000, "x" * references.MAX_STEM_CHARS + ".jpg"),
        ("été 日本.webp", "été 日本.jpg"),
    ],
)
def test_whatever_a_sender_calls_it_stays_in_the_folder(tmp_path: Path, name: str, kept: str) -> None:
    folder = tmp_path / "kept"
    assert keep(RED, name, folder) == kept
    assert [path.name for path in folder.iterdir()] == [kept]
    assert named([], folder) == {AS_STARTED: None, kept: folder / kept}


@pytest.mark.parametrize("data", [b"", b"only words", RED[:40], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PictureError, match=r"^notes cannot be read as a picture \([^\n]*\)$"):
        keep(data, "notes.png", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_file_that_announces_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MAX_PIXELS", 95)
    with pytest.raises(PictureError, match="sun has 12 x 8 pixels; make it smaller"):
        keep(RED, "sun.png", tmp_path)


def test_a_full_folder_says_so(tmp_path: Path) -> None:
    for number in range(MAX_KEPT):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    with pytest.raises(PictureError, match=f"holds {MAX_KEPT} pictures, which is the most; remove some of them"):
        keep(RED, "sun.png", tmp_path)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(draft: str, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for kept in (lambda: keep(RED, "sun.png", tmp_path), lambda: keep_newest(RED, "sun.png", tmp_path, "")):
        with pytest.raises(PictureError, match="sun cannot be kept in .*: No space left on device"):
            kept()
    assert not list(tmp_path.iterdir())


def test_of_pictures_that_come_again_the_newest_stay_and_the_one_in_use(tmp_path: Path) -> None:
    used, names = "", []
    for number in range(KEPT_OF_A_RING + 3):
        name = keep_newest(sent((number, 0, 0)), "stage in", tmp_path, used)
        os.utime(tmp_path / name, ns=(number, number))
        # The first stays in use.
        used = used or name
        names.append(name)
    assert names[:KEPT_OF_A_RING] == [f"stage in {n}.jpg" for n in range(1, KEPT_OF_A_RING + 1)]
    assert names[KEPT_OF_A_RING:] == ["stage in 2.jpg", "stage in 3.jpg", "stage in 4.jpg"]
    assert len(list(tmp_path.iterdir())) == KEPT_OF_A_RING


def test_what_was_given_at_the_start_goes_before_what_came_since(tmp_path: Path) -> None:
    given, kept = tmp_path / "given", tmp_path / "kept"
    given.mkdir()
    (given / "sun.jpg").write_bytes(RED)
    assert named([given], kept) == {AS_STARTED: given / "sun.jpg", "sun.jpg": given / "sun.jpg"}
    name = keep(BLUE, "sun.webp", kept, named([given]))
    assert name == "sun 2.jpg"
    assert named([given], kept)[name] == kept / name
    # None that came since is what the host started with.
    assert named([], kept)[AS_STARTED] is None
