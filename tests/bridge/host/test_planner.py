"""Where what a change of parameters needs is computed: not on the frame path, and on one CPU thread."""

from __future__ import annotations

import threading
import uuid

import pytest
import torch

from bridge.ring.layout import Kind
from tests.bridge.host.test_host import SAME_WAY, Rig, picture


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_prompt_is_read_by_the_planner_on_one_cpu_thread_and_the_frame_path_keeps_its_own():
    options = {"model": "embedded", "size": (64, 64), "overlap": False, **SAME_WAY, "threads": 2}
    with Rig(f"test-planner-{uuid.uuid4().hex[:8]}", **options) as rig:
        seen = {"embed": [], "advance": []}

        def watched(of, name):
            work = getattr(of, name)

            def watching(*arguments):
                seen[name].append((threading.current_thread().name, torch.get_num_threads()))
                return work(*arguments)

            setattr(of, name, watching)

        watched(rig.host.loaded.model.text, "embed")
        watched(rig.host.planner.work.stream, "advance")
        rig.host.live.set("prompt", "ice style")
        revision = rig.host.live.revision
        rig.until(lambda frame: frame.param_revision == revision, lambda: rig.writer.write({Kind.COLOUR: picture(9)}))
        assert set(seen["embed"]) == {("frameloom-planner", 1)}
        assert set(seen["advance"]) == {("frameloom-host", 2)}
