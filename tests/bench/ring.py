"""`frameloom bench ring`: latency and throughput of the ring between two processes, beside what one would use instead.

A round trip takes a picture from an array of the client to an echoing process and back to the client. The ring makes
two copies for it, into the first ring and from ring to ring, and the client gets a checked view of the second, which is
how the host, the page and the clients read; "ring, copied out" makes a third copy, out of the second ring into the
client's own array, as every other transport must. In the same run, in turn with the others: those copies alone, made by
the same two processes in the same places and timed one by one (`memcpy`, three of them; `memcpy of two`), so that what
is left of the ring's round trip is what the ring costs. One-way latency is from a
stamp before sending to the picture being in an array of the other process. Throughput is without loss; beside it, the
two copies that each picture needs made flat out by two processes that wait for nobody. All processes, of every
transport, ask the scheduler for short slices as the host does (bridge/ring/scheduling.py); the other work that keeps
the cores busy at the end does not, and runs in sessions of its own. Under that load everything is measured twice, at
ordinary priority and with both processes of each transport in the real-time class (`bridge.ring.scheduling.urgent`),
for which the user needs the right. The bar on the 99th percentile judges the second, or the first where that right is
missing; spinning is compared at ordinary priority, since whoever spins in the real-time class takes the core from all
others. `--quick` measures less.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.shared_memory
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import zmq

from bridge.commands.arguments import Parser
from bridge.ring import Kind, Policy, RingReader, RingWriter
from bridge.ring.leftovers import sweep
from bridge.ring.scheduling import short_slices, urgent
from tests.bench.report import bar, emit, percentile, table

SIZES = {"512x512": (512, 512), "1920x1080": (1080, 1920), "3840x2160": (2160, 3840)}
SLOTS = 4
COLOUR = Kind.COLOUR
WAIT_S = 30.0
Picture = np.ndarray[Any, np.dtype[np.uint8]]


class Setting(NamedTuple):
    """What both sides of a transport agree on: its own directory and name, and the shape of the pictures."""

    directory: str
    name: str
    shape: tuple[int, int, int]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]


class End:
    """One side of a transport. `echo` belongs to the server: receive one picture and send it back.

    `pour` and `drain` are sending and receiving without loss, one way, as fast as it goes.
    """

    def send(self, picture: Picture) -> None:
        raise NotImplementedError

    def receive(self, into: Picture) -> None:
        raise NotImplementedError

    def echo(self) -> None:
        raise NotImplementedError

    def pour(self, picture: Picture) -> None:
        self.send(picture)

    def drain(self, into: Picture) -> None:
        self.receive(into)

    def close(self) -> None:
        raise NotImplementedError


class RingEnd(End):
    """Ours: newest-wins both ways, the server copying from ring to ring as a host does, the client reading in place; a
    lossless one to pour."""

    def __init__(self, setting: Setting, server: bool) -> None:
        there, back = ("back", "there") if server else ("there", "back")
        self._writer = RingWriter(f"{setting.name}.{there}", setting.nbytes, SLOTS)
        self._reader = RingReader(f"{setting.name}.{back}")
        flow = f"{setting.name}.flow"
        self._drain = RingReader(flow, lossless=True) if server else None
        self._pour = None if server else RingWriter(flow, setting.nbytes, SLOTS, Policy.LOSSLESS, timeout_s=WAIT_S)

    def send(self, picture: Picture) -> None:
        self._writer.write({COLOUR: picture})

    def receive(self, into: Picture) -> None:
        with self._reader.latest(WAIT_S) as frame:
            if frame is None:
                raise TimeoutError("ring")
            into[0, :2] = frame.planes[COLOUR][0, :2]

    def echo(self) -> None:
        with self._reader.latest(WAIT_S) as frame:
            if frame is None:
                raise TimeoutError("ring")
            self._writer.write(frame.planes, source_frame_id=frame.sequence)

    def pour(self, picture: Picture) -> None:
        assert self._pour is not None
        self._pour.write({COLOUR: picture})

    def drain(self, into: Picture) -> None:
        assert self._drain is not None
        if self._drain.read_into(into, WAIT_S) is None:
            raise TimeoutError("ring")

    def close(self) -> None:
        for part in (self._writer, self._reader, self._drain, self._pour):
            if part is not None:
                part.close()


class RingCopiedEnd(RingEnd):
    """The same, the picture copied out of the ring into the client's own array."""

    def receive(self, into: Picture) -> None:
        if self._reader.read_into(into, WAIT_S) is None:
            raise TimeoutError("ring")


class SharedEnd(End):
    """multiprocessing.shared_memory with a counter each way; `nap_s` of 0 spins, else sleeps between two looks."""

    nap_s = 0.0

    def __init__(self, setting: Setting, server: bool) -> None:
        size = 4096 + 2 * SLOTS * setting.nbytes
        name = f"{setting.name}-shm"
        self._memory = multiprocessing.shared_memory.SharedMemory(name, create=not server, size=size)
        self._own = not server
        # sent there, received there, sent back, received back: one cache line each
        self._count = self._memory.buf[:4096].cast("Q")
        self._slots = [
            np.ndarray(setting.shape, np.uint8, self._memory.buf, 4096 + k * setting.nbytes) for k in range(2 * SLOTS)
        ]
        if not server:
            for slot in self._slots:
                slot[...] = 1
        self._out, self._in = (2, 0) if server else (0, 2)

    def _wait(self, word: int, value: int) -> None:
        while self._count[word * 8] == value:
            if self.nap_s:
                time.sleep(self.nap_s)

    def _free(self) -> Picture:
        sent = self._count[self._out * 8]
        if sent >= SLOTS:
            self._wait(self._out + 1, sent - SLOTS)
        return self._slots[(self._out // 2) * SLOTS + sent % SLOTS]

    def _arrived(self) -> Picture:
        received = self._count[(self._in + 1) * 8]
        self._wait(self._in, received)
        return self._slots[(self._in // 2) * SLOTS + received % SLOTS]

    def send(self, picture: Picture) -> None:
        self._free()[...] = picture
        self._count[self._out * 8] += 1

    def receive(self, into: Picture) -> None:
        into[...] = self._arrived()
        self._count[(self._in + 1) * 8] += 1

    def echo(self) -> None:
        self.send(self._arrived())
        self._count[(self._in + 1) * 8] += 1

    def close(self) -> None:
        self._slots.clear()
        self._count.release()
        with contextlib.suppress(BufferError):
            self._memory.close()
        if self._own:
            self._memory.unlink()


class SharedSleepEnd(SharedEnd):
    nap_s = 0.001


class ZmqEnd(End):
    """pyzmq PAIR over ipc."""

    copy = True

    def __init__(self, setting: Setting, server: bool) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.set_hwm(SLOTS)
        self._socket.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        self._socket.setsockopt(zmq.LINGER, 0)
        address = f"ipc://{setting.directory}/{setting.name}.zmq"
        (self._socket.connect if server else self._socket.bind)(address)

    def send(self, picture: Picture) -> None:
        self._socket.send(picture, copy=self.copy)

    def receive(self, into: Picture) -> None:
        got = self._socket.recv(copy=self.copy)
        into[...] = np.frombuffer(got if self.copy else got.buffer, np.uint8).reshape(into.shape)

    def echo(self) -> None:
        self._socket.send(self._socket.recv(copy=self.copy), copy=self.copy)

    def close(self) -> None:
        self._socket.close()


class ZmqNoCopyEnd(ZmqEnd):
    copy = False


class SocketEnd(End):
    """A unix stream socket with buffers of 4 MiB."""

    def __init__(self, setting: Setting, server: bool) -> None:
        address = f"{setting.directory}/{setting.name}.sock"
        self._buffer = np.ones(setting.shape, np.uint8)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connected = server
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        if server:
            self._socket.connect(address)
        else:
            self._socket.bind(address)
            self._socket.listen(1)

    def _peer(self) -> socket.socket:
        if not self._connected:
            listener, (self._socket, _) = self._socket, self._socket.accept()
            listener.close()
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                self._socket.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
            self._connected = True
        return self._socket

    def send(self, picture: Picture) -> None:
        self._peer().sendall(picture.reshape(-1))

    def receive(self, into: Picture) -> None:
        view = memoryview(into.reshape(-1))
        peer = self._peer()
        while view:
            view = view[peer.recv_into(view, 0, socket.MSG_WAITALL) :]

    def echo(self) -> None:
        self.receive(self._buffer)
        self.send(self._buffer)

    def close(self) -> None:
        self._socket.close()


class PipeEnd(End):
    """multiprocessing's Connection over a unix socket, as Pipe() makes it."""

    def __init__(self, setting: Setting, server: bool) -> None:
        address = f"{setting.directory}/{setting.name}.pipe"
        self._buffer = np.ones(setting.shape, np.uint8)
        self._listener = None if server else multiprocessing.connection.Listener(address, "AF_UNIX")
        self._connection = multiprocessing.connection.Client(address) if server else None

    def _peer(self) -> Any:
        if self._connection is None:
            assert self._listener is not None
            self._connection = self._listener.accept()
            self._listener.close()
        return self._connection

    def send(self, picture: Picture) -> None:
        self._peer().send_bytes(picture.reshape(-1))

    def receive(self, into: Picture) -> None:
        self._peer().recv_bytes_into(into.reshape(-1))

    def echo(self) -> None:
        self.receive(self._buffer)
        self.send(self._buffer)

    def close(self) -> None:
        self._peer().close()


class MemcpyEnd(End):
    """No transport: the ring's copies in the ring's places; a byte through a socket, uncounted, hands over."""

    def __init__(self, setting: Setting, server: bool) -> None:
        self._shared = SharedEnd(setting._replace(name=setting.name + "m"), server)
        self._baton = SocketEnd(setting._replace(name=setting.name + "m", shape=(1, 1, 1)), server)
        self._byte = np.ones((1, 1, 1), np.uint8)
        self._turn = 0
        self.took_ns: list[int] = []

    def _copy(self, into: Picture, source: Picture) -> None:
        started = time.perf_counter_ns()
        into[...] = source
        self.took_ns.append(time.perf_counter_ns() - started)

    def send(self, picture: Picture) -> None:
        self._copy(self._shared._slots[self._turn % SLOTS], picture)
        self._baton.send(self._byte)

    def receive(self, into: Picture) -> None:
        self._baton.receive(self._byte)
        self._copy(into, self._shared._slots[SLOTS + self._turn % SLOTS])
        self._turn += 1

    def echo(self) -> None:
        self._baton.receive(self._byte)
        self._copy(self._shared._slots[SLOTS + self._turn % SLOTS], self._shared._slots[self._turn % SLOTS])
        self._turn += 1
        self._baton.send(self._byte)

    def flat_out(self, count: int, server: bool, private: Picture) -> None:
        """Half of what a one-way transport must copy, without waiting for anybody."""
        for number in range(count):
            slot = self._shared._slots[number % SLOTS]
            if server:
                private[...] = slot
            else:
                slot[...] = private

    def close(self) -> None:
        self._shared.close()
        self._baton.close()


TRANSPORTS: dict[str, Callable[[Setting, bool], End]] = {
    "ring": RingEnd,
    "ring, copied out": RingCopiedEnd,
    "unix socket": SocketEnd,
    "zmq ipc nocopy": ZmqNoCopyEnd,
    "zmq ipc copy": ZmqEnd,
    "mp pipe": PipeEnd,
    "mp shm sleep 1 ms": SharedSleepEnd,
    "mp shm spin": SharedEnd,
    "memcpy": MemcpyEnd,
}
SPINNING = ("mp shm spin",)
OURS = ("ring", "ring, copied out")
BARE, BARE_TWO = "memcpy", "memcpy of two"


def other_process(kind: str, setting: Setting, control: Any) -> None:
    """The other process: does what it is told and sleeps on `control` in between, so that nobody spins in idle."""
    short_slices()
    end = TRANSPORTS[kind](setting, True)
    private = np.ones(setting.shape, np.uint8)
    stamp = private.reshape(-1)[:8].view(np.uint64)
    control.send("ready")
    while True:
        what, count = control.recv()
        if what in ("echo", "urgent echo"):
            with urgent() if what == "urgent echo" else contextlib.nullcontext():
                for _ in range(count):
                    end.echo()
            answer = []
            if isinstance(end, MemcpyEnd):
                answer, end.took_ns = end.took_ns, []
            control.send(answer)
        elif what == "sink":
            for _ in range(count):
                end.receive(private)
                control.send(time.monotonic_ns() - int(stamp[0]))
        elif what == "drain":
            end.drain(private)
            started = time.monotonic_ns()
            for _ in range(count):
                end.drain(private)
            control.send(time.monotonic_ns() - started)
        elif what == "flat out":
            assert isinstance(end, MemcpyEnd)
            started = time.monotonic_ns()
            end.flat_out(count, True, private)
            control.send(time.monotonic_ns() - started)
        else:
            end.close()
            return


class Pair:
    """A client end in this process and its server in another."""

    def __init__(self, kind: str, setting: Setting) -> None:
        self.kind = kind
        self.end = TRANSPORTS[kind](setting, False)
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        self._process = context.Process(target=other_process, args=(kind, setting, theirs), daemon=True)
        self._process.start()
        self.picture = np.random.default_rng(1).integers(0, 255, setting.shape, np.uint8)
        self.stamp = self.picture.reshape(-1)[:8].view(np.uint64)
        self.back = np.zeros(setting.shape, np.uint8)
        self.two_copies: list[float] = []
        if self._control.recv() != "ready":
            raise RuntimeError(kind)
        self.round_trips(3)
        # Read in place, only the first pixels come into an array of ours, to be looked at.
        seen = slice(0, 1) if kind == OURS[0] else slice(None)
        if not np.array_equal(self.picture[seen, :2], self.back[seen, :2]):
            raise RuntimeError(f"{kind} changed the picture")

    def urgent_round_trips(self, count: int, period_s: float = 0.0) -> list[float]:
        """Like `round_trips`, both processes in the real-time class where they may."""
        with urgent():
            return self.round_trips(count, period_s, "urgent echo")

    def round_trips(self, count: int, period_s: float = 0.0, request: str = "echo") -> list[float]:
        """Microseconds each; for bare copies, the time of all three, and in `two_copies` that of the first two.

        One more is made before them and not counted: it finds the other process asleep at its control pipe, at its old
        priority, and would measure that."""
        self._control.send((request, count + 1))
        took: list[float] = []
        for number in range(count + 1):
            self.picture[0, 0, 0] = number & 0xFF
            started = time.perf_counter_ns()
            self.end.send(self.picture)
            self.end.receive(self.back)
            took.append((time.perf_counter_ns() - started) / 1e3)
            if self.back[0, 0, 0] != number & 0xFF:
                raise RuntimeError(f"{self.kind} returned another picture")
            if period_s:
                time.sleep(max(0.0, period_s - took[-1] / 1e6))
        theirs = self._control.recv()
        if isinstance(self.end, MemcpyEnd):
            mine, self.end.took_ns = self.end.took_ns, []
            self.two_copies = [(a + b) / 1e3 for a, b in zip(mine[0::2], theirs, strict=True)][1:]
            return [(a + b + c) / 1e3 for a, b, c in zip(mine[0::2], theirs, mine[1::2], strict=True)][1:]
        return took[1:]

    def one_way(self, count: int) -> list[float]:
        """Microseconds from stamp to arrival, one picture at a time."""
        self._control.send(("sink", count))
        late = []
        for _ in range(count):
            # The other side is asleep by then, as it is between two frames.
            time.sleep(0.002)
            self.stamp[0] = time.monotonic_ns()
            self.end.send(self.picture)
            late.append(self._control.recv() / 1e3)
        return late

    def throughput(self, count: int) -> float:
        """Pictures per second, none lost."""
        if isinstance(self.end, MemcpyEnd):
            self._control.send(("flat out", count))
            started = time.monotonic_ns()
            self.end.flat_out(count, False, self.picture)
            mine = time.monotonic_ns() - started
            return count / max(mine, self._control.recv()) * 1e9
        self._control.send(("drain", count))
        for _ in range(count + 1):
            self.end.pour(self.picture)
        return count / self._control.recv() * 1e9

    def close(self) -> None:
        self._control.send(("quit", 0))
        self._process.join(10)
        self.end.close()


def burn() -> None:
    short_slices(0)
    # Other work is not part of this program: a session of its own, as another program has.
    os.setsid()
    while True:
        sum(range(10000))


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """One process of ordinary priority per core that never rests."""
    context = multiprocessing.get_context("spawn")
    burners = [context.Process(target=burn, daemon=True) for _ in range(os.cpu_count() or 1)]
    for burner in burners:
        burner.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


@contextlib.contextmanager
def pairs(shape: tuple[int, int], names: list[str]) -> Iterator[list[Pair]]:
    with tempfile.TemporaryDirectory(prefix="ringbench") as directory, contextlib.ExitStack() as stack:
        opened = []
        for number, name in enumerate(names):
            pair = Pair(name, Setting(directory, f"bench-ring-{os.getpid()}-{number}", (*shape, 4)))
            stack.callback(pair.close)
            opened.append(pair)
        yield opened


class Round(NamedTuple):
    """Medians of one transport in one round, in which all transports take turns. Microseconds; pictures per second."""

    round_trip_us: float
    fps: float


def measure(
    shape: tuple[int, int], rounds: int, trips: int, frames: int
) -> tuple[dict[str, Any], list[dict[str, Round]]]:
    """Results per transport over everything, and medians per round, from which ratios are taken: a machine that other
    work slows down for a while slows all transports of a round."""
    trip_us: dict[str, list[float]] = {name: [] for name in (*TRANSPORTS, BARE_TWO)}
    one_way_us: dict[str, list[float]] = {name: [] for name in TRANSPORTS if name != BARE}
    in_rounds: list[dict[str, Round]] = []
    order = random.Random(0)
    with pairs(shape, list(TRANSPORTS)) as opened:
        for _ in range(rounds):
            medians = {}
            for pair in order.sample(opened, len(opened)):
                took = pair.round_trips(trips)
                trip_us[pair.kind] += took
                if pair.kind != BARE:
                    one_way_us[pair.kind] += pair.one_way(max(2, trips // 2))
                medians[pair.kind] = Round(percentile(took, 50), pair.throughput(frames))
                if pair.kind == BARE:
                    trip_us[BARE_TWO] += pair.two_copies
                    medians[BARE_TWO] = Round(percentile(pair.two_copies, 50), medians[BARE].fps)
            in_rounds.append(medians)
    results = {}
    for name in trip_us:
        of = results[name] = {
            "round_trip_p50_us": percentile(trip_us[name], 50),
            "round_trip_p99_us": percentile(trip_us[name], 99),
            "fps": median(r[name].fps for r in in_rounds),
        }
        if name in one_way_us:
            of["one_way_p50_us"] = percentile(one_way_us[name], 50)
            of["one_way_p99_us"] = percentile(one_way_us[name], 99)
    return results, in_rounds


def median(values: Iterable[float]) -> float:
    return percentile(list(values), 50)


Loaded = dict[str, dict[str, float]]


def measure_loaded(rounds: int, paced: int, trips: int) -> tuple[Loaded, Loaded]:
    """512 x 512 with every core kept busy by other work, `paced` round trips a turn at 60 pictures a second and `trips`
    back to back: at ordinary priority, and in the real-time class. Percentiles over everything, and the median over
    the turns of each turn's 99th (`turn_p99_us`), which leaves out the turns in which the hypervisor gave the cores to
    somebody else."""
    names = [name for name in TRANSPORTS if name != BARE]
    took: dict[tuple[str, str, str], list[list[float]]] = {}
    order = random.Random(1)
    with pairs(SIZES["512x512"], names) as opened, busy_cores():
        for _ in range(rounds):
            for pair in order.sample(opened, len(opened)):
                for priority, trip in (("ordinary", pair.round_trips), ("urgent", pair.urgent_round_trips)):
                    for pace, count, period_s in (("paced_", paced, 1 / 60), ("", trips, 0.0)):
                        took.setdefault((priority, pair.kind, pace), []).append(trip(count, period_s))

    def of(priority: str) -> Loaded:
        results: Loaded = {}
        for name in names:
            of = results[name] = {}
            for pace in ("paced_", ""):
                turns = took[priority, name, pace]
                for q in (50, 99):
                    of[f"{pace}p{q}_us"] = percentile([us for turn in turns for us in turn], q)
            of["turn_p99_us"] = median(percentile(turn, 99) for turn in turns)
        return results

    return of("ordinary"), of("urgent")


def main(arguments: list[str] | None = None) -> None:
    parser = Parser("bench ring", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the measurements")
    quick = parser.parse_args(arguments).quick
    sweep("bench-ring-")
    rounds = 2 if quick else 7
    plan = {"512x512": (60, 100), "1920x1080": (15, 20), "3840x2160": (5, 8)}
    results: dict[str, Any] = {"short_slices": short_slices()}
    by_round: dict[str, list[dict[str, Round]]] = {}
    for size, shape in SIZES.items():
        print(f"\n{size} RGBA, {shape[0] * shape[1] * 4 / 1e6:.1f} MB a picture", flush=True)
        results[size], by_round[size] = measure(shape, rounds, *plan[size])
        table(
            ("transport", "round trip p50 ms", "p99 ms", "one way p50 ms", "p99 ms", "pictures/s"),
            [
                (
                    name,
                    row["round_trip_p50_us"] / 1e3,
                    row["round_trip_p99_us"] / 1e3,
                    row.get("one_way_p50_us", 0.0) / 1e3,
                    row.get("one_way_p99_us", 0.0) / 1e3,
                    row["fps"],
                )
                for name, row in results[size].items()
            ],
        )
    with urgent() as results["urgent"]:
        pass
    results["loaded"], results["loaded_urgent"] = measure_loaded(rounds, *((20, 20) if quick else (60, 240)))
    for key, priority in (("loaded", "ordinary priority"), ("loaded_urgent", "real-time class")):
        if key == "loaded" or results["urgent"]:
            print(f"\n512x512 RGBA with every core kept busy by other work, {priority}", flush=True)
            table(
                ("transport", "60 Hz p50 ms", "p99 ms", "back to back p50 ms", "p99 ms", "p99 ms of a turn"),
                [(name, *(value / 1e3 for value in row.values())) for name, row in results[key].items()],
            )
    loaded = results["loaded"]
    best = results["loaded_urgent"] if results["urgent"] else loaded
    others = [name for name in TRANSPORTS if name not in (*OURS, BARE, *SPINNING)]
    small, large = by_round["512x512"], by_round["3840x2160"]
    ahead = {
        f"{size}, {name}": median(r[name].round_trip_us / r["ring"].round_trip_us for r in by_round[size])
        for size in SIZES
        for name in others
    }
    results["ahead"] = ahead
    results["copied_out_minus_memcpys_us"] = median(
        r["ring, copied out"].round_trip_us - r[BARE].round_trip_us for r in small
    )
    print()
    emit(
        "ring",
        results,
        [
            bar(
                "ring 512 round trip minus its memcpys, us, median",
                median(r["ring"].round_trip_us - r[BARE_TWO].round_trip_us for r in small),
                120,
                at_most=True,
            ),
            bar("ring 4K throughput / memcpy", median(r["ring"].fps / r[BARE].fps for r in large), 0.85),
            bar("ahead of every non-spinning transport", min(ahead.values()), 1),
            bar("loaded p99 ms, median of the turns", best["ring"]["turn_p99_us"] / 1e3, 1, at_most=True),
            bar(
                "loaded: ahead of spinning p99 ratio",
                min(loaded[name]["p99_us"] for name in SPINNING) / loaded["ring"]["p99_us"],
                1,
            ),
        ],
    )


if __name__ == "__main__":
    main()
