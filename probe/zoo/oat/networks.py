"""OAT: an encoder over objects, a decoder over the path so far, and pointers that name the next object or the end.

After Fang et al., Object-level Attention Transformer, ECCV 2024 (arXiv 2407.13335), §3. Where we differ, and why:

- The last token of the encoder says what is searched (the target's appearance; nothing for free viewing), and to point at it
  ends the path. Its place is a switch: without it the model must find the target by its appearance.
- Each object's input also holds how it differs from what is searched, feature by feature, and (place told) how near it is: the
  published input leaves this comparison to be discovered by attention, and on our small budget it was not (README.md).
- Places are continuous (`position.py`), so that layouts need not be grids; the three codes stand side by side uncut, and the
  flags of objects, target and free viewing lie so far apart in the table that they are orthogonal.
- What pads a batch is masked; in the paper its fixed logit 0 competes in the softmax.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probe.errors import InputError
from probe.gaze.scene import Scene
from probe.zoo.oat.position import codes, table

OBJECT, TARGET, FREE = 0.0, 0.5, 1.0  # flags, as parts of the table's length


@dataclass(frozen=True)
class Shape:
    """Sizes of the network: `features` of an object beyond its size, `cells` and `sigma` of the position code."""

    features: int = 12
    width: int = 96
    heads: int = 4
    encoder: int = 3
    decoder: int = 3
    feedforward: int = 192
    pointers: int = 2
    cells: int = 14
    sigma: float = 2.0
    dropout: float = 0.1


@dataclass(frozen=True, eq=False)
class Batch:
    """Scenes side by side, padded to the longest: looks [B, N+1, 2F+4], position [B, N+1, 3·cells], there [B, N+1] bool.

    Token N, the last, is what is searched; `last` [B] its number in each row (rows with fewer objects have it earlier).
    `found` [B, N+1, 3·cells] is the position of each object when it is fixated (the target's then carries its flag), and
    `start` [B, 3·cells] the position before the first fixation.
    """

    looks: Tensor
    position: Tensor
    found: Tensor
    start: Tensor
    there: Tensor
    last: Tensor


def batch_of(scenes: Sequence[Scene], shape: Shape, *, tell_place: bool) -> Batch:
    """Scenes as tensors.

    Args:
        scenes: at least one; features of each as many as the shape says, or none (then they count as 0).
        shape: of the network.
        tell_place: whether the token of what is searched carries the target's place.

    Raises:
        InputError: no scene, or another number of features.
    """
    if not scenes:
        raise InputError("no scene to look at, expected at least one")
    most = max(scene.count for scene in scenes) + 1
    rows, wide = len(scenes), 3 * shape.cells
    own = shape.features + 2
    looks = np.zeros((rows, most, 2 * own), np.float32)
    position, found = np.zeros((rows, most, wide), np.float32), np.zeros((rows, most, wide), np.float32)
    start = np.zeros((rows, wide), np.float32)
    flags = {f: table(shape.cells, shape.sigma)[round(f * (shape.cells - 1))] for f in (OBJECT, TARGET, FREE)}
    for row, scene in enumerate(scenes):
        n = scene.count
        if scene.features.shape[1] not in (0, shape.features):
            raise InputError(
                f"objects have {scene.features.shape[1]} features, this network knows {shape.features} (or none)"
            )
        places = codes(scene.places, shape.cells, shape.sigma).reshape(n, -1)
        position[row, :n] = np.hstack([places, np.tile(flags[OBJECT], (n, 1))])
        looks[row, :n, shape.features : own] = np.log2(np.maximum(scene.sizes, 1e-3)) / 4
        found[row, :n] = position[row, :n]
        start[row] = np.hstack([codes(scene.start, shape.cells, shape.sigma).ravel(), flags[OBJECT]])
        searched = scene.searched
        position[row, n, -shape.cells :] = flags[FREE if searched is None else TARGET]
        if scene.features.shape[1]:
            looks[row, :n, : shape.features] = scene.features
            if searched is not None:
                looks[row, n, : shape.features] = searched
                looks[row, :n, own : own + shape.features] = np.abs(scene.features - searched)
                looks[row, : n + 1, -2] = 1
        if scene.target is not None:
            found[row, scene.target, -shape.cells :] = flags[TARGET]
            looks[row, n, shape.features : own] = looks[row, scene.target, shape.features : own]
            if tell_place:
                position[row, n, : -shape.cells] = places[scene.target]
                looks[row, :n, -1] = np.prod(
                    (places.reshape(n, 2, -1) * places[scene.target].reshape(2, -1)).sum(-1), -1
                )
    counts = torch.tensor([scene.count for scene in scenes])
    there = torch.arange(most) <= counts[:, None]
    first, second, third, fourth = (torch.from_numpy(values) for values in (looks, position, found, start))
    return Batch(first, second, third, fourth, there, counts)


class OAT(nn.Module):
    """The network; `encode` once a scene, then `score` a path's prefixes."""

    def __init__(self, shape: Shape = Shape()) -> None:
        super().__init__()
        self.shape = shape
        wide = 3 * shape.cells
        if shape.width <= wide:
            raise InputError(f"width {shape.width}, expected more than the position code's {wide}")
        self.appearance = nn.Sequential(
            nn.Linear(2 * (shape.features + 2), shape.feedforward),
            nn.ReLU(),
            nn.Linear(shape.feedforward, shape.width - wide),
        )
        rules: dict[str, Any] = {
            "d_model": shape.width, "nhead": shape.heads, "dim_feedforward": shape.feedforward,
            "dropout": shape.dropout, "batch_first": True,
        }  # fmt: skip
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**rules), shape.encoder, enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**rules), shape.decoder)
        self.of_object = nn.Linear(shape.width, shape.pointers * shape.width, bias=False)
        self.of_step = nn.Linear(shape.width, shape.pointers * shape.width, bias=False)
        self.mix = nn.Linear(shape.pointers, 1, bias=False)
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
        nn.init.ones_(self.mix.weight)

    def encode(self, batch: Batch) -> Tensor:
        """Objects and what is searched in view of each other, [B, N+1, width]."""
        tokens = torch.cat([self.appearance(batch.looks), batch.position], -1)
        encoded: Tensor = self.encoder(tokens, src_key_padding_mask=~batch.there)
        return encoded

    def score(self, batch: Batch, encoded: Tensor, paths: Tensor) -> Tensor:
        """Logits of what comes next after each prefix of the paths, [B, T+1, N+1]; −∞ for padding, and for an end at once.

        Args:
            batch: the scenes.
            encoded: of `encode`.
            paths: [B, T], numbers of objects; what stands after a path's own end is not looked at by what stands before.
        """
        rows, length = paths.shape
        each = torch.arange(rows, device=paths.device)[:, None]
        visited = torch.cat([self.appearance(batch.looks)[each, paths], batch.found[each, paths]], -1)
        blank = torch.zeros_like(batch.looks[:, :1])
        first = torch.cat([self.appearance(blank), batch.start[:, None]], -1)
        steps = torch.cat([first, visited], 1) + sinusoid(length + 1, self.shape.width).to(visited)
        ahead = torch.ones(length + 1, length + 1, dtype=torch.bool, device=paths.device).triu(1)
        decoded = self.decoder(steps, encoded, tgt_mask=ahead, memory_key_padding_mask=~batch.there)
        heads = (rows, -1, self.shape.pointers, self.shape.width)
        theirs, ours = self.of_object(encoded).view(heads), self.of_step(decoded).view(heads)
        scores = torch.einsum("bthd,bnhd->btnh", ours, theirs) / math.sqrt(self.shape.width)
        logits: Tensor = self.mix(scores).squeeze(-1).masked_fill(~batch.there[:, None], -math.inf)
        no_end = torch.zeros_like(logits[:, :1], dtype=torch.bool)
        no_end[each[:, 0], 0, batch.last] = True
        return torch.cat([logits[:, :1].masked_fill(no_end, -math.inf), logits[:, 1:]], 1)

    def forward(self, batch: Batch, paths: Tensor) -> Tensor:
        """`score` after `encode`."""
        return self.score(batch, self.encode(batch), paths)


def sinusoid(length: int, width: int) -> Tensor:
    """The step's code, [length, width]: sines and cosines of geometric frequencies (Vaswani et al., 2017)."""
    at = torch.arange(length, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    both = torch.stack([torch.sin(at * rate), torch.cos(at * rate)], -1)
    return both.reshape(length, -1)[:, :width].float()


def path_loss(model: OAT, batch: Batch, paths: Sequence[Sequence[int]], ended: Sequence[bool]) -> Tensor:
    """Mean cross-entropy of every step with teacher forcing, the end counted as one where the person ended it.

    Args:
        model: the network.
        batch: the scenes, one a path.
        paths: numbers of objects.
        ended: whether a path came to its own end; where it was cut, its end is not learnt.
    """
    length = max(map(len, paths))
    steps, wanted = (
        torch.zeros(len(paths), length, dtype=torch.long),
        torch.full((len(paths), length + 1), -100),
    )
    for row, path in enumerate(paths):
        steps[row, : len(path)] = wanted[row, : len(path)] = torch.tensor(list(path))
        if ended[row]:
            wanted[row, len(path)] = batch.last[row]
    logits = model(batch, steps)
    return nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)
