"""frameloom bench immiscible: does it help to pair noise with pictures before training, as Immiscible Diffusion claims?

The same small network (an MLP-Mixer) is trained from the same seeds with each pairing of `core/pairing.py`: weights,
order of the pictures, timesteps and drawn noise are the same, only who gets which noise differs. For diffusion
(v-prediction), flow matching and few-step training (consistency), without captions and with. Data: scenes of the
procedural world at 16 px whose caption is their style, or CIFAR-10 from a folder (--cifar).

* distance: Fréchet distance to held-out pictures, in features of a small classifier that is trained in the run. Not
  comparable with published FIDs. prompted: share of pictures that the classifier finds as prompted.
* ratio: final distance over that without pairing, same seed; below 1 is better. speed-up: steps without pairing to the
  worse of the two final distances, over steps with; above 1 is better; in seconds it counts the pairing's time, too.
* Intervals are 95 % of Student's t over the seeds, of logarithms. The claim that a pairing helps is confirmed where the
  interval of its ratio lies below 1, refuted where it lies above, and undecided otherwise.
* noise: what a pairing does to the noise that the network learns from. It is made from blind noise in the end.
* repainted: image-to-image whose noise is the best of some draws for the picture, by these networks and by the embedded
  model (`noise_draws` of the stream).

Trials are kept in --work one by one: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bridge.commands.arguments import Parser
from tests.bench.report import bar, emit, table

OBJECTIVES = ("diffusion", "flow", "few-step")
PAIRINGS = {
    False: ("none", "assignment", "nearest", "nearest-centred", "semi-discrete"),
    True: (
        "none",
        "assignment",
        "nearest",
        "nearest-centred",
        "assignment-by-caption",
        "semi-discrete",
        "semi-discrete-by-caption",
    ),
}
"""With captions or without. The assignment by fp16 costs of the authors is measured for its noise and time alone: it
finds the same pairs but for ties."""
SIDE, PICTURES, HELD_OUT, REPAINTED = 16, 2048, 2048, 512
CLASSIFIER_STEPS, FIT_STEPS = 400, 400
VARIED = ("objective", "pairing", "conditional", "seed")
QUICK: dict[str, Any] = {}
FULL: dict[str, Any] = {"steps": 6000, "batch": 128, "width": 128, "blocks": 4, "looks": 10, "made": 2048}
PUBLISHED = (
    ("CIFAR-10, DDIM, batch 256, best FID", "none 6.63, assignment 5.14, nearest of 8 4.45", "arXiv 2505.18521"),
    ("CIFAR-10, flow matching", "none 4.92, assignment 5.02, nearest of 4 3.56", "arXiv 2505.18521"),
    ("CIFAR-10, consistency model, batch 512", "none 10.22, assignment 8.54, nearest of 4 9.16", "arXiv 2505.18521"),
    ("ImageNet-256 by class, Stable Diffusion, 20,000 steps", "none 17.92, assignment 16.43", "the authors' README"),
    ("steps to the same FID", "up to 3 times fewer (assignment), 2.5 to 4.5 (nearest)", "both papers' abstracts"),
    (
        "CIFAR-10 by class, flow matching, adaptive",
        "none 2.92, optimal transport 4.14, by class 2.90",
        "C2OT, ICCV 2025",
    ),
)
"""What others measured, of digests and tables: other networks, data and distances."""


# -- trials ------------------------------------------------------------------------------------------------------------


def _prepared(work: Path, cifar: Path | None) -> Path:
    """Pictures, classifier and potentials, made once."""
    import torch

    from core.pairing import TrainingSet, fitted
    from core.training.datasets import WORLD_STYLES, cifar10, in_styles, world_pictures, world_views
    from core.training.frechet import trained_classifier

    path = work / "data.pt"
    if path.exists():
        return path
    repainting = None
    if cifar is None:
        training, held_out = world_pictures(PICTURES, SIDE, 1), world_pictures(HELD_OUT, SIDE, 2)
        views = world_views(REPAINTED, SIDE, 3)
        generator = torch.Generator().manual_seed(3)
        before, after = (torch.randint(len(WORLD_STYLES), (REPAINTED,), generator=generator) for _ in "ab")
        repainting = [in_styles(views, before), in_styles(views, after)]
    else:
        training, held_out = cifar10(cifar)
        order = torch.randperm(len(training.x_ND), generator=torch.Generator().manual_seed(1))[:PICTURES]
        training = training.part(order)
        held_out = held_out.part(slice(0, HELD_OUT))
    mean, deviation = float(training.x_ND.mean()), float(training.x_ND.std())
    training, held_out = (part.scaled(mean, deviation) for part in (training, held_out))
    classifier = trained_classifier(training.x_ND, training.caption_N, training.side, CLASSIFIER_STEPS)
    generator = torch.Generator().manual_seed(4)
    data = fitted(TrainingSet(training.x_ND, training.caption_N), generator, FIT_STEPS)
    data = fitted(data, generator, FIT_STEPS, within_captions=True)
    content = {
        "training": vars(data),
        "side": training.side,
        "held_out": held_out.x_ND,
        "held_out_captions": held_out.caption_N,
        "classifier": classifier.state_dict(),
    }
    if repainting is not None:
        content["repainting"] = {
            "before": (repainting[0] - mean) / deviation,
            "wanted": (repainting[1] - mean) / deviation,
            "caption": after,
        }
    scratch = path.with_suffix(".part")
    torch.save(content, scratch)
    os.replace(scratch, path)
    return path


def _load(path: Path) -> dict[str, Any]:
    import torch

    from core.pairing import TrainingSet
    from core.training.compare import Measure, Repainting
    from core.training.frechet import Classifier

    saved = torch.load(path, weights_only=True)
    data = TrainingSet(**saved["training"])
    classifier = Classifier(saved["side"], int(data.caption_N.max()) + 1)
    classifier.load_state_dict(saved["classifier"])
    classifier.eval().requires_grad_(False)
    with torch.no_grad():
        measure = Measure(classifier, classifier.features(saved["held_out"]))
    repainting = Repainting(**saved["repainting"]) if "repainting" in saved else None
    return {**saved, "data": data, "measure": measure, "repainting": repainting}


_LOADED: dict[str, Any] = {}
"""Of a process that trains."""


def _start(path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    _LOADED.update(_load(path))


def _run(trial: Any, path: Path) -> None:
    """Train one and write its record."""
    from core.training.compare import DRAWS, repainted, train_trial
    from core.training.objectives import OBJECTIVES as ALL

    started = time.thread_time()
    record, net = train_trial(trial, _LOADED["data"], _LOADED["side"], _LOADED["measure"])
    if trial.conditional and trial.objective != "few-step" and _LOADED["repainting"] is not None:
        record["repainted"] = {
            str(draws): repainted(ALL[trial.objective], net, _LOADED["repainting"], _LOADED["measure"], draws)
            for draws in DRAWS
        }
    record |= {"trial": asdict(trial), "processor_s": time.thread_time() - started}
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(record), encoding="utf-8")
    os.replace(scratch, path)


def _trials(seeds: int, sizes: dict[str, Any]) -> list[Any]:
    """All of the first seed, then all of the second, ..."""
    from core.training.compare import Trial

    return [
        Trial(objective, pairing, conditional, seed, **sizes)
        for seed in range(seeds)
        for objective in OBJECTIVES
        for conditional, pairings in PAIRINGS.items()
        for pairing in pairings
    ]


def _records(trials: Sequence[Any], data: Path, work: Path, processes: int) -> dict[Any, dict[str, Any]]:
    """The records of all trials; what is missing is trained."""
    paths = {trial: work / f"{trial.name}.json" for trial in trials}

    def kept(trial: Any) -> dict[str, Any] | None:
        if not paths[trial].exists():
            return None
        record: dict[str, Any] = json.loads(paths[trial].read_text(encoding="utf-8"))
        return record if record["trial"] == asdict(trial) else None

    todo = [trial for trial in trials if kept(trial) is None]
    if todo:
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes, _start, (data,)) as pool:
            results = [pool.apply_async(_run, (trial, paths[trial])) for trial in todo]
            for number, (trial, result) in enumerate(zip(todo, results, strict=True), 1):
                result.get()
                print(f"{number} of {len(todo)}: {trial.name}", flush=True)
    found = {trial: kept(trial) for trial in trials}
    return {trial: record for trial, record in found.items() if record is not None}


# -- what comes of them ------------------------------------------------------------------------------------------------


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Geometric mean, and the ends of its 95 % interval, of positive values."""
    from scipy.stats import t

    logs = [math.log(value) for value in values]
    mean = sum(logs) / len(logs)
    if len(logs) < 2:
        return math.exp(mean), 0.0, math.inf
    deviation = math.sqrt(sum((v - mean) ** 2 for v in logs) / (len(logs) - 1))
    reach = float(t.ppf(0.975, len(logs) - 1)) * deviation / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def steps_to(curve: Sequence[tuple[float, float]], distance: float) -> float:
    """Steps after which a curve of (step, distance) first is as low as `distance`, which it reaches; between two looks
    the logarithm of the distance is taken to fall evenly. Before the first look it is proportional to nothing: the
    first look's step counts."""
    before = None
    for step, value in curve:
        if value <= distance:
            if before is None or before[1] <= value:
                return step
            share = math.log(before[1] / distance) / math.log(before[1] / value)
            return before[0] + share * (step - before[0])
        before = (step, value)
    return curve[-1][0]


def speed_up(plain: Sequence[tuple[float, float]], paired: Sequence[tuple[float, float]]) -> float:
    """See the module."""
    worse = max(plain[-1][1], paired[-1][1])
    return steps_to(plain, worse) / steps_to(paired, worse)


def verdict(low: float, high: float, better_below: bool = True) -> str:
    """Of an interval of a ratio."""
    if low <= 1.0 <= high:
        return "undecided"
    return "better" if (high < 1.0) == better_below else "worse"


def _compared(records: dict[Any, dict[str, Any]], seeds: int) -> dict[str, Any]:
    """By objective, kind and pairing."""
    by = {(t.objective, t.conditional, t.pairing, t.seed): r for t, r in records.items()}
    out: dict[str, Any] = {}
    for objective in OBJECTIVES:
        for conditional, pairings in PAIRINGS.items():
            cell = out[f"{objective}, {'conditional' if conditional else 'unconditional'}"] = {}
            for pairing in pairings:
                pairs = [
                    (by[objective, conditional, "none", s], by[objective, conditional, pairing, s])
                    for s in range(seeds)
                    if (objective, conditional, "none", s) in by and (objective, conditional, pairing, s) in by
                ]
                if pairs:
                    cell[pairing] = _cell(pairs)
    return out


def _cell(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    entry: dict[str, Any] = {"seeds": len(pairs), "curve": []}
    for look, (step, _) in enumerate(pairs[0][1]["curve"]):
        entry["curve"].append([step, *interval(paired["curve"][look][1] for _, paired in pairs)])
    for evaluations in pairs[0][1]["final"]:
        ends = [(plain["final"][evaluations], paired["final"][evaluations]) for plain, paired in pairs]
        mean, low, high = interval(b["distance"] / a["distance"] for a, b in ends)
        found = {
            "distance": sum(b["distance"] for _, b in ends) / len(ends),
            "ratio": [mean, low, high],
            "verdict": verdict(low, high),
        }
        if "prompted" in ends[0][1]:
            found["prompted"] = sum(b["prompted"] for _, b in ends) / len(ends)
        entry[f"{evaluations} evaluations"] = found
    ups = [speed_up(plain["curve"], paired["curve"]) for plain, paired in pairs]
    costs = [paired["step_s"] / plain["step_s"] for plain, paired in pairs]
    entry["speed_up_steps"] = list(interval(ups))
    entry["speed_up_seconds"] = list(interval(up / cost for up, cost in zip(ups, costs, strict=True)))
    entry["pairing_ms"] = 1e3 * sum(paired["pairing_s"] for _, paired in pairs) / len(pairs)
    entry["step_ms"] = 1e3 * sum(paired["step_s"] for _, paired in pairs) / len(pairs)
    if "repainted" in pairs[0][1]:
        entry["repainted"] = {
            draws: {name: sum(paired["repainted"][draws][name] for _, paired in pairs) / len(pairs) for name in figures}
            for draws, figures in pairs[0][1]["repainted"].items()
        }
    return entry


# -- noise, time, the stream -------------------------------------------------------------------------------------------


def noise_statistics(loaded: dict[str, Any], batch: int, draws: int) -> dict[str, dict[str, float]]:
    """Of each pairing. strength: mean square. cosine: with the picture less the mean picture. leaning: root mean square
    of the mean noise, averaged over 4 by 4 pixels, in deviations of such an average; about 1 over the root of the draws
    where nothing leans. low: variance of those averages, 1 as drawn. nearer: share of the distance to the picture that
    the pairing saves. ms: of one batch, the least of all."""
    import torch
    import torch.nn.functional as nnf

    from core.pairing import PAIRINGS as ALL

    data, side = loaded["data"], loaded["side"]
    mean, found = data.x_ND.mean(0), {}
    for name, pairing in ALL.items():
        generator = torch.Generator().manual_seed(12)
        noises, cosines, distances, times = [], [], [], []
        for _ in range(draws // batch):
            rows = torch.randint(len(data.x_ND), (batch,), generator=generator)
            before = time.thread_time()
            paired = pairing(data, rows, generator)
            times.append(time.thread_time() - before)
            x = data.x_ND[paired.rows_B]
            noises.append(paired.noise_BD)
            cosines.append(nnf.cosine_similarity(x - mean, paired.noise_BD))
            distances.append((x - paired.noise_BD).norm(dim=1))
        noise = torch.cat(noises)
        pooled = 4.0 * nnf.avg_pool2d(noise.view(-1, 3, side, side), 4)
        found[name] = {
            "strength": float(noise.square().mean()),
            "cosine": float(torch.cat(cosines).mean()),
            "leaning": float(pooled.mean(0).square().mean().sqrt()),
            "low": float(pooled.var(0).mean()),
            "distance": float(torch.cat(distances).mean()),
            "ms": 1e3 * min(times),
        }
    for entry in found.values():
        entry["nearer"] = 1.0 - entry["distance"] / found["none"]["distance"]
    return found


def painter_overhead(rows: int = 24, times: int = 3) -> dict[str, float]:
    """What the assignment would cost a training step of the embedded model's painter, 128 px: milliseconds."""
    import torch

    from core.pairing import PAIRINGS as ALL
    from core.pairing import TrainingSet
    from core.tiny.train_painter import Painter

    painter = Painter()
    x, t, tokens = torch.randn(rows, 16, 16, 16), torch.full((rows,), 300), torch.zeros(rows, 32, dtype=torch.long)

    def least(work: Any) -> float:
        found = []
        for _ in range(times):
            before = time.thread_time()
            work()
            found.append(time.thread_time() - before)
        return 1e3 * min(found)

    data = TrainingSet(x.flatten(1), torch.zeros(rows, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    everything = torch.arange(rows)
    step = least(lambda: painter(x, t, tokens).square().mean().backward())
    plain, paired = (least(lambda n=n: ALL[n](data, everything, generator)) for n in ("none", "assignment"))
    return {"rows": rows, "step_ms": step, "assignment_ms": paired - plain, "share": max(0.0, paired - plain) / step}


def embedded_repainting(scenes: int, strengths: Sequence[float], draws: Sequence[int]) -> dict[str, Any]:
    """Image-to-image of the embedded model with matched noise: held-out scenes, grey, in every style. error: root mean
    square difference from the true render in levels; edges: F1 with the input; colours: share of objects in their
    prompted colour."""
    from core.device import pick_device
    from core.model import load_model
    from core.params import params_for
    from core.tiny import WEIGHTS
    from core.tiny.evaluate import ColourJudge, HeldOut, edge_f1, painter

    model = load_model(Path(WEIGHTS), pick_device("cpu"))
    held_out = HeldOut(scenes)
    colours, cases = ColourJudge(held_out), list(held_out.cases())
    out: dict[str, Any] = {}
    for strength in strengths:
        for count in draws:
            # Every picture is a first one.
            params = params_for("embedded").with_values(strength=strength, noise_draws=count, cut_threshold=0.0)
            paint = painter(model, params)
            error = edges = good = judged = 0.0
            for case in cases:
                picture = paint(case)
                error += float((picture.float() - case.truth.float()).square().mean().sqrt())
                edges += edge_f1(case.source, picture)
                right, of = colours.right(case, picture)
                good, judged = good + right, judged + of
            out[f"strength {strength:g}, best of {count}"] = {
                "error": error / len(cases),
                "edges": edges / len(cases),
                "colours": good / judged,
            }
    return out


# -- report ------------------------------------------------------------------------------------------------------------


def _plot(path: Path, compared: dict[str, Any]) -> None:
    from core.training.curves import Line, Panel, drawn, save_picture

    panels = []
    for title, cell in compared.items():
        lines = {}
        for pairing, entry in cell.items():
            steps, mean, low, high = (list(column) for column in zip(*entry["curve"], strict=True))
            lines[pairing] = Line(steps, mean, low, high) if entry["seeds"] > 2 else Line(steps, mean)
        panels.append(Panel(title, lines, log=True))
    save_picture(path, drawn(panels))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 whenever it could measure."""
    parser = Parser("bench immiscible", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter trainings of a smaller network: under 30 minutes")
    parser.add_argument("--seeds", type=int, default=None, help="per cell (default 5, 3 with --quick)")
    parser.add_argument("--cifar", type=Path, default=None, help="folder of CIFAR-10's binary version")
    parser.add_argument("--work", type=Path, default=None, help="trials as they end (default .cache/immiscible-...)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that train (default: the cores)")
    parser.add_argument("--plot", type=Path, default=Path("out/immiscible.png"), help="curves as a picture")
    args = parser.parse_args(argv)

    import torch

    from core.training.datasets import DataError

    seeds = args.seeds or (3 if args.quick else 5)
    kind = f"{'quick' if args.quick else 'full'}-{'world' if args.cifar is None else 'cifar'}"
    work = args.work or Path(f".cache/immiscible-{kind}")
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = _prepared(work, args.cifar)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    trials = _trials(seeds, QUICK if args.quick else FULL)
    records = _records(trials, data, work, args.processes)
    loaded = _load(data)
    measure = loaded["measure"]
    with torch.no_grad():
        own = (measure.classifier(loaded["held_out"]).argmax(1) == loaded["held_out_captions"]).float().mean()
        from core.training.frechet import frechet_distance

        floor = frechet_distance(measure.classifier.features(loaded["data"].x_ND[: trials[0].made]), measure.reference)
    compared = _compared(records, seeds)
    noise = noise_statistics(loaded, trials[0].batch, 2048 if args.quick else 8192)
    overhead = painter_overhead()
    torch.set_num_threads(threads)
    embedded = embedded_repainting(2 if args.quick else 12, (0.1, 0.5, 0.9), (1, 4, 16))
    _plot(args.plot, compared)
    results = {
        "data": kind,
        "numbers_per_picture": loaded["data"].x_ND.shape[1],
        "pictures": len(loaded["data"].x_ND),
        "seeds": seeds,
        "trial": {
            k: v for k, v in asdict(trials[0]).items() if k not in ("objective", "pairing", "conditional", "seed")
        },
        "classifier_right_on_held_out": float(own),
        "distance_of_training_pictures": floor,
        "compared": compared,
        "noise": noise,
        "painter_overhead": overhead,
        "embedded_repainted": embedded,
        "published": PUBLISHED,
        "processor_minutes_of_trials": sum(r["processor_s"] for r in records.values()) / 60.0,
        "minutes_of_this_call": (time.monotonic() - started) / 60.0,
    }
    _print(results)
    emit("immiscible", results, _bars(results, seeds))
    return 0


def _span(triple: Sequence[float]) -> str:
    return f"{triple[0]:.2f} ({triple[1]:.2f} to {triple[2]:.2f})"


def _print(results: dict[str, Any]) -> None:
    for title, cell in results["compared"].items():
        counts = [key for key in next(iter(cell.values())) if key.endswith(" evaluations")]
        rows = []
        for pairing, e in cell.items():
            rows.append([pairing, *(f"{e[c]['distance']:.0f}: {_span(e[c]['ratio'])}" for c in counts)])
            rows[-1] += [_span(e["speed_up_steps"]), _span(e["speed_up_seconds"])]
            rows[-1] += [f"{e[counts[0]]['prompted']:.3f}" if "prompted" in e[counts[0]] else ""]
        print(f"\n{title}: distance, ratio")
        table(["pairing", *counts, "speed-up, steps", "seconds", "prompted"], rows)
    names = list(next(iter(results["noise"].values())))
    print("\nnoise")
    table(["pairing", *names], [[p, *(entry[n] for n in names)] for p, entry in results["noise"].items()])
    print("\nrepainted by the small networks: error, prompted")
    rows = [
        [title, pairing, draws, figures["error"], figures["distance"], figures["prompted"]]
        for title, cell in results["compared"].items()
        for pairing, entry in cell.items()
        for draws, figures in entry.get("repainted", {}).items()
    ]
    table(["", "trained with", "best of", "error", "distance", "prompted"], rows)
    print("\nrepainted by the embedded model")
    table(
        ["", "error", "edges", "colours"],
        [[name, e["error"], e["edges"], e["colours"]] for name, e in results["embedded_repainted"].items()],
    )
    print("\npublished, with other networks, data and distances")
    table(["", "", "source"], results["published"])


CLAIM = {"better": "confirmed", "worse": "refuted", "undecided": "undecided"}
"""By verdict, what becomes of the published claim that a pairing helps."""


def _bars(results: dict[str, Any], seeds: int) -> list[dict[str, Any]]:
    compared, bars = results["compared"], [bar("seeds per cell", seeds, 3)]
    for title, cell in compared.items():
        first = next(key for key in cell["none"] if key.endswith(" evaluations"))
        for pairing in ("assignment", "nearest"):
            found = cell[pairing][first]["verdict"]
            bars.append(bar(f"{title}, {pairing}: {CLAIM[found]} by the interval", float(found != "undecided"), 1.0))
    plain = compared["diffusion, unconditional"]["none"]
    paired = compared["diffusion, unconditional"]["assignment"]
    share = (paired["pairing_ms"] - plain["pairing_ms"]) / plain["step_ms"]
    bars.append(bar("assignment, share of a step of the small network", share, 0.02, at_most=True))
    share = results["painter_overhead"]["share"]
    bars.append(bar("assignment, share of a step of the embedded painter", share, 0.02, at_most=True))
    minutes = results["processor_minutes_of_trials"] / 2.0
    bars.append(bar("minutes of two cores for all trainings", minutes, 30.0, at_most=True))
    return bars


if __name__ == "__main__":
    sys.exit(main())
