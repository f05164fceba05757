"""Paths from OAT: the likeliest object each time, draws from its probabilities, or a beam of the likeliest whole paths."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from probe.errors import InputError
from probe.gaze.scene import Scene

if TYPE_CHECKING:
    from probe.zoo.oat.networks import OAT

WAYS = ("typical", "greedy", "sampled", "beam")
LONGEST = 24


def predict_paths(
    model: "OAT", scenes: Sequence[Scene], *, tell_place: bool = False, sample: bool = False, seed: int = 0,
    longest: int = LONGEST,
) -> list[list[int]]:  # fmt: skip
    """One path for each scene, decoded side by side.

    Args:
        model: the network; left in the mode it was in.
        scenes: at least one.
        tell_place: whether the network is told where the target is.
        sample: draw each step from its probabilities, or take the likeliest.
        seed: of the draws.
        longest: where a path is cut.

    Returns:
        Numbers of objects, at least one each; the end is not among them.
    """
    import torch

    from probe.zoo.oat.networks import batch_of

    if longest < 1:
        raise InputError(f"longest {longest}, expected at least 1 fixation")
    batch = batch_of(scenes, model.shape, tell_place=tell_place)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad(), _evaluating(model):
        encoded = model.encode(batch)
        paths = torch.zeros(len(scenes), 0, dtype=torch.long)
        ended = torch.zeros(len(scenes), dtype=torch.bool)
        lengths = torch.full((len(scenes),), longest)
        for step in range(longest):
            logits = model.score(batch, encoded, paths)[:, -1]
            chosen = (
                torch.multinomial(logits.softmax(-1), 1, generator=draw)[:, 0]
                if sample
                else logits.argmax(-1)
            )
            stopped = (chosen == batch.last) & ~ended
            lengths[stopped] = step
            ended |= stopped
            if bool(ended.all()):
                break
            paths = torch.cat([paths, torch.where(ended, 0, chosen)[:, None]], 1)
    return [row[:length].tolist() for row, length in zip(paths, lengths.tolist(), strict=True)]


def beam_paths(
    model: "OAT", scene: Scene, *, tell_place: bool = False, width: int = 8, longest: int = LONGEST
) -> list[tuple[list[int], float]]:
    """The likeliest whole paths, best first, with their log probability (nat) per step, the end counted as one.

    Args:
        model: the network.
        scene: one scene.
        tell_place: whether the network is told where the target is.
        width: how many prefixes are followed.
        longest: where a path is cut.

    Raises:
        InputError: a width below 1.
    """
    import torch

    from probe.zoo.oat.networks import batch_of

    if width < 1 or longest < 1:
        raise InputError(f"width {width} and longest {longest}, expected at least 1 each")
    kept: list[tuple[list[int], float]] = [([], 0.0)]
    done: list[tuple[list[int], float]] = []
    with torch.no_grad(), _evaluating(model):
        for step in range(longest):
            batch = batch_of([scene] * len(kept), model.shape, tell_place=tell_place)
            so_far = torch.tensor([path for path, _ in kept], dtype=torch.long).reshape(len(kept), step)
            logs = model(batch, so_far)[:, -1].log_softmax(-1)
            total = logs + torch.tensor([value for _, value in kept])[:, None]
            best = total.flatten().topk(min(width, int(torch.isfinite(total).sum())))
            grown = []
            for value, at in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                path, stop = kept[at // total.shape[1]][0], at % total.shape[1]
                if stop == scene.count:
                    done.append((path, value / (step + 1)))
                else:
                    grown.append(([*path, stop], value))
            kept = grown
            if not kept or len(done) >= width:
                break
    done += [(path, value / len(path)) for path, value in kept if len(path) == longest]
    return sorted(done, key=lambda entry: -entry[1])[:width]


def step_probabilities(
    model: "OAT", scene: Scene, path: Sequence[int], *, tell_place: bool = False
) -> np.ndarray:
    """The probability of each object, and of the end (last), after each prefix of a path, [T + 1, N + 1]."""
    import torch

    from probe.zoo.oat.networks import batch_of

    with torch.no_grad(), _evaluating(model):
        batch = batch_of([scene], model.shape, tell_place=tell_place)
        logits = model(batch, torch.tensor([list(path)], dtype=torch.long).reshape(1, len(path)))
        return np.asarray(logits[0].softmax(-1).numpy())


class _evaluating:  # noqa: N801 - a context, used like a function
    """The network without dropout while this lasts; its mode comes back on every way out."""

    def __init__(self, model: "OAT") -> None:
        self.model, self.training = model, model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.training)
