"""A show: prompts and parameters change at their times, over OSC, as from a lighting desk, a sequencer or a phone.

    python3 run.py demo
    .venv/bin/python examples/04_show.py

You see, on the page that the demo opens, the styles change at the times of the table below, the last one slowly; in the
terminal every cue, what the host answers, and its frames per second. It works with any host: OSC is UDP, to port 9000.
"""

import argparse
import sys
import time
from collections.abc import Iterator

from pythonosc.osc_message import OscMessage
from pythonosc.udp_client import SimpleUDPClient

CUES: list[tuple[float, str, str | float]] = [
    # seconds, address, value
    (0, "/prompt", "comic style, red sphere, green box"),
    (0, "/strength", 0.1),
    (3, "/prompt", "blueprint style"),
    (6, "/prompt", "neon style, yellow sphere, purple box"),
    (8, "/seed", 7),
    (9, "/prompt", "sunset style"),
    *((9 + step * 0.2, "/strength", round(0.1 + step * 0.02, 2)) for step in range(1, 16)),  # a slow rise
    (13, "/strength", 0.1),
    (13, "/prompt", "watercolour style, blue sphere"),
]
END_S = 16.0
SUBSCRIBE_AGAIN_S = 30.0
"""A subscription lapses after 60 s, so that a host does not send for ever to programs that are gone."""


def hear(host: SimpleUDPClient, for_s: float) -> Iterator[OscMessage]:
    """What the host sends within `for_s` seconds."""
    until_s = time.monotonic() + for_s
    while (left_s := until_s - time.monotonic()) > 0:
        datagram = host.receive(timeout=left_s)
        if datagram:
            yield OscMessage(datagram)


def answers(host: SimpleUDPClient) -> bool:
    """Whether a host is there."""
    host.send_message("/ping", [])
    try:
        return any(message.address == "/pong" for message in hear(host, 1.0))
    except ConnectionError:  # Windows says so when nobody has the port
        return False


def play(host: SimpleUDPClient, speed: float) -> None:
    """Send the cues at their times, and tell what comes back."""
    started_s = subscribe_s = time.monotonic()
    cues = list(CUES)
    at_s = told_s = 0.0
    while at_s < END_S:
        at_s = (time.monotonic() - started_s) * speed
        while cues and cues[0][0] <= at_s:
            _, address, value = cues.pop(0)
            host.send_message(address, value)
            print(f"{at_s:4.1f} s  {address} {value}")
        if time.monotonic() >= subscribe_s:
            subscribe_s += SUBSCRIBE_AGAIN_S
            host.send_message("/subscribe", [])
        for message in hear(host, 0.02):
            if message.address == "/stats/fps" and at_s - told_s >= 1.0:
                told_s = at_s
                print(f"{at_s:4.1f} s  {message.params[0]:.1f} frames per second")
            elif message.address == "/error":
                print(f"refused: {' '.join(map(str, message.params))}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Plays a timeline of OSC messages; see the top of this file.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--speed", type=float, default=1.0, help="2 plays twice as fast")
    args = parser.parse_args()
    # Answers and statistics come to the port that we send from.
    host = SimpleUDPClient(args.host, args.port)
    with host:
        if not answers(host):
            sys.exit(f"no host listens for OSC on {args.host}, port {args.port}: start one with  python3 run.py demo")
        play(host, args.speed)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
