import socket
import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

import bridge.control.osc
from bridge.control.live import LiveParams
from bridge.control.osc import OscError, OscPortInUse, OscServer
from bridge.control.statistics import Statistics
from core.params import SPECS, Params


def message(address, *values, types=None):
    builder = OscMessageBuilder(address)
    for i, value in enumerate(values):
        builder.add_arg(value, types[i] if types else None)
    return builder.build().dgram


class Peer:
    """A sender with its own UDP port that can read what comes back."""

    def __init__(self, port):
        self.port = port
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(20)

    def send(self, address, *values, types=None):
        self.send_raw(message(address, *values, types=types))

    def send_raw(self, data):
        self.socket.sendto(data, ("127.0.0.1", self.port))

    def receive(self):
        answer = OscMessage(self.socket.recv(65536))
        return (answer.address, *answer.params)

    def settle(self):
        """Everything sent before has been handled when this returns; gives what came back meanwhile."""
        self.send("/ping")
        seen = []
        while True:
            answer = self.receive()
            if answer == ("/pong",):
                return seen
            seen.append(answer)

    def refused(self, *sent):
        """The error message that follows sending one message."""
        self.send(*sent)
        answers = self.settle()
        assert len(answers) == 1 and answers[0][0] == "/error", answers
        assert answers[0][1] == sent[0]
        return answers[0][2]


@pytest.fixture
def live():
    return LiveParams()


@pytest.fixture
def statistics():
    return Statistics()


@pytest.fixture
def server(live, statistics):
    server = OscServer(live, statistics, port=0)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def peer(server):
    peer = Peer(server.port)
    yield peer
    peer.socket.close()


def good(name):
    """A value of the parameter as it may be sent, and what it becomes; not its default."""
    spec = SPECS[name]
    if spec.kind == "str":
        return "wax style, green box", "wax style, green box"
    if spec.kind == "bool":
        return (0, False) if spec.default else (1, True)
    if spec.kind == "choice":
        other = next(choice for choice in reversed(spec.choices) if choice != spec.default)
        return other, other
    if spec.kind == "ints":
        return {"t_index": ("18,26", (18, 26)), "size": ("512x384", (512, 384))}[name]
    # Floats that 32 bits hold exactly, as they travel so.
    numbers = (spec.high, spec.low) if spec.kind == "int" else (0.5, 0.25, 8.0)
    other = next(number for number in numbers if spec.low <= number <= spec.high and number != spec.default)
    return (int(other), int(other)) if spec.kind == "int" else (other, other)


@pytest.mark.parametrize("name", list(SPECS))
def test_every_field_has_its_address(name, peer, live):
    sent, wanted = good(name)
    assert wanted != getattr(Params(), name)
    peer.send(f"/{name}", sent)
    assert peer.settle() == []
    assert live.current == Params().with_values(**{name: wanted})


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.kind == "float"])
def test_a_32_bit_float_reaches_both_ends_of_its_range(name, peer, live):
    for end in (SPECS[name].low, SPECS[name].high):
        peer.send(f"/{name}", float(end))
        assert peer.settle() == []
        assert live.current == Params().with_values(**{name: end})


@pytest.mark.parametrize(
    "arguments",
    [
        (18, 26, 34),
        ("18,26,34",),
        ("18 26 34",),
        ("[18, 26, 34]",),
        ("18", "26", "34"),
        ("18 26", "34"),
        (18.0, 26.0, 34.0),
        ([18, 26, 34],),
    ],
)
def test_t_index_takes_numbers_or_one_text(arguments, peer, live):
    peer.send("/t_index", *arguments)
    assert peer.settle() == []
    assert live.current.t_index == (18, 26, 34)
    peer.send("/t_index", "")
    assert peer.settle() == []
    assert live.current.t_index == ()


@pytest.mark.parametrize("true, false", [(True, False), (1, 0), (1.0, 0.0)])
def test_bool_takes_true_false_and_numbers(true, false, peer, live):
    peer.send("/paused", true)
    peer.settle()
    assert live.current.paused is True
    peer.send("/paused", false)
    peer.settle()
    assert live.current.paused is False


@pytest.mark.parametrize(("on", "off"), [("on", "off"), ("TRUE", "False"), (" yes ", "no"), ("1", "0")])
def test_a_switch_may_come_as_text(on, off, peer, live):
    for name in (spec.name for spec in SPECS.values() if spec.kind == "bool"):
        for text, value in ((on, True), (off, False), (on, True)):
            peer.send(f"/{name}", text)
            assert peer.settle() == []
            assert getattr(live.current, name) is value


def test_wide_number_types_are_taken(peer, live):
    peer.send("/seed", 12, types=["h"])
    peer.send("/strength", 0.3, types=["d"])
    peer.send("/steps", 3.0)
    assert peer.settle() == []
    assert (live.current.seed, live.current.strength, live.current.steps) == (12, 0.3, 3)


@pytest.mark.parametrize(
    ("sent", "fix"),
    [
        (("/no_such_field", 1), "unknown address; use one of /prompt"),
        (("/", 1), "unknown address"),
        (("/steps/x", 1), "unknown address"),
        (("/steps", 99), "whole number from 1 to"),
        (("/steps", 1.5), "whole number"),
        (("/steps", "four"), "whole number"),
        (("/steps", True), "whole number"),
        (("/steps", None), "whole number"),
        (("/steps",), "0 values; send exactly one"),
        (("/steps", 1, 2), "2 values; send exactly one"),
        (("/strength", float("nan")), "a number from"),
        (("/strength", float("inf")), "a number from"),
        (("/strength", -0.5), "a number from"),
        (("/prompt",), "0 values; send exactly one"),
        (("/prompt", "x" * 60_000), "60000 characters; send text of at most"),
        (("/prompt", b"blob"), "type tag 'b'"),
        (("/guidance", "more"), "one of none, full"),
        (("/paused", "perhaps"), "0 or 1"),
        (("/paused", 2), "0 or 1"),
        (("/t_index", "18;26"), '"18,26"'),
        (("/t_index", "26,18"), "each larger than the one before"),
        (("/t_index", "9" * 5000), '"18,26"'),
        (("/t_index", *range(60)), "0 to 8 whole numbers"),
        (("/t_index", *range(200)), "200 arguments; send at most"),
        (("/get", "nothing"), "no parameter 'nothing'; use one of prompt"),
        (("/get", 5), "no parameter 5"),
        (("/subscribe", 0), "one port from 1 to 65535"),
        (("/subscribe", 1 << 40), "one port from 1 to 65535"),
        (("/subscribe", "here"), "one port from 1 to 65535"),
        (("/subscribe", 1, 2), "one port from 1 to 65535"),
    ],
)
def test_what_is_refused_is_answered_and_changes_nothing(sent, fix, peer, live):
    assert fix in peer.refused(*sent)
    assert live.latest() == (Params(), 0)


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (("neon", "style,", "red", "sphere"), "neon style, red sphere"),
        (("room", 237), "room 237"),
        ((1984,), "1984"),
        (("half", 0.5, True), "half 0.5 true"),
        (("one text",), "one text"),
        (([["neon", 2], "style"],), "neon 2 style"),
        (("\ufeffneon",), "neon"),
    ],
)
def test_a_text_may_come_in_words_and_numbers(words, prompt, peer, live):
    peer.send("/prompt", *words)
    assert peer.settle() == []
    assert live.current.prompt == prompt


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("steps", "4", 4), ("strength", "0.5", 0.5), ("paused", "1", True), ("seed", "7.0", 7)]
    + [("strength", "0,25", 0.25), ("steps", " 3,0 ", 3), ("strength", ",5", 0.5)],
)
def test_a_number_may_come_as_text(name, text, value, peer, live):
    peer.send(f"/{name}", text)
    assert peer.settle() == []
    assert getattr(live.current, name) == value


@pytest.mark.parametrize("value", [1.9999998, 2.0000002, 2.00005])
def test_a_fader_need_not_hit_a_whole_number_to_the_last_bit(value, peer, live):
    peer.send("/steps", value)
    assert peer.settle() == []
    assert live.current.steps == 2
    peer.send("/paused", 0.99999994)
    assert peer.settle() == []
    assert live.current.paused is True


@pytest.mark.parametrize("text", ["self-negative", "Self-Negative", "SELF_NEGATIVE", " self negative "])
def test_a_choice_may_be_written_in_other_ways(text, peer, live):
    peer.send("/guidance", text)
    assert peer.settle() == []
    assert live.current.guidance == "self-negative"


@pytest.mark.parametrize("address", ["/prompt", "/Prompt", "/PROMPT/", "/prompt "])
def test_an_address_may_have_capitals_and_a_slash_at_its_end(address, peer, live):
    peer.send(address, "neon")
    assert peer.settle() == []
    assert live.current.prompt == "neon"


@pytest.mark.parametrize(("address", "near"), [("/promt", "/prompt"), ("/guidance-scale", "/guidance_scale")])
def test_an_address_that_nearly_is_one_is_named(address, near, peer, live):
    assert peer.refused(address, "x") == f"unknown address; did you mean {near}?"


def test_stages_may_come_as_whole_numbers_with_a_point(peer, live):
    peer.send("/t_index", "18.0, 26.")
    assert peer.settle() == []
    assert live.current.t_index == (18, 26)


def test_text_of_other_makes_is_read(peer, live):
    """Max sends symbols and 8-bit characters; buttons send impulses."""
    peer.send_raw(b"/prompt\0,S\0\0" + b"caf\xe9 style\0\0")
    peer.send_raw(b"/steps\0\0,i\0\0\0\0\0\3")
    peer.send_raw(b"/paused\0,I\0\0")
    assert peer.settle() == []
    assert (live.current.prompt, live.current.steps, live.current.paused) == ("café style", 3, True)
    peer.send_raw(b"/prompt\0,sis\0\0\0\0" + b"\xfcber\0\0\0\0" + b"\0\0\0\7" + "grün".encode() + b"\0\0\0")
    assert peer.settle() == []
    assert live.current.prompt == "über 7 grün"


def test_both_loopbacks_are_heard_and_answered(server, live):
    other = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        other.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here")
    other.settimeout(20)
    other.sendto(message("/seed", 4242), ("::1", server.port))
    other.sendto(message("/ping"), ("::1", server.port))
    assert OscMessage(other.recv(65536)).address == "/pong"
    assert live.current.seed == 4242
    other.close()


def test_what_is_refused_is_told_on_this_side_once_a_second_per_address(live, statistics):
    told = []
    server = OscServer(live, statistics, port=0, refused=told.append)
    server.start()
    peer = Peer(server.port)
    try:
        for _ in range(3):
            peer.send("/steps", 99)
        peer.send("/nonsense", 1)
        peer.settle()
    finally:
        server.stop()
        peer.socket.close()
    assert [line.split(": ")[1] for line in told] == ["/steps", "/nonsense"]
    now = statistics.snapshot()
    assert (now["refused"], now["last_refused"]) == (2, told[-1])
    assert told[0].startswith("OSC from 127.0.0.1: ") and "whole number from 1" in told[0]


def bundle(*contents, timetag=IMMEDIATELY):
    head = b"#bundle\0" + (struct.pack(">Q", 1) if timetag == IMMEDIATELY else timetag)
    return head + b"".join(struct.pack(">i", len(c)) + c for c in contents)


MALFORMED = [
    b"",
    b"\0",
    b"hello",
    b"/steps",
    b"/steps\0",
    b"/steps\0\0,i\0\0\0\0",
    b"/steps\0\0i\0\0\0\0\0\0\1",
    b"/steps\0\0,q\0\0\0\0\0\1",
    b"/steps\0\0,[i\0\0\0\0\1",
    b"/steps\0\0,]\0\0",
    b"/prompt\0,s\0\0abc",
    b"/\xff\xff\xff\0\0\0\0,\0\0\0",
    b"/prompt\0,b\0\0" + struct.pack(">i", -8) + b"\0" * 8,
    b"/prompt\0," + b"b" * 3 + struct.pack(">i", -(2**31)) * 3,
    b"/prompt\0," + b"[" * 60_000 + b"\0" * 7,
    b"#bundle",
    b"#bundle\0\0\0\0",
    b"#bundle\0" + b"\0" * 8 + struct.pack(">i", -4),
    b"#bundle\0" + b"\0" * 8 + struct.pack(">i", 0),
    b"#bundle\0" + b"\0" * 8 + struct.pack(">i", 2**31 - 1) + b"/x\0\0",
    b"#bundle\0" + b"\0" * 8 + b"\0\0",
    bundle(b"junk"),
    bundle(message("/steps", 4), b"junk"),
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_datagram_is_answered_and_the_server_goes_on(data, peer, live, caplog):
    peer.send_raw(data)
    answers = peer.settle()
    assert [a[0] for a in answers] == ["/error"]
    assert live.latest() == (Params(), 0)
    peer.send("/steps", 3)
    assert peer.settle() == []
    assert live.current.steps == 3
    assert caplog.records == []


def test_thousands_of_nested_bundles_are_walked(peer, live):
    data = message("/steps", 5)
    while len(data) < 60_000:
        data = bundle(data)
    peer.send_raw(data)
    assert peer.settle() == []
    assert live.current.steps == 5


def test_a_bundle_changes_its_parameters_together_and_in_order(peer, live):
    inner = bundle(message("/seed", 8), message("/steps", 5))
    peer.send_raw(bundle(message("/steps", 3), inner, message("/steps", 99), message("/delta", 0.5)))
    answers = peer.settle()
    assert len(answers) == 1 and answers[0][:2] == ("/error", "/steps")
    assert (live.current.steps, live.current.seed, live.current.delta) == (5, 8, 0.5)
    assert live.revision == 1


def test_a_bundle_for_later_holds_at_once(peer, live):
    builder = OscBundleBuilder(time.time() + 3600)
    builder.add_content(OscMessage(message("/steps", 7)))
    peer.send_raw(builder.build().dgram)
    assert peer.settle() == []
    assert live.current.steps == 7


def test_get_answers_with_values_that_can_be_sent_back(peer, live):
    live.update({"t_index": (18, 26), "paused": True, "prompt": "neon style"})
    peer.send("/get", "prompt")
    assert peer.receive() == ("/value", "prompt", "neon style")
    peer.send("/get")
    values = {name: value for _, name, value in peer.settle()}
    assert set(values) == set(SPECS)
    assert values["t_index"] == "18,26" and values["paused"] == 1
    wanted = live.current
    live.update({spec.name: spec.default for spec in SPECS.values()})
    for name, value in values.items():
        peer.send(f"/{name}", value)
    assert peer.settle() == []
    assert live.current == wanted


def test_answers_of_another_server_are_not_answered(peer):
    for address in ("/error", "/value", "/pong", "/subscribed", "/stats/fps"):
        peer.send(address, "x")
    assert peer.settle() == []


def test_errors_to_one_sender_are_rationed_and_counted(server, peer, monkeypatch):
    other = Peer(server.port)
    for _ in range(100):
        peer.send("/nonsense", 1)
    told = [a for a in peer.settle() if a[0] == "/error"]
    assert 5 <= len(told) < 100
    assert "unknown address" in other.refused("/nonsense", 1)
    other.socket.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(0.3)
        peer.send("/nonsense", 1)
        answers = peer.settle()
        if answers and "more errors before this one" in answers[0][2]:
            return
    pytest.fail("the untold errors were never counted out")


def test_the_memory_of_senders_is_bounded(server):
    for _ in range(bridge.control.osc._MAX_SENDERS + 20):
        peer = Peer(server.port)
        peer.refused("/nonsense", 1)
        peer.socket.close()
    assert len(server._complaints) <= bridge.control.osc._MAX_SENDERS


def stats_of(peer, wanted, seconds=20):
    """Collect /stats messages until all `wanted` names have come."""
    seen = {}
    deadline = time.monotonic() + seconds
    while not wanted <= set(seen):
        assert time.monotonic() < deadline, seen
        address, *values = peer.receive()
        if address.startswith("/stats/"):
            seen[address.removeprefix("/stats/")] = values[0]
    return seen


def test_a_subscriber_gets_statistics(peer, statistics):
    for _ in range(10):
        statistics.record("capture_to_publish", 20_000_000)
        statistics.record("unet", 5_000_000)
        statistics.count("frames_out")
    peer.send("/subscribe")
    assert peer.receive() == ("/subscribed", peer.socket.getsockname()[1], 60.0)
    names = {"fps", "p50_ms", "p95_ms", "p99_ms", "frames_in", "frames_out", "dropped", "skipped", "unet_p50_ms"}
    seen = stats_of(peer, names)
    assert seen["p50_ms"] == 20.0 and seen["unet_p50_ms"] == 5.0 and seen["frames_out"] == 10


def test_a_subscriber_may_name_another_port_and_gets_its_errors_there(server, peer):
    listener = Peer(server.port)
    peer.send("/subscribe", listener.socket.getsockname()[1])
    assert listener.receive()[0] == "/subscribed"
    stats_of(listener, {"fps"})
    peer.send("/nonsense", 1)
    deadline = time.monotonic() + 20
    while listener.receive()[0] != "/error":
        assert time.monotonic() < deadline
    peer.send("/unsubscribe", listener.socket.getsockname()[1])
    assert peer.settle() == []
    assert server._subscribers == {}
    listener.socket.close()


def test_a_subscriber_that_names_our_own_port_is_told(server, peer):
    assert "this server's own; send the port that you listen on" in peer.refused("/subscribe", server.port)
    assert server._subscribers == {} and server._answer_to == {}


def test_a_silent_subscriber_expires_and_a_renewing_one_stays(server, peer, monkeypatch):
    monkeypatch.setattr(bridge.control.osc, "SUBSCRIPTION_S", 1.0)
    peer.send("/subscribe")
    stats_of(peer, {"fps"})
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        peer.send("/subscribe")
        time.sleep(0.1)
        assert server._subscribers
    deadline = time.monotonic() + 20
    while server._subscribers and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server._subscribers == {} and server._answer_to == {}


def test_subscribers_are_limited(server, peer):
    for port in range(20_000, 20_000 + bridge.control.osc.MAX_SUBSCRIBERS):
        peer.send("/subscribe", port)
    other = Peer(server.port)
    assert "16 subscribers already" in other.refused("/subscribe")
    other.socket.close()
    assert len(server._subscribers) == bridge.control.osc.MAX_SUBSCRIBERS


def test_a_subscriber_that_went_away_costs_nothing(server, peer, live):
    gone = Peer(server.port)
    gone.send("/subscribe")
    gone.receive()
    gone.socket.close()
    server._next_stats = 0.0
    peer.send("/steps", 6)
    assert peer.settle() == []
    assert live.current.steps == 6


def test_a_flood_is_slowed_and_the_server_survives_it(server, peer, live):
    sender = Peer(server.port)
    flood = message("/seed", 1)
    for _ in range(5000):
        sender.send_raw(flood)
    sender.socket.close()
    # The kernel may have dropped this peer's first messages together with the flood's.
    peer.socket.settimeout(0.5)
    deadline = time.monotonic() + 30
    while live.current.steps != 4:
        assert time.monotonic() < deadline
        peer.send("/steps", 4)
        time.sleep(0.05)
    assert live.current.seed == 1


def test_a_port_in_use_names_the_fix(server, live, statistics):
    second = OscServer(live, statistics, port=server.port)
    with pytest.raises(OscPortInUse, match=f"{server.port}.*another port .--osc-port {server.port + 1}."):
        second.start()
    second.stop()
    third = OscServer(live, statistics, port=0)
    third.start()
    assert third.port not in (0, server.port)
    third.stop()


@pytest.mark.parametrize(
    ("host", "port"), [("203.0.113.9", 0), ("no.such.host.invalid", 0), ("\N{BULLET}..b", 0), ("127.0.0.1", 70_000)]
)
def test_an_address_that_is_not_ours_is_a_typed_error(host, port, live, statistics):
    with pytest.raises(OscError):
        OscServer(live, statistics, host=host, port=port).start()


def test_stop_frees_the_port_and_start_works_again(live, statistics):
    server = OscServer(live, statistics, port=0)
    server.start()
    with pytest.raises(OscError, match="already running"):
        server.start()
    port = server.port
    server.stop()
    server.stop()
    server.start()
    assert server.port == port
    peer = Peer(port)
    assert peer.settle() == []
    peer.socket.close()
    server.stop()


def test_only_loopback_is_bound_by_default(server):
    assert {udp.getsockname()[0] for udp in server._sockets} <= {"127.0.0.1", "::1"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.builds(lambda a, t, b: b"/" + a + b"\0" * (4 - (len(a) + 1) % 4) + b"," + t + b"\0" + b,
                  st.binary(max_size=20), st.text("ifsbhdTFNSI[]", max_size=8).map(str.encode), st.binary(max_size=60)),
        st.builds(lambda parts: bundle(*parts), st.lists(st.binary(max_size=40), max_size=5)),
    )
)  # fmt: skip
def test_no_datagram_escapes_as_an_exception(data, statistics):
    # In this thread, so that an exception would be seen and not logged.
    server = OscServer(LiveParams(), statistics)
    server._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    try:
        assert server._handle(data, ("127.0.0.1", 9)) >= 1
    finally:
        server._sockets[0].close()
