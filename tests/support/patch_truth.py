"""The nearest patches by the definition: every pair, in float64, one difference at a time."""

import torch


def patches(count, size, candidates=None, seed=0, dtype=torch.float32, device="cpu", offset=0.0):
    """Random patches; the candidates are the patches themselves and others, some of them copies of a patch."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    q, at = draw(count, size) + offset, draw(count, 2)
    more = max(0, (candidates or 2 * count) - count)
    k, k_at = torch.cat([q, draw(more, size) + offset]), torch.cat([at, draw(more, 2)])
    k[count : count + more // 3] = q[torch.arange(more // 3) % count]
    own = torch.arange(count)
    return *(x.to(device, dtype) for x in (q, k, at, k_at)), own.to(device)


def distances(q, k, at, k_at, own, falloff, dtype=torch.float64):
    """[Nq, Nk] dissimilarities, inf at the patch itself."""
    q, k, at, k_at = (x.detach().cpu().to(dtype) for x in (q, k, at, k_at))
    rows = []
    for i in range(len(q)):
        far = (k_at - at[i]).square().sum(1).sqrt()
        row = (k - q[i]).square().sum(1).div(q.shape[1]).sqrt() / (1 + falloff * far)
        if int(own[i]) >= 0:
            row[int(own[i])] = float("inf")
        rows.append(row)
    return torch.stack(rows)


def nearest(q, k, at, k_at, own, count, falloff=3.0, dtype=torch.float64):
    """[Nq, K] smallest, rising, inf where there are too few."""
    values = distances(q, k, at, k_at, own, falloff, dtype).sort(dim=1).values[:, :count]
    lacking = torch.full((len(values), count - values.shape[1]), float("inf"), dtype=dtype)
    return torch.cat([values, lacking], 1)


def assert_nearest(got, q, k, at, k_at, own, count, falloff=3.0):
    """Within twice the error of plain torch at the same precision, and a few roundings of the result where that is nil."""
    truth = nearest(q, k, at, k_at, own, count, falloff)
    plain = nearest(q, k, at, k_at, own, count, falloff, q.dtype)
    known = truth.isfinite()
    got = got.detach().cpu()
    assert torch.equal(got.isfinite(), known)
    assert (got[:, 1:] >= got[:, :-1]).all()
    error = (got.double() - truth)[known].abs().max() if known.any() else torch.tensor(0.0)
    allowed = (
        2 * (plain.double() - truth)[known].abs().max() + 4 * torch.finfo(q.dtype).eps * truth[known].max()
    )
    assert error <= allowed, f"{error:.3g} > {allowed:.3g}"
