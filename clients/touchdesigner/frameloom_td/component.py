"""The extension of the component: what happens at the start and at the end of each of TouchDesigner's frames.

Frame start: the newest picture of the host, if it is new, is copied out of the ring and handed to the Script TOP.
Frame end: the input TOP's picture goes into the ring, parameters and answers go over OSC. Nothing waits.
"""

from __future__ import annotations

import os
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import td

from bridge.ring import RingError, State, now_ns
from frameloom_td import cuda, frames
from frameloom_td.link import HostLink
from frameloom_td.parameters import LIVE, live_value, settings
from frameloom_td.process import HostProcess

PRESET_PULSES = {f"{do.capitalize()}preset": do for do in ("save", "recall", "rename", "first", "delete", "restore")}
STATUS_S = 0.25
STALE_S = 3.0
NO_HOST = "no host: pulse Start Host, or run python3 run.py host --channel "


class FrameloomExt:
    """Attached to the component by `ext`; TouchDesigner calls it through the callbacks that `build.py` writes."""

    def __init__(self, comp: Any, checkout: Path) -> None:
        self.comp = comp
        self.checkout = checkout
        self.input = comp.op("in1")
        self.output = comp.op("picture")
        self.info = comp.op("info")
        self._errands = ThreadPoolExecutor(1, "frameloom")
        # Its thread is started now: later, in a frame, the first errand would wait for that.
        self._errands.submit(int)
        self._host = HostProcess(self._errands)
        self._sender: frames.Sender | None = None
        self._receiver: frames.Receiver | None = None
        self._link: HostLink | None = None
        self._cuda: cuda.Capture | None = None
        self._asked: tuple[int, int, bool] | None = None
        self._fresh = False
        self._size: tuple[int, int] = (0, 0)
        self._note = ""
        self._problem = ""
        self._status_s = 0.0
        self._since_s = 0.0
        self._opened: tuple[Any, ...] = ()
        self._open()

    # -- what is open -------------------------------------------------------------------------------------------------

    def _wanted(self) -> tuple[Any, ...]:
        par = self.comp.par
        return tuple(p.eval() for p in (par.Channel, par.Oscport, par.Active, par.Linearinput, par.Cudainput))

    def _open(self) -> None:
        """Open everything for the present parameters."""
        self._opened = self._wanted()
        channel, osc_port, active, linear, by_cuda = self._opened
        self._problem = ""
        self._since_s = time.monotonic()
        self.input.par.format = "rgba32float" if linear else "rgba8fixed"
        try:
            self._link = HostLink(osc_port)
            if active:
                self._receiver = frames.Receiver(f"{channel}.out")
                self._sender = frames.Sender(f"{channel}.in", self._errands)
                if by_cuda:
                    self._cuda = cuda.Capture(self._sender)
        except (RingError, cuda.CudaRefused, OSError) as error:
            self._problem = str(error)

    def _shut(self) -> None:
        for part in (self._cuda, self._sender, self._receiver, self._link):
            if part is not None:
                part.close()
        self._cuda = self._sender = self._receiver = self._link = self._asked = None
        self._fresh = False

    def Close(self) -> None:
        """Leave the channel and end the host that was started here. Harmless when done already."""
        self._shut()
        self._host.stop()
        self._errands.shutdown(wait=False)

    def onDestroyTD(self) -> None:
        """TouchDesigner is about to drop this object: the component is deleted or its extension made anew."""
        self.Close()

    # -- callbacks ----------------------------------------------------------------------------------------------------

    def FrameStart(self) -> None:
        """Take the newest picture if it is new; several times a second look after the status."""
        if self._receiver is not None and self._receiver.take():
            self._show(self._receiver)
        now = time.monotonic()
        if now - self._status_s >= STATUS_S:
            self._status_s = now
            text = self.status()
            if text != self.comp.par.Status.eval():
                self.comp.par.Status = text
            self.info.cook(force=True)

    def FrameEnd(self) -> None:
        """Send the input's picture; exchange messages with the host."""
        if self._sender is not None:
            self._send(self._sender)
        if self._link is not None and self._link.poll():
            self._link.set({spec.name: live_value(self.comp.par[name]) for name, spec in LIVE.items()})

    def CookOutput(self, script: Any) -> None:
        """Give the Script TOP the picture, once."""
        if self._fresh and self._receiver is not None and self._receiver.picture is not None:
            self._fresh = False
            script.copyNumpyArray(self._receiver.picture)

    def CookInfo(self, script: Any) -> None:
        """Fill the Script CHOP."""
        script.clear()
        script.numSamples = 1
        for name, value in self.figures().items():
            script.appendChan(name).vals = [value]

    def ParChanged(self, par: Any) -> None:
        """A custom parameter has another value."""
        if par.name in LIVE:
            if self._link is not None:
                self._link.set({LIVE[par.name].name: live_value(par)})
        elif par.name == "Checkout":
            if Path(par.eval()) != self.checkout:
                self.comp.par.reinitextensions.pulse()
        elif self._opened != self._wanted():
            self._shut()
            self._open()

    def ParPulsed(self, par: Any) -> None:
        """A custom pulse parameter was pulsed."""
        if par.name == "Starthost":
            self.StartHost()
        elif par.name == "Stophost":
            self._host.stop()
        elif par.name in PRESET_PULSES:
            self._preset(PRESET_PULSES[par.name])
        elif par.name == "Savetox":
            self.comp.save(os.path.join(td.project.folder, "frameloom.tox"))

    def _preset(self, do: str) -> None:
        if self._link is None:
            return
        name, seconds = self.comp.par.Preset.eval(), float(self.comp.par.Presetseconds.eval())
        if do == "recall" and seconds > 0.0:
            self._link.ask("/preset/morph", name, seconds)
        elif do == "rename":
            self._link.ask("/preset/rename", name, self.comp.par.Newname.eval())
        else:
            # Those that are not named follow as they were.
            self._link.ask("/preset/reorder" if do == "first" else f"/preset/{do}", name)

    def StartHost(self) -> None:
        """Start a host for this channel with the present parameters; returns at once."""
        par = self.comp.par
        words = ["--channel", par.Channel.eval(), "--osc-port", str(par.Oscport.eval()), "--no-page"]
        words += ["--model", par.Model.eval(), *settings(self.comp)]
        if par.Presetfolder.eval():
            words += ["--presets", par.Presetfolder.eval()]
        try:
            words += shlex.split(par.Hostoptions.eval())
        except ValueError as error:
            self._problem = f"Host Options: {error}"
            return
        self._problem = ""
        self._since_s = time.monotonic()
        self._host.start(self.checkout, par.Python.eval(), words, td.app.binFolder)

    # -- a frame ------------------------------------------------------------------------------------------------------

    def _show(self, receiver: frames.Receiver) -> None:
        frame, picture = receiver.frame, receiver.picture
        assert frame is not None and picture is not None
        size = (picture.shape[1], picture.shape[0])
        if size != self._size:
            self._size = size
            self.output.par.resolutionw, self.output.par.resolutionh = size
        self._fresh = True
        self.output.cook(force=True)
        self.info.cook(force=True)

    def _send(self, sender: frames.Sender) -> None:
        width, height = self.input.width, self.input.height
        self._note = self._input_trouble(width, height)
        if not self.comp.inputs or width * height == 0 or width * height > frames.MAX_PIXELS:
            self._asked = None
            return
        now = (now_ns(), int(td.absTime.frame), self.comp.par.Linearinput.eval())
        if self._cuda is not None:
            try:
                self._cuda.frame_end(self.input, *now[:2])
            except (cuda.CudaRefused, RingError, td.tdError, AttributeError) as error:
                self._problem = f"{error}; turned CUDA Input off"
                self._cuda.close()
                self._cuda = None
            return
        # The array is the picture of the previous call, or None: asking for the present one would stall the GPU.
        pixels = self.input.numpyArray(delayed=True)
        asked, self._asked = self._asked, now
        if pixels is None or asked is None:
            return
        if pixels.ndim != 3 or pixels.shape[2] != 4 or 0 in pixels.shape:
            self._note = f"input arrives as an array of shape {pixels.shape}; it must be (height, width, 4)"
            return
        capture_ns, frame, linear = asked
        self._note = frames.complaint(pixels) or self._note
        odd = not linear and self.input.par.format.eval() != "rgba8fixed"
        sender.send(pixels, capture_ns, frame, linear=bool(linear), odd=odd)

    def _input_trouble(self, width: int, height: int) -> str:
        """What is wrong with the input TOP, as far as can be seen without its pixels."""
        if not self.comp.inputs:
            return "no input: connect a TOP"
        if width * height == 0:
            return f"input is empty ({width} x {height})"
        if width * height > frames.MAX_PIXELS:
            return f"input of {width} x {height} is too large (at most 8192 x 8192); put a Fit TOP before the component"
        source = self.comp.inputs[0]
        # A wire may also come from another component, which has no pixel format to ask for.
        if source.isTOP and not self.comp.par.Linearinput.eval():
            # Only newer builds tell; with an older one nothing is said.
            pixel_format = getattr(source, "pixelFormatName", "")
            if pixel_format == "srgba8fixed":
                return "input is an sRGB texture, whose values arrive linear: turn on Linear Input"
            if pixel_format.endswith("float"):
                return "input is a float texture: values above 1 are clamped (Linear Input sends them)"
        return ""

    # -- what to say --------------------------------------------------------------------------------------------------

    def status(self) -> str:
        """How it goes, in words."""
        if not self.comp.par.Active.eval():
            return "off"
        sender, receiver, link = self._sender, self._receiver, self._link
        if sender is None or receiver is None or link is None:
            return self._problem
        try:
            state, trouble = receiver.state, ""
        except (RingError, OSError) as error:
            state, trouble = State.NO_WRITER, str(error)
        said = [self._problem, sender.error, link.error, trouble or receiver.error]
        if not trouble:
            said.append(self._how(state, receiver))
        said.append(self._note)
        return "; ".join(dict.fromkeys(text for text in said if text))

    def _how(self, state: State, receiver: frames.Receiver) -> str:
        now = time.monotonic()
        if self._host.leaving:
            return "stopping the host"
        if state is State.LIVE:
            if receiver.frame is None or receiver.frame.generation != receiver.generation:
                return f"warming up {now - self._since_s:.0f} s"
            if now - receiver.taken_s > STALE_S:
                return f"no new picture for {now - receiver.taken_s:.0f} s"
            return f"live {receiver.fps:.0f} fps {receiver.usual_latency_ms:.0f} ms"
        if self._host.running:
            return f"warming up {now - self._host.started_s:.0f} s: {self._host.last_line}"
        if self._host.ending:
            return self._host.ending
        if state is State.WRITER_GONE:
            return "writer gone: the host has stopped; the last picture stays"
        return NO_HOST + self.comp.par.Channel.eval()

    def figures(self) -> dict[str, float]:
        """What the Script CHOP shows, by channel name."""
        receiver, sender = self._receiver, self._sender
        frame = receiver.frame if receiver is not None else None
        stats = self._link.stats if self._link is not None else {}
        return {
            "source_frame": frame.source_frame_id if frame else 0,
            "delay_frames": td.absTime.frame - frame.source_frame_id if frame else 0,
            "latency_ms": receiver.latency_ms if receiver else 0,
            "fps": receiver.fps if receiver else 0,
            "sent": sender.sent if sender else 0,
            "received": receiver.received if receiver else 0,
            **{f"host_{name}": stats.get(name, 0) for name in ("fps", "p50_ms", "p95_ms", "dropped", "skipped")},
        }
