"""A small network that looks for a bright disc, pictures with a disc at a known place, and results by hand."""

import functools
import types

import numpy as np
import xarray as xr

from probe.record import strings

SIDE = 48
CENTRE = (14, 32)


def picture(row=CENTRE[0], column=CENTRE[1], radius=5):
    """A bright disc on dim noise, uint8 [H, W, 3]."""
    noise = np.random.default_rng(0).integers(20, 60, (SIDE, SIDE, 1))
    values = np.where(disc(row, column, radius)[..., None], 230, noise)
    return np.broadcast_to(values, (SIDE, SIDE, 3)).astype(np.uint8).copy()


def disc(row=CENTRE[0], column=CENTRE[1], radius=5):
    """Where the disc is, [H, W]."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


@functools.cache
def network():
    """Bright places speak for class "disc", everything for "nothing" a little: known truth, with a made-up batch norm."""
    import torch
    from torch import nn

    from probe._pictures import PictureProcessor

    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.act = nn.ReLU()
            self.pool = nn.MaxPool2d(2)
            self.deep = nn.Conv2d(4, 4, 3, padding=1)
            self.late = nn.ReLU()
            self.mean = nn.AdaptiveAvgPool2d(1)
            self.flat = nn.Flatten()
            self.head = nn.Linear(4, 2)
            self.config = types.SimpleNamespace(id2label={0: "nothing", 1: "disc"})

        def forward(self, x):
            x = self.pool(self.act(self.conv(x)))
            return self.head(self.flat(self.mean(self.late(self.deep(x)))))

    model = Seen().eval()
    with torch.no_grad():
        model.conv.weight.fill_(1 / 27)
        model.conv.bias.fill_(-0.4)
        model.deep.weight.fill_(1 / 36)
        model.deep.bias.zero_()
        model.head.weight.copy_(torch.tensor([[0.0] * 4, [12.0] * 4]))
        model.head.bias.copy_(torch.tensor([0.3, 0.0]))
    processor = PictureProcessor(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), SIDE)
    return types.SimpleNamespace(
        model=model, processor=processor, name="tiny", task="image-classification", source="folder", revision="0",
        license="none",
    )  # fmt: skip


def overlay(maps, numbers=None, **attrs):
    """An image_overlay by hand: maps [map, H, W], numbers of areas [H, W]."""
    maps = np.asarray(maps, dtype=np.float32)
    count, height, width = maps.shape
    numbers = np.zeros((height, width), np.int16) if numbers is None else np.asarray(numbers, np.int16)
    areas = int(numbers.max())
    positive = np.clip(maps[0], 0, None)
    boxes = [np.nonzero(numbers == n) for n in range(1, areas + 1)]
    found = xr.Dataset(
        {
            "relevance": (("map", "row", "column"), maps),
            "picture": (("row", "column", "colour"), np.full((height, width, 3), 120, np.uint8)),
            "area_of": (("row", "column"), numbers),
            "area_top": ("area", np.array([r.min() for r, _ in boxes], np.int32)),
            "area_left": ("area", np.array([c.min() for _, c in boxes], np.int32)),
            "area_bottom": ("area", np.array([r.max() + 1 for r, _ in boxes], np.int32)),
            "area_right": ("area", np.array([c.max() + 1 for _, c in boxes], np.int32)),
            "area_size": ("area", np.array([len(r) / numbers.size for r, _ in boxes])),
            "area_share": ("area", np.array([positive[b].sum() / positive.sum() for b in boxes])),
        },
        coords={
            "name": ("map", strings([f"map {n}" for n in range(count)])),
            "signed": ("map", np.arange(count) == 0),
        },
    )
    found.attrs = {
        "kind": "image_overlay", "explainer": "relevance", "title": "Salient relevance", "parameters": "{}",
        "references": ["none"],
        "unit": "1", "value": "relevance", "model": "by hand", "target": "disc", "target_probability": 0.9,
        "prediction": "disc",
        "prediction_probability": 0.9, "method": "epsilon_plus", "input": "", "conservation": '{"output": 4.0, "input": 3.6, '
        '"biases": 0.4, "stabilisers": 0.0}', "conservation_ratio": 0.9, "conserving": True, "sound": True, "score_value": 4.0,
    } | attrs  # fmt: skip
    return found
