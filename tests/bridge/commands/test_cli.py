"""The command line: words it knows, words it does not, and clean ends."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from bridge.commands import cli
from bridge.commands.arguments import parse_host_name, parse_origin
from bridge.commands.channel_doctor import check_channel
from bridge.terminal import PROGRAM, child_environment
from core.params import SPECS
from tests.rings import fresh_channel

ROOT = Path(__file__).resolve().parents[3]


def frameloom(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridge", *words], capture_output=True, text=True, cwd=ROOT, timeout=120, **options
    )  # type: ignore[call-overload,no-any-return]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("host", "demo", "doctor", "bench", "train", "world", "source", "params"):
        assert f"\n  {name} " in shown


def test_no_words_show_the_help_and_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert f"{PROGRAM} COMMAND --help" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["dmo"], "frameloom: no command 'dmo'; did you mean demo?"),
        (["zzzz"], "frameloom: no command 'zzzz'; use one of demo, "),
        (["bench", "no-such"], "frameloom: no benchmark 'no-such'; "),
        (["train", "huge"], "frameloom: no model to train 'huge'; use one of autoencoder"),
    ],
)
def test_unknown_words_get_one_clear_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(line)
    assert shown.err.count("\n") == 1


def test_hints_can_be_typed_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    """The first words of every command in a hint start the program, and the command is one of those that it knows."""
    shown = [check.fix for check in check_channel(fresh_channel())][:2]
    for words in ([], ["--help"], ["bench"], ["train", "--help"]):
        cli.main(words)
        shown.append(capsys.readouterr().out)
    for words in EVERY_PARSER:
        with contextlib.suppress(SystemExit):
            cli.main([*words, "--help"])
        told = capsys.readouterr()
        shown.append(told.out + told.err)
    for text in shown:
        assert not re.search(r"frameloom [a-z]+ (--|NAME|\[)", text)
        for command in re.findall(rf"{re.escape(PROGRAM)} (\w+)", text):
            assert command in {*cli.COMMANDS, "COMMAND"}
    assert len(shown) == 6 + len(EVERY_PARSER) and all(PROGRAM in text for text in shown)


EVERY_PARSER = [
    *([word] for word in cli.COMMANDS if word not in ("train", "bench")),
    *(["train", name] for name in cli.TRAININGS),
    *(["bench", name] for name in cli.benches()),
]


@pytest.mark.parametrize("words", EVERY_PARSER, ids=" ".join)
def test_a_mistake_is_one_line_that_names_it_and_the_command(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """And not all options with the mistake below them, of which a terminal shows the last line."""
    try:
        status: object = cli.main([*words, "--no-such-option"])
    except SystemExit as end:
        status = end.code
    shown = capsys.readouterr()
    assert (status, shown.out) == (2, "")
    assert shown.err.startswith(f"{PROGRAM} {' '.join(words)}") and shown.err.count("\n") == 1
    assert "usage:" not in shown.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--promt", "ink"], "there is no --promt; did you mean --prompt? "),
        (["host", "--channel", "x", "--osc_port=9001"], "there is no --osc_port=9001; did you mean --osc-port? "),
        (["scene", "--back", "eager"], "there is no --back; did you mean --"),
        (["demo", "clip.mp4"], "unrecognized arguments: clip.mp4 "),
        (["demo", "--frames", "0"], "argument --frames: '0': use a whole number from 1 "),
    ],
)
def test_an_option_that_nearly_is_one_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(words)
    shown = capsys.readouterr().err
    assert said in shown and f"{PROGRAM} {words[0]} --help lists the options" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--sheet", "FILE/sheet.png"], "FILE is no folder; give another place"),
        (["demo", "--sheet", "FOLDER"], "FOLDER' is a folder; give the name of a file"),
        (["demo", "--presets", "FILE"], "FILE is no folder"),
        (["host", "--channel", "x", "--recordings", "FILE/further/down"], "FILE is no folder"),
        (["host", "--channel", "x", "--cache", "FILE"], "FILE is no folder"),
        (["scene", "--cache", "x" * 300], "can be no path (File name too long"),
        (["calibrate", "--camera", "a", "--points", "b", "--out", "FOLDER"], "is a folder"),
        (["calibrate", "--camera", "a", "--points", "b", "--record", "FILE"], "FILE is no folder"),
        (["replay", "show.mcap", "--export", "FILE/show.mp4"], "FILE is no folder"),
        (["train", "look", "FOLDER", "--out", "FILE"], "FILE is no folder"),
        (["train", "autoencoder", "--work", "FILE"], "FILE is no folder"),
        (["demo", "--channel", "a/b"], "--channel: 'a/b': use 1 to 44 letters, "),
        (["host", "--channel", "stage", "--channel", ""], "--channel: '': use 1 to 44 letters, "),
        (["scene", "--channel", "x" * 40], "use 1 to 44 letters, "),
        (["source", "world", "--channel", "x" * 45], "use 1 to 44 letters, "),
        (["world", "--channel", "ä"], "use 1 to 44 letters, "),
        (["record", "a/b", "FOLDER/show.mcap"], "use 1 to 44 letters, "),
        (["replay", "show.mcap", "--channel", "a b"], "use 1 to 44 letters, "),
        (["project", "--rig", "r", "--camera", "a", "--points", "/", "--channel", "c"], "use 1 to 44 letters, "),
        (["host", "--channel", "x", "--allow-origin", "studio.example"], "write it like https://example.org"),
        (["scene", "--allow-host", "a b"], "write it like studio.example.org"),
        (["demo", "--osc-host", ""], "write it like studio.example.org or 127.0.0.1"),
        (["demo", "--listen", "http://"], "write it like studio.example.org or 127.0.0.1"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_could_only_fail_later_is_refused_at_once(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a model is loaded, a world is built, minutes are recorded or trained."""
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("in the way", encoding="utf-8")
    folder.mkdir()

    def filled(text: str) -> str:
        return text.replace("FILE", str(file)).replace("FOLDER", str(folder))

    with pytest.raises(SystemExit) as end:
        cli.main([filled(word) for word in words])
    shown = capsys.readouterr()
    assert (end.value.code, shown.out) == (2, "")
    assert filled(said) in shown.err and shown.err.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything may be written by root")
def test_a_folder_that_may_not_be_written_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["host", "--channel", "x", "--presets", "/presets"])
    assert "/ may not be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://studio.example", "https://studio.example"),
        ("HTTPS://Studio.Example:443/paint/?channel=stage", "https://studio.example"),
        ("http://studio.example:80", "http://studio.example"),
        ("http://studio.example:8080/", "http://studio.example:8080"),
        ("https://[fd00::1]:8443/", "https://[fd00::1]:8443"),
        ("null", "null"),
    ],
)
def test_an_address_of_a_page_stands_for_its_origin(given: str, origin: str) -> None:
    """People paste what their browser shows; browsers leave the default port out and write small letters."""
    assert parse_origin(given) == origin


@pytest.mark.parametrize("given", ["studio.example", "Studio.Example:8443", "https://studio.example/paint/"])
def test_an_address_stands_for_the_name_in_it(given: str) -> None:
    assert parse_host_name(given) == "studio.example"


@pytest.mark.parametrize(("word", "wants"), [("source", True), ("world", False)])
def test_help_asks_for_what_the_command_takes(word: str, wants: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([word, "--help"])
    usage = capsys.readouterr().out.split("\n\n")[0].split()
    assert usage[:4] == ["usage:", *PROGRAM.split(), word]
    assert ("what" in usage) == wants


def test_params_shows_every_address_with_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["params"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == {"address", *(f"/{name}" for name in SPECS)}
    assert "none | full | onetime-negative | self-negative" in lines["/guidance"]
    assert "0.02 to 1" in lines["/strength"]
    assert "-1 to 2147483647" in lines["/seed"]
    assert "up to 8 of 0 to 49" in lines["/t_index"]


def test_benchmarks_are_the_files_with_a_main() -> None:
    folder = ROOT / "tests" / "bench"
    assert "report" not in cli.benches()
    assert all((folder / f"{name}.py").is_file() for name in cli.benches())


@pytest.mark.parametrize("name", cli.benches())
def test_every_benchmark_can_be_loaded(name: str) -> None:
    """Most are run by hand only: a name that has moved would show there and nowhere else."""
    importlib.import_module(f"tests.bench.{name}")


def test_a_benchmark_gets_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("tests.bench.echo")
    vars(module)["main"] = len
    monkeypatch.setitem(sys.modules, "tests.bench.echo", module)
    monkeypatch.setattr(cli, "benches", lambda: ["echo"])
    assert cli.main(["bench", "echo", "--size", "512"]) == 2


def test_the_program_starts_as_a_module() -> None:
    done = frameloom("params")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "/prompt" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="a pipe closed early is reported this way on POSIX only")
def test_a_reader_that_leaves_early_causes_no_traceback() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "bridge", "params"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    child.wait(60)


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_before_the_program_can_answer_is_not_lost_and_no_traceback() -> None:
    """run.py holds it back while the interpreter starts."""
    script = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "os.execv(sys.executable, [sys.executable, '-P', '-m', 'bridge', 'params'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60, env=child_environment()
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_at_the_very_end_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, time\n@atexit.register\ndef slow():\n    print('ending', flush=True)\n    time.sleep(60)\n",
        encoding="utf-8",
    )
    variables = child_environment()
    variables["PYTHONPATH"] = os.pathsep.join((str(tmp_path), variables["PYTHONPATH"]))
    command = [sys.executable, "-P", "-m", "bridge", "params"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=ROOT, env=variables) as child:
        assert child.stdout is not None
        while child.stdout.readline() not in ("ending\n", ""):
            pass
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (-signal.SIGINT, "", "")


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_ends_a_command_in_one_word() -> None:
    script = (
        "import sys, time\nfrom bridge.commands import cli\n"
        "def sleep(words):\n    print('up', flush=True)\n    time.sleep(60)\n    return 0\n"
        "cli.COMMANDS['sleep'] = cli.Command('sleep', '', sleep)\nsys.exit(cli.main(['sleep']))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "", "stopped\n")
