"""Train OAT on simulated search, then on simulated search and people's free viewing of the OSIE photographs together.

    python -m probe.zoo.oat.train --work WORK --out OUT --viewing OSIE

OSIE is the folder with fixations.mat and stimuli/ (see README.md). Each step draws from its own seed, so that a run that was
stopped goes on where it was, with the same result: WORK keeps the state. Every fifth photograph is left out of the training.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probe.gaze.scene import Trial
from probe.zoo.oat.networks import OAT, Shape, batch_of, path_loss
from probe.zoo.oat.simulate import LONGEST, simulated_trial

KEEP_EVERY = 250


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the state of the training")
    parser.add_argument("--out", type=Path, help="folder for the weights; left open: none are written")
    parser.add_argument("--viewing", type=Path, help="folder of OSIE; needed from step --search-steps on")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument(
        "--search-steps", type=int, default=1500, help="first so many steps see simulated search alone"
    )
    parser.add_argument("--stop-at", type=int, help="end this run at such a step; the next one goes on")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def rate_of(step: int, steps: int, warm: int = 200) -> float:
    """Part of the highest rate: a linear rise, then half a cosine to 0."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def draw_step(seed: int, step: int, batch: int, viewing: Sequence[Trial]) -> tuple[list[Trial], bool]:
    """The trials of one step, half of them people's where there are any, and whether the target's place is told."""
    draw = np.random.default_rng([seed, step])
    own = batch if not viewing else batch // 2
    trials = [simulated_trial(draw) for _ in range(own)]
    trials += [viewing[i] for i in draw.integers(len(viewing), size=batch - own)] if viewing else []
    return trials, bool(draw.random() < 0.25)


def one_step(
    model: OAT,
    optimizer: torch.optim.Optimizer,
    trials: list[Trial],
    tell_place: bool,
    longest: int = LONGEST,
) -> float:
    """One step of gradient descent on paths cut at `longest`; returns the loss."""
    batch = batch_of([t.scene for t in trials], model.shape, tell_place=tell_place)
    paths = [t.path[:longest] for t in trials]
    loss = path_loss(model, batch, paths, [len(t.path) < longest for t in trials])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def held_out_loss(model: OAT, trials: list[Trial], tell_place: bool) -> float:
    """Mean loss a step of trials that were not trained on, nat."""
    model.eval()
    with torch.no_grad():
        batch = batch_of([t.scene for t in trials], model.shape, tell_place=tell_place)
        paths = [t.path[:LONGEST] for t in trials]
        found = float(path_loss(model, batch, paths, [len(p) < LONGEST for p in paths]))
    model.train()
    return found


def save(model: OAT, folder: Path, facts: dict[str, Any]) -> int:
    """Write float16 weights, the shape and the figures of the training; returns the bytes of the weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, path)
    path.chmod(0o644)
    (folder / "config.json").write_text(json.dumps(asdict(model.shape), indent=1) + "\n", "utf-8")
    (folder / "figures.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return path.stat().st_size


def resume(args: argparse.Namespace, model: OAT, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Load the state that WORK keeps, if any; returns the step to go on with and the seconds spent so far."""
    kept = args.work / "state.pt"
    if not kept.is_file():
        args.work.mkdir(parents=True, exist_ok=True)
        return 0, 0.0
    state = torch.load(kept, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])


def main() -> None:
    """Run it all."""
    from rich.progress import Progress

    args = arguments()
    torch.manual_seed(args.seed)
    model = OAT(Shape())
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01)
    step, before = resume(args, model, optimizer)
    viewing: list[Trial] = []
    held = [simulated_trial(np.random.default_rng([args.seed, 1 << 40, i])) for i in range(256)]
    start, recent = time.time(), 0.0
    end = min(args.steps, args.stop_at or args.steps)
    if end > args.search_steps and args.viewing is None:
        raise SystemExit(f"--viewing OSIE is needed beyond step {args.search_steps} (--search-steps)")

    def keep() -> None:
        seconds = before + time.time() - start
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": seconds,
        }
        torch.save(state, args.work / "state.tmp")
        (args.work / "state.tmp").replace(args.work / "state.pt")

    with Progress() as progress:
        task = progress.add_task("training", total=args.steps, completed=step)
        while step < end:
            if step >= args.search_steps and not viewing:
                from probe.gaze.trials import viewing_trials

                viewing = viewing_trials(args.viewing, held_out=False)
            torch.manual_seed(args.seed * 1_000_003 + step)  # dropout
            for group in optimizer.param_groups:
                group["lr"] = args.rate * rate_of(step, args.steps)
            loss = one_step(model, optimizer, *draw_step(args.seed, step, args.batch, viewing))
            recent = loss if step == 0 or not recent else 0.98 * recent + 0.02 * loss
            step += 1
            progress.update(task, completed=step, description=f"loss {recent:.3f}")
            if step % KEEP_EVERY == 0 or step == end:
                keep()
                blind = held_out_loss(model, held, False)
                progress.console.print(f"step {step}: loss {recent:.3f}, held-out search {blind:.3f}")
    if args.out is not None:
        told = {
            f"held_out_search_loss_place_{n}": held_out_loss(model, held, n == "given")
            for n in ("blind", "given")
        }
        settings = {k: v for k, v in vars(args).items() if isinstance(v, (int, float)) and k != "stop_at"}
        seconds = before + time.time() - start
        size = save(model.eval(), args.out, {"settings": settings, "seconds": round(seconds), **told})
        print(f"{args.out}: {size:,} bytes, {told}")


if __name__ == "__main__":
    main()
