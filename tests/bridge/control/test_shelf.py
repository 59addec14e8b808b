"""Presets as files: what is saved comes back, and what is wrong is told without a loss."""

import subprocess
import sys
import threading
import tomllib

import filelock
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.control.shelf import MAX_FILE_BYTES, MAX_NAME_CHARS, NOT_SAVED, PresetError, Shelf, written
from core.params import SPECS, Params

JPEG = b"\xff\xd8\xff\xe0 a small picture \xff\xd9"
LOOK = Params(prompt='say "hi" \\ \N{SNOWMAN}', strength=0.35, steps=2, t_index=(18, 26), guidance="full", paused=True)


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "presets")


def names(shelf):
    return [preset.name for preset in shelf.contents().presets]


def removed(shelf):
    return sorted((shelf.folder / "removed").glob("*.toml"))


def test_every_parameter_and_the_thumbnail_come_back(shelf):
    shelf.save("Dawn", LOOK, JPEG)
    preset = Shelf(shelf.folder).get("Dawn")
    assert set(preset.values) == set(SPECS) - NOT_SAVED
    assert Params().with_values(**preset.values) == LOOK.with_values(paused=False)
    assert preset.thumbnail == JPEG
    assert preset.notes == () and shelf.contents().problems == ()


TEXT = st.text(max_size=80)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(min_size=1, max_size=MAX_NAME_CHARS).filter(lambda n: n.isprintable() and n.strip()),
    prompt=TEXT,
    number=st.floats(0.02, 1.0),
)
def test_any_text_and_number_survive_a_file(tmp_path_factory, name, prompt, number):
    shelf = Shelf(tmp_path_factory.mktemp("presets"))
    look = Params().with_values(prompt=prompt, negative_prompt=prompt[::-1], strength=number)
    saved = shelf.save(name, look)
    assert Params().with_values(**Shelf(shelf.folder).get(saved.name).values) == look


def test_names_that_differ_in_case_alone_are_two_files_on_every_system(shelf):
    shelf.save("dawn", Params(seed=1))
    shelf.save("Dawn", Params(seed=2))
    assert len({path.name.lower() for path in shelf.folder.glob("*.toml")}) == 2
    assert shelf.get("dawn").values["seed"] == 1


@pytest.mark.parametrize("name", ["", "  \n", "x" * (MAX_NAME_CHARS + 1), None, 3.5])
def test_a_name_that_can_be_none_is_refused(shelf, name):
    with pytest.raises(PresetError, match="name"):
        shelf.save(name, Params())
    assert not shelf.folder.exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "CON", "a/b\\c:d*?", ".hidden", "removed", "order"])
def test_no_name_leads_out_of_the_folder_or_to_a_file_with_a_meaning(shelf, name):
    shelf.save(name, LOOK)
    assert names(shelf) == [name]
    (path,) = (p for p in shelf.folder.parent.rglob("*") if p.is_file() and p.name != ".lock")
    assert path.parent == shelf.folder and path.name not in ("order.toml", ".hidden")


def test_what_is_replaced_or_deleted_is_kept(shelf):
    shelf.save("Dawn", Params(seed=1))
    shelf.save("Dawn", Params(seed=2))
    assert [tomllib.loads(path.read_text())["values"]["seed"] for path in removed(shelf)] == [1]
    shelf.delete("Dawn")
    assert names(shelf) == [] and len(removed(shelf)) == 2
    assert shelf.restore("Dawn").values["seed"] == 2
    with pytest.raises(PresetError, match="rename it first"):
        shelf.restore("Dawn")
    with pytest.raises(PresetError, match="no preset 'Dusk' was deleted"):
        shelf.restore("Dusk")


def test_two_pages_that_save_the_same_name_lose_nothing(shelf):
    first = shelf.save("Dawn", Params(seed=1), replaces="")
    with pytest.raises(PresetError, match="already; replace it, or give another name"):
        shelf.save("Dawn", Params(seed=2), replaces="")
    second = shelf.save("Dawn", Params(seed=3), replaces=first.digest)
    with pytest.raises(PresetError, match="changed by somebody else"):
        shelf.save("Dawn", Params(seed=4), replaces=first.digest)
    assert shelf.get("Dawn").values["seed"] == 3 and second.digest == shelf.get("Dawn").digest


def test_many_that_save_at_once_lose_nothing(shelf):
    """Threads of one host, each with a shelf of its own as two hosts would have."""
    ready = threading.Barrier(8)
    refused = []

    def save(number):
        own = Shelf(shelf.folder)
        ready.wait()
        own.save(f"of {number}", Params(seed=number))
        try:
            own.save("shared", Params(seed=number), replaces="")
        except PresetError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=save, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contents = shelf.contents()
    assert [p.name for p in contents.presets] == [*(f"of {n}" for n in range(8)), "shared"]
    assert contents.problems == ()
    saved = {shelf.get("shared").values["seed"]}
    saved |= {tomllib.loads(path.read_text())["values"]["seed"] for path in removed(shelf)}
    assert len(saved) + len(refused) == 8  # each was kept, or told that it was not


def test_one_that_holds_the_folder_for_long_is_told(shelf, monkeypatch):
    shelf.save("Dawn", Params(seed=1))
    monkeypatch.setattr("bridge.control.shelf.LOCK_SECONDS", 0.1)
    with filelock.FileLock(shelf.folder / ".lock"):
        with pytest.raises(PresetError, match="another program .* try again"):
            shelf.save("Dawn", Params(seed=2))
        assert shelf.get("Dawn").values["seed"] == 1
    assert shelf.save("Dawn", Params(seed=3)).values["seed"] == 3


def test_a_new_name_changes_the_name_and_nothing_else(shelf):
    shelf.folder.mkdir()
    text = '# mine\nname = "Old" # why\n\n[values]\nseed = 5\nfuture_thing = { a = [1, 2] }\n'
    (shelf.folder / "mine.toml").write_text(text)
    shelf.save("Other", Params())
    shelf.reorder(["Old", "Other"])
    shelf.rename("Old", "New \N{GREEK SMALL LETTER ALPHA}")
    assert names(shelf) == ["New \N{GREEK SMALL LETTER ALPHA}", "Other"]
    changed = shelf.get(1).path.read_text(encoding="utf-8")
    assert changed == text.replace('name = "Old" # why', 'name = "New \N{GREEK SMALL LETTER ALPHA}"')
    with pytest.raises(PresetError, match="already"):
        shelf.rename("Other", "New \N{GREEK SMALL LETTER ALPHA}")


def test_a_file_is_called_by_its_name_where_it_says_none(shelf):
    shelf.folder.mkdir()
    (shelf.folder / "by hand.toml").write_text("[values]\nprompt = 'ink style'\n")
    assert dict(shelf.get("by hand").values) == {"prompt": "ink style"}
    shelf.rename("by hand", "named")
    assert dict(shelf.get("named").values) == {"prompt": "ink style"}


def test_the_order_is_the_users_and_new_ones_follow(shelf):
    for name in ("b", "a", "c"):
        shelf.save(name, Params())
    assert names(shelf) == ["a", "b", "c"]
    shelf.reorder(["c", "gone", "a"])
    assert names(Shelf(shelf.folder)) == ["c", "a", "b"]
    shelf.save("0", Params())
    assert names(shelf) == ["c", "a", "b", "0"]
    assert shelf.get(2).name == "a"
    (shelf.folder / "order.toml").write_text("names = [")
    assert names(shelf) == ["0", "a", "b", "c"]
    assert "order.toml is damaged" in shelf.contents().problems[0]


@pytest.mark.parametrize(
    "data, told",
    [
        (b"name = ", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"a = " + b"[" * 5000, "damaged"),
        (b"name = 'x'", "no table"),
        (b"format = 2\n[values]\n", "format '2'; this version reads 1: update frameloom"),
        (b"format = 'new'\n[values]\n", "update frameloom"),
        (b"name = 7\n[values]\n", "name"),
        (b"#" * (MAX_FILE_BYTES + 1), "larger than any preset"),
    ],
)
def test_a_file_that_is_no_preset_is_told_and_the_others_are_there(shelf, data, told):
    shelf.save("Good", LOOK)
    (shelf.folder / "bad.toml").write_bytes(data)
    contents = shelf.contents()
    assert [p.name for p in contents.presets] == ["Good"]
    (problem,) = contents.problems
    assert problem.startswith("bad.toml") and told in problem and len(problem) < 300
    assert (shelf.folder / "bad.toml").read_bytes() == data


def test_unknown_and_senseless_parameters_are_told_and_the_rest_is_used(shelf):
    shelf.folder.mkdir()
    (shelf.folder / "x.toml").write_text("[values]\nglow = 3\nsteps = 99\nseed = 7\npaused = true\nthumbnail = 1\n")
    preset = shelf.get("x")
    assert dict(preset.values) == {"seed": 7}
    assert any("unknown parameter 'glow'" in note for note in preset.notes)
    assert any("steps: got 99" in note for note in preset.notes)


def test_a_thumbnail_that_is_none_is_left_out(shelf):
    shelf.folder.mkdir()
    (shelf.folder / "x.toml").write_text('thumbnail = "PHNjcmlwdD4="\n[values]\nseed = 7\n')
    assert shelf.get("x").thumbnail == b""


def test_two_files_of_one_name_are_told(shelf):
    shelf.save("Dawn", Params(seed=1))
    (path,) = shelf.folder.glob("*.toml")
    (shelf.folder / "zz copy.toml").write_bytes(path.read_bytes())
    assert names(shelf) == ["Dawn"]
    assert "zz copy.toml" in shelf.contents().problems[0] and path.name in shelf.contents().problems[0]


def test_a_change_by_another_program_is_seen(shelf):
    shelf.save("Dawn", Params(seed=1))
    other = Shelf(shelf.folder)
    assert other.get("Dawn").values["seed"] == 1
    shelf.save("Dawn", Params(seed=1234))
    assert other.get("Dawn").values["seed"] == 1234
    shelf.get("Dawn").path.unlink()
    assert names(other) == []


def test_an_unknown_name_names_the_nearest(shelf):
    with pytest.raises(PresetError, match="none yet"):
        shelf.get("Dawn")
    shelf.save("Dawn", LOOK)
    with pytest.raises(PresetError, match="did you mean 'Dawn'"):
        shelf.get("damn")
    for place in (0, 2, -1):
        with pytest.raises(PresetError, match="there are 1"):
            shelf.get(place)


def test_a_folder_that_cannot_be_written_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PresetError, match="--presets FOLDER"):
        Shelf(tmp_path / "file" / "presets").save("Dawn", LOOK)


FULL = """
import resource, sys
from pathlib import Path
from bridge.control.shelf import PresetError, Shelf
from core.params import Params
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
shelf = Shelf(Path(sys.argv[1]))
shelf.save("Dawn", Params(seed=1))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # what a full disk does: a write that ends early
for name in ("Dawn", "Dusk"):
    try:
        shelf.save(name, Params(seed=2))
    except PresetError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_leaves_what_was_there(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("free some room") == 2, done.stderr
    shelf = Shelf(tmp_path)
    assert names(shelf) == ["Dawn"] and shelf.get("Dawn").values["seed"] == 1
    assert shelf.contents().problems == ()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".dawn") or "dusk" in path.name]


KILLED = """
import sys
from pathlib import Path
from bridge.control.shelf import Shelf
from core.params import Params
shelf = Shelf(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    shelf.save("Dawn", Params(seed=number))
    if number % 3 == 0:
        shelf.rename("Dawn", "Dusk")
        shelf.rename("Dusk", "Dawn")
    print(number, flush=True)
"""


def test_kill_at_any_point_leaves_a_whole_preset(tmp_path):
    for rounds in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3 + rounds):
            last = int(process.stdout.readline())
        process.kill()
        process.wait()
        process.stdout.close()
        presets = {p.name: p.values["seed"] for p in Shelf(tmp_path).contents().presets}
        assert set(presets) & {"Dawn", "Dusk"}
        assert max(presets.values()) >= last
        for path in tmp_path.glob("*.toml"):
            path.unlink()  # a name may be there twice, when it was being changed


def test_written_is_toml_that_others_read():
    assert tomllib.loads(written("\x7f\t", LOOK))["name"] == "\x7f\t"
    document = tomllib.loads(written("x", LOOK, JPEG))
    assert document["format"] == 1 and document["values"]["t_index"] == [18, 26]
    assert document["values"]["prompt"] == LOOK.prompt
