"""Resumable stages of the embedded model's training, noise levels, precision."""

from __future__ import annotations

import copy
import math
import os
import pickle
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.device import native_dtypes
from core.schedule import NoiseSchedule
from core.tiny.events import Events, opened
from core.tiny.parts import SCHEDULER
from core.tiny.together import Alone

Log = Callable[[str], None]

LOOK_EVERY = 50
"""Steps between two looks at the loss."""
MOST_SETBACKS = 6
LONGEST_STEP_S = 10.0
"""What a step counts at most: a process that was stopped and went on has not worked all the while."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be gone on from; the message says which."""


class Diverged(RuntimeError):
    """The loss is not a number again and again; the message says what to do."""


@dataclass
class Progress:
    """One stage's state, as it is saved."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    step: int = 0
    spent_s: float = 0.0
    _followed: tuple[list[Tensor], list[Tensor]] | None = None

    def follow(self, decay: float) -> None:
        """Move the averaged weights after a step; early on they follow faster."""
        keep = min(decay, (1 + self.step) / (10 + self.step))
        if self._followed is None:
            state = self.module.state_dict()
            self._followed = ([self.average[name] for name in state], list(state.values()))
        with torch.no_grad():
            torch._foreach_lerp_(*self._followed, 1.0 - keep)


def write(path: Path, content: Any) -> None:
    """Save and then rename, so that an interrupted write leaves the old file. Raises `OSError`, as on a full disk."""
    scratch = path.with_suffix(".part")
    try:
        with scratch.open("wb") as file:
            torch.save(content, file)
        os.replace(scratch, path)
    except (OSError, RuntimeError) as error:
        scratch.unlink(missing_ok=True)
        # Where a write failed, torch fails once more on ending the file, with words of its own.
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


class Stage:
    """One resumable run of optimizer steps over a module. rate: the learning rate of a step, of the share of the run
    that is done, and of the peak. average: how slowly the averaged weights follow. minutes: of training at most.
    beside: another module whose state is saved along."""

    def __init__(
        self,
        name: str,
        work: Path,
        module: torch.nn.Module,
        log: Log,
        *,
        rate: Callable[[int, float, float], float],
        average: float,
        checkpoint_s: float,
        minutes: float = math.inf,
        beside: torch.nn.Module | None = None,
        together: Alone | None = None,
        tensorboard: bool = False,
    ) -> None:
        self._path = work / f"{name}.pt"
        self._curve = work / f"{name}.csv"
        self._name = name
        self._log = log
        self._rate = rate
        self._average = average
        self._checkpoint_s = checkpoint_s
        self._limit_s = 60.0 * minutes
        self._beside = beside
        self._together = together or Alone()
        self._writes = self._together.rank == 0
        self._setbacks = 0
        on_card = next(module.parameters()).is_cuda
        self._attention: Callable[[], AbstractContextManager[None]] = nullcontext if on_card else _plain_attention
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True if on_card else None
        )
        averaged = {key: value.detach().clone() for key, value in module.state_dict().items()}
        self.progress = Progress(module, optimizer, averaged)
        if self._path.exists():
            try:
                self._load()
            except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
                raise CheckpointError(
                    f"the checkpoint {self._path} is of another architecture or broken: {error}"
                ) from error
            log(f"{name}: going on from step {self.progress.step}")
        if self._writes:
            self._cut_curve()
        step = self.progress.step
        self.events = opened(work / "tensorboard", step) if tensorboard and self._writes else Events()

    def _load(self) -> None:
        p, saved = self.progress, torch.load(self._path, weights_only=True)
        p.module.load_state_dict(saved["module"])
        p.optimizer.load_state_dict(saved["optimizer"])
        p.average = saved["average"]
        p.step, p.spent_s = saved["step"], saved["spent_s"]
        if self._beside is not None:
            self._beside.load_state_dict(saved["beside"])

    def _cut_curve(self) -> None:
        """What a killed run wrote after its last checkpoint comes again."""
        if self._curve.exists():
            lines = [line.split(",") for line in self._curve.read_text(encoding="utf-8").splitlines()]
            whole = [line for line in lines if len(line) == 3 and line[0].isdigit() and line[2]]
            kept = [",".join(line) + "\n" for line in whole if int(line[0]) <= self.progress.step]
            self._curve.write_text("".join(kept), encoding="utf-8")

    def done(self, steps: int) -> float:
        """The share of a run of so many steps that is over, by steps or by minutes."""
        return max(self.progress.step / steps, self.progress.spent_s / self._limit_s)

    def run(self, steps: int, peak: float, loss_at: Callable[[int], tuple[Tensor, Mapping[str, Any]]]) -> None:
        """Take the remaining steps. `loss_at(step)` gives the loss and figures to print (numbers, or tensors of one:
        reading one makes the host wait for a card). A loss that needs no gradient comes with the gradients in place."""
        p, last = self.progress, time.monotonic()
        saved, good, first, spent_before_s = last, self._state(), p.step, p.spent_s
        while p.step < steps and p.spent_s < self._limit_s:
            for group in p.optimizer.param_groups:
                group["lr"] = self._rate(p.step, self.done(steps), peak) * 0.5**self._setbacks
            p.optimizer.zero_grad(set_to_none=True)
            with self._attention():
                loss, figures = loss_at(p.step)
            if loss.requires_grad:
                loss.backward()
            loss, now = loss.detach(), time.monotonic()
            took_s, last = torch.tensor(min(now - last, LONGEST_STEP_S)), now
            due = torch.tensor(float(self._writes and now - saved > self._checkpoint_s))
            gradients = [q.grad for q in p.module.parameters() if q.grad is not None]
            # What the processes have to agree in: the step, whether it is one of numbers, when to save and to end.
            self._together.average([*gradients, loss, took_s, due])
            norm = torch.nn.utils.clip_grad_norm_(p.module.parameters(), 1.0)
            p.optimizer.step()
            p.step += 1
            p.follow(self._average)
            p.spent_s += float(took_s)
            looked = p.step % LOOK_EVERY == 0
            over = p.step == steps or p.spent_s >= self._limit_s
            saving = over or bool(due > 0.0)
            # Never is a state saved that nobody has looked at.
            if looked or saving:
                if math.isfinite(float(loss)) and math.isfinite(float(norm)):
                    good = self._state()
                else:
                    self._set_back(good)
                    looked = False
            if looked and self._writes:
                per_step_s = (p.spent_s - spent_before_s) / (p.step - first)
                left_s = min((steps - p.step) * per_step_s, self._limit_s - p.spent_s)
                self._tell(steps, left_s, float(loss), {key: float(value) for key, value in figures.items()})
            if saving and self._writes:
                self.save()
                saved = now

    def _tell(self, steps: int, left_s: float, loss: float, figures: dict[str, float]) -> None:
        p = self.progress
        text = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
        spent = f"{p.step} of {steps}, {p.spent_s / 60.0:.1f} min, {max(0.0, left_s) / 60.0:.1f} min left"
        self._log(f"{self._name}: step {spent}  loss {loss:.4f}  {text}")
        with self._curve.open("a", encoding="utf-8") as curve:
            curve.write(f"{p.step},{p.spent_s:.0f},{loss:.5f}\n")
        rate = p.optimizer.param_groups[0]["lr"]
        self.events.numbers(p.step, {"loss": loss, "learning rate": rate, **figures})

    def _set_back(self, good: list[Any]) -> None:
        """To the last good state, where the loss is not a number, and on with half the learning rate."""
        self._setbacks += 1
        if self._setbacks > MOST_SETBACKS:
            self._restore(good)
            if self._writes:
                self.save()
            raise Diverged(
                f"{self._name}: the loss is not a number, {self._setbacks} times by now; the last good state is in"
                f" {self._path}: look for bad values in the data, or begin again with a lower learning rate"
            )
        self._log(f"{self._name}: the loss is not a number; going back to the last good state, half the learning rate")
        self._restore(good)

    def _state(self) -> list[Any]:
        """All that a step changes, but for the counts, as copies."""
        p, beside = self.progress, {} if self._beside is None else self._beside.state_dict()
        return copy.deepcopy([p.module.state_dict(), p.optimizer.state_dict(), p.average, beside])

    def _restore(self, good: list[Any]) -> None:
        p = self.progress
        module, optimizer, average, beside = copy.deepcopy(good)
        p.module.load_state_dict(module)
        p.optimizer.load_state_dict(optimizer)
        for name, value in average.items():
            p.average[name].copy_(value)
        if self._beside is not None:
            self._beside.load_state_dict(beside)

    def save(self) -> None:
        """Write the checkpoint."""
        p = self.progress
        write(
            self._path,
            {
                "module": p.module.state_dict(),
                "optimizer": p.optimizer.state_dict(),
                "average": p.average,
                "step": p.step,
                "spent_s": p.spent_s,
                "beside": {} if self._beside is None else self._beside.state_dict(),
            },
        )


def _plain_attention() -> AbstractContextManager[None]:
    """Attention in single operations. On a processor the gradients of the fused one take longer than those of all
    convolutions, of rows as short as a small latent's: 505 against 441 ms for a step of 32 rows of 128 px."""
    return sdpa_kernel(SDPBackend.MATH)


def autocast(device: torch.device, *, small: bool = False) -> torch.autocast:
    """bfloat16 where the device computes in it. small: the network works on small latents."""
    # On a CPU with AMX the backward pass of small convolutions is slower in bfloat16 than in float32 (427 against
    # 242 ms for 64 latents of 8x8), at picture size the other way round. Without AMX it is a hundred times slower.
    enabled = torch.bfloat16 in native_dtypes(device) and not (small and device.type == "cpu")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


class Levels:
    """Signal and noise levels a, b by timestep, shaped to broadcast over latents."""

    def __init__(self, device: torch.device) -> None:
        alpha_bar = NoiseSchedule.from_config(SCHEDULER).alphas_cumprod_T.to(device)
        self._a, self._b = alpha_bar.sqrt().float(), (1.0 - alpha_bar).sqrt().float()

    def __call__(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        return self._a[t_B].view(-1, 1, 1, 1), self._b[t_B].view(-1, 1, 1, 1)
