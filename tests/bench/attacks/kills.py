"""`kill -9` and SIGSTOP at random moments: of writers under readers that live on, and of readers under a writer."""

from __future__ import annotations

import os
import random
import signal
import time

from bridge.ring import Kind, Policy, RingReader, RingWriter, now_ns
from tests.bench.attacks.counting import HANG_S, LIFE, SIDE, Count, Shared, forked, kill, picture


def writing(directory: str, life: int, shared: Shared, policy: Policy = Policy.NEWEST, pause_s: float = 0.0) -> None:
    """Write for ever; words: 0 the newest number that was published whole, 1 when the ring of this life was ready."""
    writer = RingWriter("a", SIDE * SIDE * 4, policy=policy, directory=directory, timeout_s=HANG_S)
    ready_ns = shared.words[1] = now_ns()
    for own in range(1, LIFE):
        number = life * LIFE + own
        writer.write(picture(number), frame_id=number, capture_ns=ready_ns, param_revision=life)
        shared.words[0] = number
        if pause_s:
            time.sleep(pause_s)


def killed_writers(directory: str, kills: int, chance: random.Random, lossless: bool) -> Count:
    """Lives of a writer, one after the other, under one reader; newest-wins: and a fresh reader in each gap."""
    count, shared, last, life = Count(), Shared(), 0, 0
    policy = Policy.LOSSLESS if lossless else Policy.NEWEST
    with RingReader("a", directory=directory, lossless=lossless) as reader:
        while count.kills < kills:
            life += 1
            shared.words[0] = 0
            pid = forked(lambda life=life: writing(directory, life, shared, policy))
            late, answer = 0, Shared()
            until = time.monotonic() + HANG_S
            came = False
            end = float("inf")
            while time.monotonic() < min(end, until):
                frame = reader.read(0.05)
                if frame is None:
                    continue
                number = count.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                if lossless and number != last + 1 and number % LIFE != 1:
                    count.lost += 1
                last = number
                if not came and number // LIFE == life:
                    came = True
                    count.attach_ms.append((now_ns() - frame.capture_ns) / 1e6)
                    end = time.monotonic() + chance.uniform(0, 0.01)
            count.hangs += not came
            kill(pid)
            count.kills += 1
            if not lossless:

                def comes(answer: Shared = answer) -> None:
                    with RingReader("a", directory=directory) as fresh:
                        frame = fresh.read(HANG_S)
                        answer.words[0] = frame.param_revision if frame is not None else 1 << 60

                # It comes after the death and waits over the start of the next writer.
                late = forked(comes)
                next_life = life + 1
                pid = forked(lambda life=next_life: writing(directory, life, shared))
                until = time.monotonic() + HANG_S
                while answer.words[0] == 0 and time.monotonic() < until:
                    frame = reader.read(0.001)
                    if frame is not None:
                        last = count.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                count.hangs += answer.words[0] in (0, 1 << 60)
                count.dead += 0 < answer.words[0] < next_life
                kill(pid)
                kill(late)
                count.kills += 1
                life = next_life
            # What was published whole before the death is there for the lossless reader.
            while (frame := reader.read(0.0)) is not None:
                last = count.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
            if lossless:
                count.lost += last < shared.words[0]
    return count


def killed_readers(directory: str, kills: int, chance: random.Random, how: str) -> Count:
    """Readers, two at a time, under one writer; another reader sees that the writer goes on and all is whole."""
    count, shared = Count(), Shared()
    lossless = how == "lossless"
    policy = Policy.LOSSLESS if lossless else Policy.NEWEST
    writer = forked(lambda: writing(directory, 1, shared, policy))

    def reading(words: Shared) -> None:
        """Words: 0 frames, 1 torn, 2 backward, 3 gaps."""
        mine, last = Count(), 0
        with RingReader("a", directory=directory, lossless=lossless) as reader:
            while True:
                if how == "view":
                    with reader.latest(0.2) as frame:
                        if frame is None:
                            continue
                        number = mine.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                        time.sleep(0.001)
                        mine.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                else:
                    frame = reader.read(0.2)
                    if frame is None:
                        continue
                    number = mine.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                words.words[3] += lossless and last > 0 and number != last + 1
                last = number
                words.words[0], words.words[1], words.words[2] = mine.frames, mine.torn, mine.backward

    try:
        while count.kills < kills:
            group = 1 if lossless else 2
            words = [Shared() for _ in range(group)]
            pids = [forked(lambda w=w: reading(w)) for w in words]
            before, until = shared.words[0], time.monotonic() + HANG_S
            while time.monotonic() < until and not (shared.words[0] > before and all(w.words[0] > 2 for w in words)):
                time.sleep(0.0005)
            count.hangs += not (shared.words[0] > before and all(w.words[0] > 2 for w in words))
            time.sleep(chance.uniform(0, 0.004))
            for pid in pids:
                kill(pid)
            count.kills += group
            for w in words:
                count.frames += w.words[0]
                count.torn += w.words[1]
                count.backward += w.words[2]
                count.lost += w.words[3]
        before, until = shared.words[0], time.monotonic() + HANG_S
        while shared.words[0] == before and time.monotonic() < until:
            time.sleep(0.001)
        count.hangs += shared.words[0] == before
    finally:
        kill(writer)
    return count


def suspended(directory: str, times: int, chance: random.Random, who: str) -> Count:
    """One side stopped for up to 20 ms, again and again. who: "writer", "copy", "view" or "lossless"."""
    count, shared, lossless = Count(), Shared(), who == "lossless"
    policy = Policy.LOSSLESS if lossless else Policy.NEWEST
    writer = forked(lambda: writing(directory, 1, shared, policy))

    def reading() -> None:
        """Words: 1 frames, 2 torn, 3 backward, 4 gaps."""
        mine, last = Count(), 0
        with RingReader("a", directory=directory, lossless=lossless) as reader:
            while True:
                if who == "copy" or lossless:
                    frame = reader.read(0.2)
                    if frame is None:
                        continue
                    number = mine.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                else:
                    with reader.latest(0.2) as frame:
                        if frame is None:
                            continue
                        number = mine.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                        time.sleep(chance.uniform(0, 0.002))
                        mine.take(frame.planes[Kind.COLOUR], frame.frame_id, last)
                    mine.torn += not frame.valid
                mine.lost += lossless and last > 0 and number != last + 1
                last = number
                shared.words[1], shared.words[2], shared.words[3] = mine.frames, mine.torn, mine.backward
                shared.words[4] = mine.lost

    reader = forked(reading)
    victim = writer if who == "writer" else reader
    try:
        for _ in range(times):
            os.kill(victim, signal.SIGSTOP)
            time.sleep(chance.uniform(0, 0.02))
            os.kill(victim, signal.SIGCONT)
            time.sleep(chance.uniform(0, 0.004))
            count.kills += 1
            if count.kills % 100 == 0:
                before, until = (shared.words[0], shared.words[1]), time.monotonic() + HANG_S
                while time.monotonic() < until and (shared.words[0] <= before[0] or shared.words[1] <= before[1]):
                    time.sleep(0.001)
                count.hangs += shared.words[0] <= before[0] or shared.words[1] <= before[1]
        count.frames, count.torn, count.backward = (int(word) for word in shared.words[1:4])
        count.lost = int(shared.words[4])
    finally:
        kill(reader)
        kill(writer)
    return count
