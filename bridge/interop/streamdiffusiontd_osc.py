"""The OSC dialect of StreamDiffusionTD projects: their addresses act on our live parameters, their reports come back.

A project sends to one port (8247 unless set otherwise there) and listens on another (8248). What has no counterpart
here is answered on /error, once, and never ends anything. Lists of weighted prompts become a blend,
of seeds the two heaviest a mix. Knows nothing of sockets (`osc` serves the table that is made here) or of frames.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bridge.control.limits import OncePer
from bridge.control.live import LiveParams
from bridge.control.osc import Alias, Answer, OscServer, Sender
from bridge.control.osc_messages import OscRefused, datagram, value_of
from bridge.control.statistics import Statistics
from bridge.interop.adaptor import AdaptorError
from bridge.interop.gate import Gate
from bridge.interop.named_memory import check_name
from core.params import MAX_PROMPT_CHARS, SPECS, STAGE_GRID
from core.prompt import MAX_BLENDED, blend_of

OSC_PORT, REPLY_PORT = 8247, 8248
"""Where a project sends to, and where it listens, unless it was set up otherwise."""
HEARTBEAT_S = 0.75
STREAMING_S = 2.0
"""A host counts as streaming for so long after a result."""
TELL_AGAIN_S = 60.0
MAX_LIST = 64
MAX_SEED_CHARS = 100
SEEDS = 2**31
"""So many seeds are here; larger ones stand for one of these."""
MAX_GRID = 1000

ABSENT = {
    "/prompt_interpolation_method": "prompts are blended in a straight line here (linear), whatever is asked for",
    "/seed_interpolation_method": "seeds are mixed along the sphere here (slerp), whatever is asked for",
    **dict.fromkeys(
        ("/ipadapter_config", "/ipadapter_update"),
        "an IP-Adapter and its pictures are given at the start (--ip-adapter FILE, --reference PICTURE); /reference"
        " NAME takes another of them, /reference/take what the input shows",
    ),
    "/textual_inversion_dict": "words by textual inversion are given at the start (--embedding FILE)",
    **dict.fromkeys(
        ("/controlnets", "/use_controlnet", "/controlnet_weight", "/controlnet/scale"),
        "ControlNets are those of --control and --controls; their strengths are /control_1 and /control_2",
    ),
    "/lora_weights": "LoRAs are those of --lora and --loras; their weights are /lora_1 to /lora_4",
    **dict.fromkeys(
        (
            "/gaussian_prompt",
            "/slerp",
            "/Interval1",
            "/feedback_safe",
            "/use_cached_attn",
            "/use_cached_attn_settings",
            "/disable_cached_attn",
            "/cached_attention",
        ),
        "this is not there; the picture is made without it",
    ),
    "/stream_out_name": "the output's name is given at the start (--output sdtd:NAME)",
    "/unload": "the model stays loaded; end the host with Ctrl-C",
    "/max_fps": "there is no limit; every frame that comes is painted",
    "/fx/": "there are no effect processors here; put them behind the result in TouchDesigner",
}
"""What those projects may ask for and cannot have, with what to do instead. Switching it off is no error."""
AS_ASKED = {"/prompt_interpolation_method": "linear", "/seed_interpolation_method": "slerp"}
"""What of it happens anyway."""


class Dialect:
    """The addresses as a table for an `OscServer`.

    gate: of the input pump, for /pause and /process_frame; None when the frames come from elsewhere: /pause then sets
    the parameter `paused`.
    """

    def __init__(self, live: LiveParams, statistics: Statistics, gate: Gate | None) -> None:
        self._live = live
        self._statistics = statistics
        self._gate = gate
        self._told = OncePer(TELL_AGAIN_S)
        self._told_absent = OncePer(math.inf)
        self._stages: list[float] = []
        self._grid = STAGE_GRID
        self._picture_scale = SPECS["reference_scale"].default
        self.table: dict[str, Alias] = {
            "/prompt": self._prompt,
            "/negative_prompt": self._prompt,
            "/seed": self._seed,
            "/delta": self._at_most("delta"),
            "/latent_feedback_strength": self._at_most("feedback"),
            "/ipadapter_scale": self._at_most("reference_scale"),
            "/ipadapter/scale": self._at_most("reference_scale"),
            "/ipadapter_enable": self._picture,
            "/prompt_list": self._prompts,
            "/seed_list": self._seeds,
            "/t_list": self._t_list,
            "/num_inference_steps": self._steps_of_grid,
            "/sdmode": self._mode,
            "/pause": self._running(False, "paused"),
            "/play": self._running(True, "resumed"),
            "/start_streaming": self._running(True, "started"),
            "/stop_streaming": self._running(False, "stopped"),
            "/stop": self._end,
            "/process_frame": self._step,
            "/frame_ack": self._acknowledge,
            "/td_buffer_name": self._rename,
            "/get_status": self._status,
            **dict.fromkeys(ABSENT, self._absent),
        }

    def _once(self, key: str, text: str) -> str:
        """The text, or nothing when it was said lately: faders send sixty messages a second."""
        return text if self._told.may(key) else ""

    def _prompt(self, address: str, arguments: list[Any]) -> Answer:
        name = address[1:]
        return Answer({name: _cut(value_of(SPECS[name], arguments))})

    def _seed(self, address: str, arguments: list[Any]) -> Answer:
        return Answer({"seed": _seed_of(value_of(SPECS["seed"], arguments))})

    def _at_most(self, name: str) -> Alias:
        """A parameter whose range ends earlier here."""
        most = SPECS[name].high or 0.0

        def act(address: str, arguments: list[Any]) -> Answer:
            value = value_of(SPECS[name], arguments)
            if not _is_number(value) or value <= most:
                return Answer({name: value})
            return Answer({name: most}, error=self._once(address, f"{most:g} is used, the largest there is here"))

        return act

    def _picture(self, address: str, arguments: list[Any]) -> Answer:
        """The reference picture off and on; on again it counts as much as before."""
        if len(arguments) != 1 or not (isinstance(arguments[0], bool) or _is_number(arguments[0])):
            raise OscRefused(address, "send 0 or 1")
        scale = self._live.current.reference_scale
        if not arguments[0]:
            self._picture_scale = scale or self._picture_scale
            return Answer({"reference_scale": 0.0})
        return Answer({} if scale else {"reference_scale": self._picture_scale})

    def _weighted(self, address: str, arguments: list[Any]) -> list[tuple[Any, float]]:
        """The items of a JSON list of [item, weight] that weigh something, the heaviest alone where none does, in their
        order; none for an empty list."""
        wanted = 'send one JSON text such as [["item", 1.0], ["other", 0.5]]'
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise OscRefused(address, f"got {len(arguments)} values; {wanted}")
        try:
            pairs = json.loads(arguments[0])
        except (ValueError, RecursionError):
            raise OscRefused(address, f"not JSON; {wanted}") from None
        if not isinstance(pairs, list) or len(pairs) > MAX_LIST:
            raise OscRefused(address, f"a list of at most {MAX_LIST} pairs is wanted; {wanted}")
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2 or not _is_number(pair[1]):
                raise OscRefused(address, f"got {str(pair)[:60]} where a pair [item, weight] is wanted; {wanted}")
        some = [(item, float(weight)) for item, weight in pairs if weight > 0]
        return some or [(item, 1.0) for item, _ in _heaviest(pairs, 1)]

    def _prompts(self, address: str, arguments: list[Any]) -> Answer:
        pairs = self._weighted(address, arguments)
        if not pairs:
            return Answer()
        if len(pairs) == 1 or not all(isinstance(text, str) for text, _ in pairs):
            return Answer({"prompt": _cut(pairs[0][0])})
        for most in range(min(len(pairs), MAX_BLENDED), 0, -1):
            text = blend_of(_heaviest(pairs, most))
            if len(text) <= MAX_PROMPT_CHARS:
                break
        left_out = self._once(address, f"the {most} heaviest are blended") if most < len(pairs) else ""
        return Answer({"prompt": _cut(text)}, error=left_out)

    def _seeds(self, address: str, arguments: list[Any]) -> Answer:
        pairs = self._weighted(address, arguments)
        if not pairs:
            return Answer()
        seeds = [(_seed_of(seed), weight) for seed, weight in _heaviest(pairs, 2)]
        if len(seeds) == 1 or any(seed == -1 for seed, _ in seeds):
            return Answer({"seed": seeds[0][0], "seed_mix": 0.0})
        (first, a), (second, b) = seeds
        mix = 1.0 / (1.0 + a / b)  # their sum may be too large for a number
        left_out = self._once(address, "the two heaviest are mixed") if len(pairs) > 2 else ""
        return Answer({"seed": first, "seed_to": second, "seed_mix": mix}, error=left_out)

    def _t_list(self, address: str, arguments: list[Any]) -> Answer:
        if not arguments:
            return Answer()
        if not all(map(_is_number, arguments)):
            raise OscRefused(address, "send numbers, such as 18 26 34")
        self._stages = list(arguments)
        return Answer({"t_index": self._on_our_grid()})

    def _steps_of_grid(self, address: str, arguments: list[Any]) -> Answer:
        if len(arguments) != 1 or not _is_number(arguments[0]) or not 1 <= arguments[0] <= MAX_GRID:
            raise OscRefused(address, f"send one number from 1 to {MAX_GRID}")
        self._grid = int(arguments[0])
        return Answer({"t_index": self._on_our_grid()} if self._stages else {})

    def _on_our_grid(self) -> list[int]:
        """Their indices count on a grid of /num_inference_steps points, ours on one of `STAGE_GRID`."""
        return sorted({min(STAGE_GRID - 1, math.floor(t * STAGE_GRID / self._grid)) for t in self._stages})

    def _mode(self, address: str, arguments: list[Any]) -> Answer:
        task = arguments[0] if len(arguments) == 1 else None
        return Answer({"task": task}, (("/mode_status", str(task)),) if task in ("img2img", "txt2img") else ())

    def _running(self, run: bool, said: str) -> Alias:
        def act(address: str, arguments: list[Any]) -> Answer:
            replies = (("/streaming_status", said),)
            if self._gate is None:
                return Answer({"paused": not run}, replies)
            if not run:
                self._gate.close()
                return Answer(replies=replies)
            self._gate.open()
            return Answer({"paused": False}, replies)

        return act

    def _end(self, address: str, arguments: list[Any]) -> Answer:
        paused = self._running(False, "stopped")(address, arguments)
        note = self._once(address, "this host does not end on request; it is paused (/play goes on, Ctrl-C ends it)")
        return Answer(paused.values, paused.replies, note)

    def _step(self, address: str, arguments: list[Any]) -> Answer:
        if self._gate is None:
            raise OscRefused(
                address, "single frames need the host's --input to be the project's memory (sdtd:NAME:...)"
            )
        if self._gate.is_open:
            return Answer(error=self._once(address, "send /pause first; frames are taken as they come"))
        self._gate.step()
        return Answer()

    def _acknowledge(self, address: str, arguments: list[Any]) -> Answer:
        if self._gate is not None:
            self._gate.acknowledge()
        return Answer()

    def _rename(self, address: str, arguments: list[Any]) -> Answer:
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise OscRefused(address, "send the name of the memory that holds the project's pictures")
        if self._gate is None:
            raise OscRefused(address, "frames come from a client here; start the host with --input sdtd:NAME:...")
        try:
            self._gate.rename(check_name(arguments[0]))
        except AdaptorError as error:
            raise OscRefused(address, str(error)) from None
        return Answer()

    def _status(self, address: str, arguments: list[Any]) -> Answer:
        now = self._statistics.snapshot(1.0)
        paused = self._live.current.paused or (self._gate is not None and not self._gate.is_open)
        status = {"streaming": not paused, "paused": paused, "fps": now["fps"], "frame_count": now["frames_out"]}
        return Answer(replies=(("/status", json.dumps(status)),))

    def _absent(self, address: str, arguments: list[Any]) -> Answer:
        if not any(arguments) or arguments[0] in ("[]", "{}", "null", AS_ASKED.get(address)):
            return Answer()
        key = next(key for key in ABSENT if address == key or (key.endswith("/") and address.startswith(key)))
        return Answer(error=ABSENT[key] if self._told_absent.may(key) else "")


def _heaviest(pairs: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """So many of them, in their order."""
    chosen = sorted(range(len(pairs)), key=lambda i: -pairs[i][1])[:count]
    return [pairs[i] for i in sorted(chosen)]


def _cut(text: Any) -> Any:
    """A prompt as long as can be; text encoders read far less of it."""
    return text[:MAX_PROMPT_CHARS] if isinstance(text, str) else text


def _seed_of(value: Any) -> Any:
    """A seed of any size as one of ours; -1 and those that are ours stay. What is no whole number stays, too."""
    if isinstance(value, str) and len(value) <= MAX_SEED_CHARS:
        with contextlib.suppress(ValueError):
            value = int(value)
    if not _is_number(value) or value != int(value) or value == -1:
        return value
    return int(value) % SEEDS


def _is_number(value: Any) -> bool:
    # Compared, not converted: JSON's whole numbers may be too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


class Reported(Protocol):
    """What is told of a host: `bridge.host.host.Host`, or what stands in its place."""

    failure: str | None

    @property
    def phase(self) -> str: ...

    @property
    def model_name(self) -> str: ...

    @property
    def device_name(self) -> str | None: ...


class StreamDiffusionTd:
    """The dialect's server and its reports, from `start` to `stop`.

    port: UDP port to listen on, 0 for any free one. reply_port: port of this machine where the project listens.
    output_name: name of the memory that the project should read, reported to it; "" for none. refused: as of
    `OscServer`. reported: the host whose state is reported; None reports none.
    `start` raises `bridge.control.osc.OscError`.
    """

    def __init__(
        self,
        live: LiveParams,
        statistics: Statistics,
        *,
        host: str = "127.0.0.1",
        port: int = OSC_PORT,
        reply_port: int = REPLY_PORT,
        gate: Gate | None = None,
        output_name: str = "",
        refused: Callable[[str], None] | None = None,
        reported: Reported | None = None,
    ) -> None:
        self._live = live
        self._gate = gate
        self._reported = reported
        self._stage = ""
        self._failure: str | None = None
        dialect = Dialect(live, statistics, gate)
        self.server = OscServer(
            live, statistics, host, port, aliases=dialect.table, reply_port=reply_port, refused=refused
        )
        self.reply_port = reply_port
        self._output_name = output_name
        self._project: Sender = ("127.0.0.1", reply_port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._frames = 0
        self._last_s = 0.0
        self._fps = 0.0
        self._stopping = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="sdtd-heartbeat", daemon=True)

    def start(self) -> None:
        """Listen and report; returns at once."""
        self.server.start()
        if self._reported is not None:
            self._report("/stream-info/state", "local_starting_server")
        self._heart.start()

    def stop(self) -> None:
        """End it; harmless when it never started or has ended."""
        self._stopping.set()
        if self._heart.is_alive():
            self._heart.join()
            # A failure has ended the host, perhaps since the last beat.
            self._report_state()
            self._report("/application_status", "stopping")
            if self._reported is not None and self._failure is None:
                self._report("/stream-info/state", "local_offline")
            self._report("/server_active", 0)
        self.server.stop()
        self._socket.close()

    def frame_sent(self, name: str) -> None:
        """A result was handed over in the memory called `name`: tell the project. Called from one thread."""
        now = time.monotonic()
        if self._last_s:
            rate = 1.0 / max(1e-6, now - self._last_s)
            self._fps = 0.9 * self._fps + 0.1 * rate if self._fps else rate
        self._last_s = now
        self._frames += 1
        if self._output_name and name != self._output_name:
            # Before it is told that there is something to read: it would look in the old memory.
            self._output_name = name
            self._report("/stream-info/output-name", name)
        self._report("/framecount", self._frames)
        self._report("/frame_updated", 1)
        self._report("/frame_ready", self._frames)
        self._report("/stream-info/fps", float(self._fps))

    def _beat(self) -> None:
        while True:
            self._report("/server_active", 1)
            if self._output_name:
                self._report("/stream-info/output-name", self._output_name)
            self._report_state()
            if self._stopping.wait(HEARTBEAT_S):
                return

    def _report_state(self) -> None:
        """How the host is: its state each time, what changes rarely when it has changed."""
        host = self._reported
        if host is None:
            return
        # Each is asked for once, so that one report does not tell of two moments.
        failure, phase = host.failure, host.phase
        if failure is not None and self._failure is None:
            self._failure = failure
            self._report("/stream-info/error", failure)
            self._report("/stream-info/error-time", round(time.time() * 1000))
        self._report("/stream-info/state", self._state(failure, phase))
        stage = {"loading": "building_engine", "ready": "complete"}.get(phase, "")
        if stage and stage != self._stage:
            self._stage = stage
            self._report("/engine/stage", stage)
            self._report("/engine/model", host.model_name)
        device = host.device_name
        if device is not None and device.startswith("cuda"):
            import torch

            free, total = torch.cuda.mem_get_info(device)
            self._report("/vram/total", total / 2**30)
            self._report("/vram/used", (total - free) / 2**30)

    def _state(self, failure: str | None, phase: str) -> str:
        if failure is not None:
            return "local_error"
        if phase == "loading":
            return "local_loading_models"
        paused = self._live.current.paused or (self._gate is not None and not self._gate.is_open)
        lately = self._last_s and time.monotonic() - self._last_s < STREAMING_S
        return "local_streaming" if lately and not paused else "local_ready"

    def _report(self, address: str, *values: Any) -> None:
        try:
            self._socket.sendto(datagram(address, *values), self._project)
        except OSError:
            # Nobody listens there (yet), which some systems tell the sender. The next report may be heard.
            return
