"""The loop that every stage trains in: schedule, averaged weights, log and a state to go on from."""

from __future__ import annotations

import json
import math
import pickle
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from ..errors import InputError
from ..support.printing import say
from .settings import Schedule

_WARM_UP = 50
_LOG_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class Settings(Schedule):
    """How a stage trains, and where: ``output`` is the folder of ``state.pt`` and ``log.jsonl``, ``start`` what the weights began as."""

    output: Path | str
    device: str = "auto"
    threads: int = 2
    seed: int = 0
    tensorboard: bool = False
    start: str = ""


def train(
    trainee: nn.Module,
    draw: Callable[[np.random.Generator], tuple[str, tuple[Any, ...]]],
    weights: Mapping[str, float],
    settings: Settings,
) -> None:
    """Train to ``settings.steps``, from where ``state.pt`` of the output folder stopped if there is one.

    Args:
        trainee: Its forward takes what ``draw`` returns and gives named losses; names without a weight are only logged.
        draw: Makes a step's name for the log and its arguments, from a generator of its own; while one step trains it draws the next.
        weights: Of the losses.
        settings: How long, how fast, and where it is kept.
    """
    accelerator = Accelerator(cpu=settings.device == "cpu", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    torch.set_num_threads(settings.threads)
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    learned = [p for p in trainee.parameters() if p.requires_grad]
    matrices, vectors = [p for p in learned if p.ndim > 1], [p for p in learned if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": vectors, "weight_decay": 0.0}]
    model, optimizer = accelerator.prepare(trainee, torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98)))
    ema = {key: value.clone() for key, value in learned_state(trainee).items()}
    first = 0
    state_file = output / "state.pt"
    if state_file.exists():
        try:
            state = torch.load(state_file, weights_only=True, map_location=accelerator.device)
            load_learned(trainee, state["model"])
            optimizer.load_state_dict(state["optimizer"])
            ema, first = state["ema"], state["step"]
        except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                f"The training can't go on from {str(state_file)!r}.",
                f"It is damaged, or of other networks or label sets ({str(error).splitlines()[-1].strip()[:200]}).",
                "Train into another output folder, or with the configuration that it was begun with.",
            ) from error

    def drawn(step: int) -> tuple[str, tuple[Any, ...]]:
        return draw(np.random.default_rng([settings.seed, step, accelerator.process_index]))

    board = _board(output) if settings.tensorboard and accelerator.is_main_process else None
    recent: dict[str, list[float]] = {}
    start = time.time()
    # Drawing takes a fraction of a step: with as many threads as training it would only be in its way.
    ahead = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
    coming = ahead.submit(drawn, first)
    coming.result()
    torch.set_num_threads(settings.threads)
    for step in range(first, settings.steps):
        name, arguments = coming.result()
        if step + 1 < settings.steps:
            coming = ahead.submit(drawn, step + 1)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min(1, (step + 1) / _WARM_UP) * scheduled(step / settings.steps, settings.cooldown)
        parts = model(*arguments)
        loss = torch.stack([weights[key] * value for key, value in parts.items() if key in weights]).sum()
        optimizer.zero_grad()
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        keep = min(settings.ema, (step + 1) / (step + 20))
        with torch.no_grad():
            for key, value in learned_state(trainee).items():
                ema[key].lerp_(value, 1 - keep)
        for key, value in parts.items():
            recent.setdefault(f"{name}/{key}", []).append(value.item())
        if not accelerator.is_main_process:
            continue
        if (step + 1) % _LOG_EVERY == 0:
            means = {key: round(float(np.mean(values[-_LOG_EVERY // 2 :])), 3) for key, values in sorted(recent.items())}
            if board is not None:
                for key, mean in means.items():
                    board.add_scalar(key, mean, step + 1)
                board.flush()
            with (output / "log.jsonl").open("a") as log:
                log.write(json.dumps({"step": step + 1, "seconds": round(time.time() - start, 1), **means}) + "\n")
            pace = (time.time() - start) / (step + 1 - first)
            say(f"{output.name}: step {step + 1} of {settings.steps}, {pace:.2f} s a step, loss {loss.item():.3f}")
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            temporary = state_file.with_suffix(".tmp")
            made = {
                "model": learned_state(trainee),
                "optimizer": optimizer.state_dict(),
                "ema": ema,
                "step": step + 1,
                "steps": settings.steps,
            }
            torch.save({**made, "start": settings.start}, temporary)
            temporary.replace(state_file)
    # The others go on with what the first one wrote.
    accelerator.wait_for_everyone()


def scheduled(done: float, cooldown: float) -> float:
    """The learning rate's share of its highest value after a share of the steps: level, then half a cosine over the last ``cooldown``.

    >>> scheduled(0.5, 0.2), round(scheduled(1.0, 0.2), 2)
    (1.0, 0.02)
    """
    passed = max(0.0, (done - (1 - cooldown)) / cooldown)
    return 0.02 + 0.49 * (1 + math.cos(math.pi * passed))


def learned_state(trainee: nn.Module) -> dict[str, torch.Tensor]:
    """What of a network has to be saved: all but frozen parameters, of which a large language model has billions."""
    frozen = {name for name, parameter in trainee.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {key: value for key, value in trainee.state_dict().items() if key not in frozen}


def load_learned(trainee: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Take what `learned_state` gave.

    Raises:
        RuntimeError: tensors are missing, unknown or of another shape.
    """
    trainee.load_state_dict({**trainee.state_dict(), **state} if learned_state(trainee).keys() == state.keys() else state)


def _board(output: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(output / "tensorboard"))
