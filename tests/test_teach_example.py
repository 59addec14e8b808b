"""examples/08_teach_it.py: a channel is recorded, a look is taught, by the program itself."""

from __future__ import annotations

import importlib.util
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bridge.commands.host import ChannelHost
from bridge.ring import Kind, RingWriter
from core.params import Params
from core.training import look
from core.training.folder import read_folder
from tests.rings import fresh_channel, sweep

PATH = Path(__file__).resolve().parents[1] / "examples" / "08_teach_it.py"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("teach_it", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def channel():
    name = fresh_channel()
    stop, ready = threading.Event(), threading.Event()

    def write():
        with RingWriter(f"{name}.in") as out:
            frame = 0
            while not stop.is_set():
                picture = np.full((48, 64, 4), 255, np.uint8)
                picture[..., 0] = 40 * (frame % 6)
                out.write({Kind.COLOUR: picture}, source_frame_id=frame)
                frame += 1
                ready.set()
                stop.wait(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    ready.wait(10.0)
    yield name
    stop.set()
    thread.join()
    sweep(name)


def test_from_a_channel_to_a_model(example, channel, tmp_path, monkeypatch):
    class Short(look.LookSettings):
        """What a test has time for."""

        def __init__(self, **values):
            super().__init__(**{**values, "rows": 3, "rehearsed": 5, "sources": 2})

    monkeypatch.setattr(look, "LookSettings", Short)
    words = ["--channel", channel, "--pictures", "4", "--every", "0.02", "--steps", "2", "--folder", str(tmp_path)]
    options = {"model": "embedded", "models_folder": tmp_path, "port": 0, "osc_port": 0, "size": (64, 64)}
    running = ChannelHost(fresh_channel(), Params(), **options)
    try:
        running.listen(page=False)
        running.start()
        (osc,) = running._servers
        assert example.main([*words, "--tell", str(osc.port)]) == 0
        until = time.monotonic() + 60.0
        while running.host.model_name != "moss-style":
            assert time.monotonic() < until, running.statistics.snapshot()["last_refused"]
            time.sleep(0.05)
        assert running.live.current.prompt == "moss style"
    finally:
        running.stop()
    found = read_folder(tmp_path / "pictures", 64, "moss style")
    assert len(found.names) == 4
    reds = {int(p[32, 32, 0]) for p in found.pictures}
    assert reds <= set(range(0, 240, 40)) and bool((found.pictures[..., 1:] == 255).all()), "red comes first"
    assert (tmp_path / "moss-style" / "model_index.json").exists()


def test_a_channel_that_nobody_writes_is_said(example, tmp_path, capsys):
    words = ["--channel", fresh_channel(), "--folder", str(tmp_path), "--no-host", "--patience", "0.1"]
    assert example.main(words) == 1
    assert "start what writes there first" in capsys.readouterr().err
