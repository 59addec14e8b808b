"""`frameloom host`: a host with its OSC server and its page, in one process.

The parts know nothing of each other; they share one `LiveParams` and one `Statistics`, which are put together here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from bridge.commands.arguments import (
    MAX_PORT,
    Parser,
    parse_channel,
    parse_control,
    parse_folder,
    parse_host_name,
    parse_origin,
    parse_port,
    parse_size,
)
from bridge.commands.ports import OSC_PORT, PAGE_PORT, started
from bridge.commands.signals import StopRequest
from bridge.control.access import is_loopback, new_token
from bridge.control.live import LiveParams
from bridge.control.presets import Presets
from bridge.control.references import References
from bridge.control.shelf import Shelf, users_folder
from bridge.control.statistics import Statistics
from bridge.interop.adaptor import AdaptorError
from bridge.interop.adaptors import channel_name
from bridge.interop.endpoints import add_endpoint_options, open_endpoints
from bridge.recording.process import RecordingProcess
from bridge.ring.errors import RingError
from bridge.terminal import PROGRAM, say, say_warnings, status, status_every_s
from core.params import CONTROL_SOURCES, MAX_CONTROLS, MAX_LORAS, SPECS, SWITCH_WORDS, ParamError, Params, params_for
from core.references import named

if TYPE_CHECKING:
    from bridge.host.host import Host

NEW_TOKEN = "new"
"""The word of the command line that asks for a random token."""
LIBRARY_HABITS = {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Read by the model libraries at their import. This program reports progress itself and never downloads a model."""
CACHE = Path(__file__).resolve().parents[2] / ".cache"
"""What one start leaves to the next: converted networks, and which way to run them was fastest."""
PROGRESS_S = 2.0
STATUS_S = 10.0


def set_library_habits() -> None:
    """To be called before anything imports torch, which imports some of them. What the user has set stays in force."""
    for name, value in LIBRARY_HABITS.items():
        os.environ.setdefault(name, value)


class StartError(RuntimeError):
    """Something could not be started. The message says how to fix it."""


class Service(Protocol):
    """What starts and stops with a host. `stop` waits for the end and is harmless when it has ended."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class ChannelHost:
    """One host, its OSC server and its page, from `listen` to `stop`. Raises `StartError` with one plain sentence; what
    is wrong with the options themselves, when it is made.

    examples: prompts that the page offers. any_port: take a free port, with a note, when the wanted one is taken. page:
    see `page_options`. models: where hosts that share weights have them from. presets, recordings, kept_references: the
    folders of these, of recordings and reference pictures from the page; None is the user's own. options: the rest of
    `bridge.host.config.HostConfig`.
    """

    def __init__(
        self,
        channel: str,
        params: Params,
        *,
        examples: Sequence[str] = (),
        port: int = PAGE_PORT,
        osc_port: int = OSC_PORT,
        osc_host: str = "127.0.0.1",
        any_port: bool = False,
        page: Mapping[str, Any] = MappingProxyType({}),
        models: Any = None,
        presets: Path | None = None,
        recordings: Path | None = None,
        kept_references: Path | None = None,
        **options: Any,
    ) -> None:
        from bridge.host.host import Host, HostConfig, HostError
        from bridge.host.loading import check

        set_library_habits()
        if max(port, osc_port) > MAX_PORT:
            raise StartError(f"port {max(port, osc_port)} of {channel}: ports end at {MAX_PORT}; give a lower one")
        folders = {
            name: users_folder().with_name(name) if given is None else given
            for name, given in (("presets", presets), ("recordings", recordings), ("references", kept_references))
        }
        config = HostConfig(channel, kept_references=folders["references"], **options)
        self.live = LiveParams(params)
        self.statistics = Statistics()
        self.ended = threading.Event()
        """Set when the host ended by itself; `failure` says why."""
        try:
            check(config)
            self.host = Host(
                config,
                live=self.live,
                statistics=self.statistics,
                models=models,
                on_failure=lambda _: self.ended.set(),
            )
        except (HostError, RingError) as error:
            raise StartError(str(error)) from None
        self.url = ""
        self._page_root = ""
        self.examples = tuple(examples)
        """May be set until `listen`."""
        self.channel = channel
        self.recordings = RecordingProcess(channel, folders["recordings"], lambda: self._page_root)
        self.presets = presets_of(self.live, channel, Shelf(folders["presets"]))
        self.references = references_of(self.host, folders["references"])
        self._ports = (port, osc_port)
        self._osc_host = osc_host
        self._any_port = any_port
        self._page = page
        self._servers: list[Any] = []

    @property
    def runs_on(self) -> str:
        """Device, back end and dtype in words."""
        loaded = self.host.loaded
        return "nothing yet" if loaded is None else f"{loaded.device_name} ({loaded.backend_name} {loaded.dtype_name})"

    @property
    def failure(self) -> str | None:
        return self.host.failure

    def listen(self, others: Sequence[ChannelHost] = (), *, page: bool = True, start_page: str = "") -> None:
        """Start the OSC servers of this one and the others, and the page, which shows all their channels. Before any
        of them loads its model, so that a port that is taken is told at once. On an error nothing is left running.

        start_page: the path that `url` leads to.
        """
        try:
            for one in (self, *others):
                one._start_osc()
            if page:
                self._start_page(others, start_page)
        except BaseException:
            for one in (self, *others):
                one.stop()
            raise

    def start(self) -> None:
        """Start the host; returns at once while the model is loaded."""
        self.host.start()

    def _start_osc(self) -> None:
        from bridge.control.lora_osc import lora_aliases
        from bridge.control.osc import OscError, OscPortInUse, OscServer
        from bridge.control.preset_osc import preset_commands
        from bridge.control.references import reference_commands

        aliases = lora_aliases(lambda: self.host.lora_names)
        commands = {**preset_commands(self.presets), **reference_commands(self.references)}

        def make(port: int) -> OscServer:
            return OscServer(
                self.live,
                self.statistics,
                self._osc_host,
                port,
                aliases=aliases,
                commands=commands,
                refused=say,
            )

        note = "UDP port {wanted} is taken; OSC listens on {port}" if self._any_port else None
        try:
            osc = started(make, self._ports[1], OscPortInUse, note)
        except OscError as error:
            raise StartError(str(error)) from None
        self._servers.append(osc)
        say(f"OSC of {self.channel}: {self._osc_host} port {osc.port}")

    def add(self, service: Service) -> None:
        """Start something that ends with the host."""
        self._servers.append(service)
        service.start()

    def _start_page(self, others: Sequence[ChannelHost], start_page: str) -> None:
        from bridge.page.gateway import Channel, Gateway, GatewayError, GatewayPortInUse

        channels = [
            Channel(
                one.channel,
                one.live,
                one.statistics,
                one.examples,
                one.host,
                one.presets,
                one.recordings,
                one.references,
            )
            for one in (self, *others)
        ]
        what = start_page.strip("/") or "page"

        def make(port: int) -> Gateway:
            return Gateway(channels, port=port, start_page=start_page, **self._page)

        note = f"port {{wanted}} is taken; the {what} is on {{port}}" if self._any_port else None
        try:
            page = started(make, self._ports[0], GatewayPortInUse, note)
        except GatewayError as error:
            raise StartError(str(error)) from None
        self._servers.append(page)
        self.url = page.url
        for one in (self, *others):
            one._page_root = page.root
        say(f"{what}: {self.url}")
        if page.far_url is not None:
            say(f"from other machines: {page.far_url}")

    def stop(self) -> None:
        """End everything and wait for it; harmless when it has ended already."""
        self.host.stop()
        self.presets.stop()
        self.recordings.stop()
        for server in reversed(self._servers):
            server.stop()
        self._servers.clear()
        self.host.join()


def presets_of(live: LiveParams, channel: str, shelf: Shelf) -> Presets:
    """The presets of a host, with thumbnails of its output."""

    def look() -> bytes:
        from bridge.page.thumbnail import thumbnail_of

        return thumbnail_of(channel)

    return Presets(live, shelf, look)


def references_of(host: Host, folder: Path) -> References:
    """What takes in reference pictures for a host while it runs."""

    def look(ring: str) -> bytes:
        from bridge.page.thumbnail import still_of

        return still_of(ring)

    return References(
        host.config.channel,
        host.live,
        folder,
        lambda: named(host.config.references),
        lambda: any(spec.name == "reference" for spec in host.specs),
        look,
    )


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that starts a host; `host_options` reads them."""
    parser.add_argument(
        "--model",
        default="embedded",
        help="embedded (default), passthrough, a diffusers folder, a single .safetensors file, or ORG/NAME of the hub",
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="folder with further models to change to while the host runs (parameter model)",
    )
    parser.add_argument(
        "--prediction",
        default=None,
        choices=("epsilon", "v_prediction", "sample"),
        help="what the U-Net of a single file predicts, where the file does not say so",
    )
    parser.add_argument(
        "--lora",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"a LoRA that changes the model; repeat for up to {MAX_LORAS}, each with a live weight",
    )
    parser.add_argument(
        "--loras",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="folder with further LoRAs to take while the host runs (parameters lora_file_1 to lora_file_4)",
    )
    parser.add_argument(
        "--controls",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="folder with further ControlNets to take while the host runs (parameters control_net_1 and control_net_2),"
        f" each in a folder that says what it is shown, FOLDER/depth/NAME: {', '.join(CONTROL_SOURCES)}",
    )
    parser.add_argument(
        "--control",
        type=parse_control,
        action="append",
        default=[],
        metavar="WHAT=FOLDER",
        help=f"a ControlNet and what it is shown: {', '.join(CONTROL_SOURCES)}; repeat for up to {MAX_CONTROLS}",
    )
    parser.add_argument(
        "--ip-adapter",
        type=Path,
        default=None,
        metavar="FILE",
        help="an IP-Adapter, its image encoder in image_encoder beside it, or the folder that they are in",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a picture for the IP-Adapter, or a folder of some to choose from (parameter reference); repeat for more",
    )
    parser.add_argument(
        "--embedding",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a word for prompts by textual inversion, called as its file; repeat for more",
    )
    parser.add_argument("--device", default=None, help="auto (default), cpu, cuda or mps")
    parser.add_argument("--dtype", default=None, help="auto (default), float32, float16 or bfloat16")
    parser.add_argument(
        "--backend",
        default=None,
        help="auto (default: measured; on CUDA graphs), openvino, eager, graphs, compiled, compiled+graphs",
    )
    parser.add_argument(
        "--serial", action="store_true", help="run the stages of a frame one after the other, without overlap"
    )
    parser.add_argument(
        "--cache",
        type=parse_folder,
        default=CACHE,
        help="folder where converted networks and measurements are kept between starts",
    )
    parser.add_argument(
        "--presets",
        type=parse_folder,
        default=None,
        metavar="FOLDER",
        help="where presets are kept, such as beside a project (default: the user's own folder)",
    )
    parser.add_argument(
        "--recordings",
        type=parse_folder,
        default=None,
        metavar="FOLDER",
        help="where recordings from the page are kept (default: beside the user's presets)",
    )
    parser.add_argument(
        "--kept-references",
        type=parse_folder,
        default=None,
        metavar="FOLDER",
        help="where reference pictures from the page are kept (default: beside the user's presets)",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help=f"start with this parameter; repeat for more ({PROGRAM} params lists them)",
    )
    parser.add_argument(
        "--osc-port",
        type=parse_port,
        default=OSC_PORT,
        help=f"UDP port for OSC (default {OSC_PORT}; 0: any); further channels take the next ones",
    )
    parser.add_argument(
        "--osc-host", type=parse_host_name, default="127.0.0.1", help="address for OSC (default: this machine only)"
    )
    parser.add_argument(
        "--port", type=parse_port, default=PAGE_PORT, help=f"TCP port of the page (default {PAGE_PORT}; 0: any)"
    )
    parser.add_argument(
        "--listen",
        type=parse_host_name,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address that the page listens on; 0.0.0.0 lets other machines in",
    )
    parser.add_argument("--token", default=None, help=f"password that viewers must give; {NEW_TOKEN}: make one")
    parser.add_argument(
        "--allow-origin",
        type=parse_origin,
        metavar="ADDRESS",
        action="append",
        default=[],
        help="another site whose pages may show these channels",
    )
    parser.add_argument(
        "--allow-host",
        type=parse_host_name,
        metavar="NAME",
        action="append",
        default=[],
        help="a further name of this machine",
    )
    parser.add_argument(
        "--ice-server",
        action="append",
        default=[],
        metavar="stun:HOST:PORT",
        help="STUN server for WebRTC viewers beyond a router (an extra, see clients/web/README.md)",
    )


def host_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """The options of `ChannelHost` from the command line; ends with a usage error when a token is missing."""
    return {
        "model": args.model,
        "models_folder": args.models,
        "loras_folder": args.loras,
        "controls_folder": args.controls,
        "prediction": args.prediction,
        "loras": tuple(args.lora),
        "controls": tuple(args.control),
        "adapter": args.ip_adapter,
        "references": tuple(args.reference),
        "embeddings": tuple(args.embedding),
        "device": args.device,
        "dtype": args.dtype,
        "backend": args.backend,
        "overlap": False if args.serial else None,
        "cache": args.cache,
        "presets": args.presets,
        "recordings": args.recordings,
        "kept_references": args.kept_references,
        "osc_port": args.osc_port,
        "osc_host": args.osc_host,
        "port": args.port,
        "page": page_options(parser, args),
    }


def page_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """The gateway's part of them."""
    if args.token is None and not is_loopback(args.listen):
        parser.error(f"--listen {args.listen} lets other machines in: give --token {NEW_TOKEN}, or a word of your own")
    return {
        "host": args.listen,
        "token": new_token() if args.token == NEW_TOKEN else args.token,
        "allowed_origins": args.allow_origin,
        "allowed_hosts": args.allow_host,
        "ice_servers": args.ice_server,
    }


def nth_channel(options: Mapping[str, Any], number: int) -> dict[str, Any]:
    """`host_options` for one of several channels, counted from 0: each listens for OSC on a port of its own."""
    first = options["osc_port"]
    return {**options, "osc_port": first + number if first else 0}


def params_from(settings: Iterable[str], params: Params) -> Params:
    """`params` changed by words such as "steps=4" or "t_index=18,26". Raises `ParamError`."""
    for setting in settings:
        name, separator, text = setting.partition("=")
        spec = SPECS.get(name)
        if spec is None or not separator:
            raise ParamError(f"--set {setting}: write NAME=VALUE with one of {', '.join(SPECS)}")
        params = params.with_values(**{name: _READERS[spec.kind](text)})
    return params


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _boolean(text: str) -> Any:
    return SWITCH_WORDS.get(text.strip().lower(), _number(text))


_READERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "choice": str,
    "float": _number,
    "int": _number,
    "bool": _boolean,
    "ints": lambda text: [_number(part) for part in text.replace(",", " ").split()],
}
"""From the text of a command line to what `Spec.check` judges; what is no number stays text and is refused there."""


def status_line(running: ChannelHost) -> str:
    """One line on how it goes. Frames that newer ones overtook are no failure: that is how the picture stays fresh."""
    now = running.statistics.snapshot(STATUS_S)
    if not now["frames_in"]:
        return (
            f"ready; waiting for a program that writes {running.channel}.in, such as: {PROGRAM} source world"
            f" --channel {running.channel}"
        )
    if now["p50_ms"] is None:
        return f"{now['frames_in']} frames in, {now['frames_out']} out"
    parts = [
        f"{now['fps']:.1f} frames per second",
        f"p50 {now['p50_ms']:.0f} ms",
        f"p95 {now['p95_ms']:.0f} ms",
        f"{now['frames_out']} painted",
    ]
    if now["dropped"]:
        parts.append(f"{now['dropped']} overtaken by newer ones")
    if now["skipped"]:
        parts.append(f"{now['skipped']} skipped, as nothing moved")
    return ", ".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Run one channel until Ctrl-C."""
    parser = Parser("host", description="Repaint what a client writes into NAME.in; results go to NAME.out.")
    parser.add_argument(
        "--channel",
        type=parse_channel,
        action="append",
        help="NAME of the channel (default: made from the name in --input); repeat for more, which share the model",
    )
    add_endpoint_options(parser)
    parser.add_argument(
        "--size",
        type=parse_size,
        default=None,
        help="size to work at in pixels, 128 or 640x360 (default: fits the model)",
    )
    parser.add_argument("--lossless", action="store_true", help="take every frame and wait for both sides (offline)")
    parser.add_argument("--no-page", action="store_true", help="start no page")
    add_host_options(parser)
    args = parser.parse_args(argv)
    options = host_options(parser, args)
    if args.channel is None and args.input is None:
        parser.error("--channel NAME is wanted, or --input of another program")
    several = args.channel is not None and len(args.channel) > 1
    if several and len(set(args.channel)) < len(args.channel):
        parser.error("each --channel must have a name of its own")
    if args.lossless and (args.input is not None or args.output is not None):
        parser.error("--lossless is for rings; other programs' memory holds one picture and no number")
    if several and (args.input is not None or args.output is not None):
        parser.error("--input and --output are of one channel; start a host of its own for it")
    say_warnings()
    stop = StopRequest()
    hosts: list[ChannelHost] = []
    try:
        with contextlib.ExitStack() as undo:
            hosts = _start_all(args, options, undo)
            undo.pop_all()
    except (StartError, ParamError, AdaptorError, RingError) as error:
        say(f"host: {error}")
        return 1
    try:
        _watch(hosts, stop.event)
    finally:
        for running in hosts:
            running.stop()
        stop.restore()
    failures = [running.failure for running in hosts if running.failure is not None]
    for failure in failures:
        say(f"host: {failure}")
    if not failures:
        say("stopped")
    return 1 if failures else 0


def _start_all(args: argparse.Namespace, options: Mapping[str, Any], undo: contextlib.ExitStack) -> list[ChannelHost]:
    """Everything that runs, one `ChannelHost` per channel; `undo` ends what was begun."""
    from bridge.host.loading import Models

    channels = args.channel if args.channel is not None else [channel_name(args.input)]
    models = Models(len(channels))
    params = params_from(args.settings, params_for(args.model))
    hosts = []
    for number, channel in enumerate(channels):
        running = ChannelHost(
            channel, params, models=models, size=args.size, lossless=args.lossless, **nth_channel(options, number)
        )
        undo.callback(running.stop)
        hosts.append(running)
    first, *others = hosts
    # What a wrong word keeps from starting comes first, the models last.
    endpoints = open_endpoints(args, first.channel, first.live, first.statistics, say, first.host)
    undo.callback(endpoints.stop)
    first.listen(others, page=not args.no_page)
    first.add(endpoints)
    for running in hosts:
        running.start()
    return hosts


def _watch(hosts: Sequence[ChannelHost], stop: threading.Event) -> None:
    """Report until the end of all: the loading, the waiting for a client, then the rates. Where one of several ends by
    itself, the others go on."""
    started = told = time.monotonic()
    ready: list[ChannelHost] = []
    ended: list[ChannelHost] = []
    several = len(hosts) > 1
    while not stop.wait(0.2) and not all(running.ended.is_set() for running in hosts):
        now = time.monotonic()
        for running in hosts:
            of = f"{running.channel}: " if several else ""
            if running not in ready and running.host.ready.is_set():
                ready.append(running)
                told = now
                say(f"{of}ready on {running.runs_on} after {now - started:.1f} s; taking frames")
            if several and running not in ended and running.ended.is_set():
                ended.append(running)
                say(f"{of}ended, the other channels go on: {running.failure}")
        if now - told >= status_every_s(STATUS_S if ready else PROGRESS_S):
            told = now
            status(_state(hosts) if ready else f"loading the model ({now - started:.0f} s)")


def _state(hosts: Sequence[ChannelHost]) -> str:
    """How it goes, in one line for all channels."""
    if len(hosts) == 1:
        return status_line(hosts[0])
    rates = [f"{one.channel} {one.statistics.snapshot(STATUS_S)['fps']:.1f}" for one in hosts if not one.ended.is_set()]
    return f"frames per second: {', '.join(rates)}"


if __name__ == "__main__":
    sys.exit(main())
