"""Bags with a known truth: two planted patterns among noise, and handwritten digits."""

import numpy as np
import torch

from probe.bags import Bag, in_memory


def planted(bags=40, *, instances=200, width=32, each=15, strong=6.0, weak=3.0, seed=0):
    """Positive bags hold `each` instances shifted far along axis 0 (pattern 1), as many less far along axis 1 (pattern 2)."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(2 * bags):
        x, notes, positive = (
            rng.normal(size=(instances, width)),
            np.zeros(instances, dtype=np.int64),
            number % 2 == 1,
        )
        if positive:
            places = rng.permutation(instances)[: 2 * each]
            notes[places[:each]], notes[places[each:]] = 1, 2
            x[notes == 1, 0] += strong
            x[notes == 2, 1] += weak
        name = f"{'positive' if positive else 'negative'} {number:03d}"
        made.append(Bag(name, torch.from_numpy(x).float(), int(positive), annotation=notes))
    return in_memory(made, ("negative", "positive"))


def digits(bags=100, *, instances=20, wanted=(9,), seed=0):
    """Bags of scikit-learn's 8 by 8 digits; positive where every wanted digit is in it, the annotation says which is which."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = np.random.default_rng(seed)
    wanted = tuple(wanted)
    common = np.flatnonzero(~np.isin(data.target, wanted))
    made = []
    for number in range(bags):
        positive = number % 2 == 1
        held = wanted if positive else wanted[: rng.integers(0, len(wanted))]
        rows = rng.choice(common, instances)
        for place, digit in zip(rng.permutation(instances), held, strict=False):
            rows[place] = rng.choice(np.flatnonzero(data.target == digit))
        notes = np.zeros(instances, dtype=np.int64)
        for pattern, digit in enumerate(wanted, 1):
            notes[data.target[rows] == digit] = pattern
        x = torch.from_numpy(data.data[rows]).float() / 16
        made.append(Bag(f"digits {number:03d}", x, int(positive), annotation=notes))
    return in_memory(made, ("without", "with"))
