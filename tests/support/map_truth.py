"""Statistics of attention maps that are there, by their definitions, and how close others have to come to them."""

import torch

from probe.kernels.statistics import map_statistics
from probe.kernels.visible import visible_counts
from probe.validity import Report

NAMES = ("entropy", "max_prob", "second_moment", "key_mass", "received")
EPS32 = torch.finfo(torch.float32).eps


def of_map(p, query_valid=None):
    """{name: [B, H, N]} of weights [B, H, Nq, Nk]; NaN at padded queries, which give no mass."""
    p = p.double()
    rows = torch.ones(p.shape[0], p.shape[2], dtype=torch.bool) if query_valid is None else query_valid
    stats = {
        "entropy": -torch.special.xlogy(p, p).sum(-1),
        "max_prob": p.amax(-1),
        "second_moment": p.square().sum(-1),
        "key_mass": p.sum(-1),
    }
    stats = {n: x.masked_fill(~rows[:, None], torch.nan) for n, x in stats.items()}
    return stats | {"received": (p * rows[:, None, :, None]).nan_to_num().sum(-2)}


def of_call(call):
    """The same of an `AttentionCall`, by the kernels."""
    return map_statistics(call.q.float(), call.k.float(), call.spec, NAMES)


def assert_statistics(got, exact, plain, query_valid=None, key_valid=None):
    """Within twice the error of plain torch in the model's own precision, and a few roundings.

    Args:
        got: statistics.
        exact: the map in float64.
        plain: the map as plain torch writes it out in the model's precision.
        query_valid: False at padded queries.
        key_valid: False at padded keys.
    """
    want, own = of_map(exact, query_valid), of_map(plain, query_valid)
    for name in NAMES:
        x, y = got[name].double(), want[name]
        error = (own[name] - y).nan_to_num().abs().max()
        if name == "received" and key_valid is not None:
            x, y = (z.masked_fill(~key_valid[:, None], 0).nan_to_num() for z in (x, y))
        assert torch.equal(x.isnan(), y.isnan()), name
        bound = 2 * error + 64 * EPS32 * max(1.0, float(y.nan_to_num().abs().max()))
        assert float((x - y).nan_to_num().abs().max()) <= bound, name


def assert_report(call):
    """The checks of a record's validity report pass for a call."""
    names = (*NAMES, "key_mass") if call.spec.sink is not None else NAMES
    found = map_statistics(call.q, call.k, call.spec, tuple(dict.fromkeys(names)))
    seen, _ = visible_counts(call.spec, call.q.shape[0], call.q.shape[2], call.k.shape[2])
    report = Report()
    with torch.no_grad():
        report.layer(call, {n: x.float().numpy() for n, x in found.items()}, seen.numpy(), "reference")
    assert {"padding", "column sums", "entropy bounds", "eager parity", "output"} <= {
        c.name for c in report.checks
    }
    failed = [c for c in report.checks if not c.passed]
    assert not failed, failed
