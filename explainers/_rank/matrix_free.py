"""Rank of a matrix that is only known by its products A·X and Aᵀ·Y: no entry of it is ever held.

Three parts. ‖A‖²_F comes exact, from the rows' Σ p². A block of vectors, iterated with A and Aᵀ (randomised SVD with power
iteration), finds the span Q of the strongest directions. Then one Golub-Kahan-Lanczos run, started from every column of Q and
from random vectors orthogonal to it, gives

    Σ f(s_i) = tr Qᵀf(A)Q + E[gᵀ(1-QQᵀ) f(A) (1-QQᵀ)g],      f(A) = f applied to the singular values

for f = s and f = s ln s: the first term without sampling, the second by Hutchinson's estimator, whose variance the
deflation, and a control variate (the same sum for s², which is known exactly), make small. Each run gives two quadratures:
Gauss, and Gauss-Radau with a node at 0 (its bidiagonal matrix has a row more). For f = s they bound the truth from above and
from below; their mean is taken, and half their distance is the error that the short run is charged with. It is cautious:
the mean mostly errs several times less.

Sources: Halko, Martinsson and Tropp 2011 (block); Ubaru, Chen and Saad 2017 (quadrature); Meyer et al. 2021, Hutch++
(deflation);
Golub and Meurant 2010 (bounds). Singular values come from the bidiagonal matrix, never from a Gram matrix, whose spectrum is
squared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

#: A direction whose length is below this share of ‖A‖_F has run out; what follows it is rounding.
_EXHAUSTED = 1e-7


@dataclass(frozen=True, eq=False)
class Operator:
    """Maps of several heads, known by their products.

    Attributes:
        rows: queries.
        columns: keys.
        forward: X [..., columns, C] to A·X [..., rows, C].
        backward: Y [..., rows, C] to Aᵀ·Y [..., columns, C].
        energy: ‖A‖²_F, exact, [...].
    """

    rows: int
    columns: int
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor], Tensor]
    energy: Float[Tensor, "..."]


def estimate(
    operator: Operator,
    *,
    block: int = 32,
    probes: int = 16,
    steps: int = 16,
    power: int = 2,
    seed: int = 0,
    energy: float = 0.99,
) -> dict[str, Float[Tensor, "..."]]:
    """Estimate the soft measures of rank, with their errors.

    2·power + 1 products with `block` vectors and 2·steps + 1 with block + probes.

    Args:
        operator: the maps.
        block: vectors of the block that finds the strongest directions.
        probes: random vectors for the rest; at least 2.
        steps: of the Lanczos runs.
        power: further iterations of the block.
        seed: of the random vectors.
        energy: of the energy rank.

    Returns:
        [...] float64 each: stable_rank, nuclear_ratio, participation, effective_rank, each with `…_error`: one standard
        error of the sampling plus half the distance of the two quadratures (and what the residual leaves open in s₁);
        largest (s₁, from below) and largest_error; energy_rank, NaN where the block does not hold that share, since nothing is
        known of the values beyond it; block_energy, the share that it holds.
    """
    generator = torch.Generator().manual_seed(seed)
    shape, device = operator.energy.shape, operator.energy.device
    block, probes = min(block, operator.rows, operator.columns), max(2, probes)

    def draw(n: int, count: int) -> Tensor:
        """The same vectors for every head, drawn on the CPU: one result on every device."""
        vectors = torch.randn(n, count, generator=generator, dtype=torch.float64).to(device)
        return vectors.expand(*shape, n, count)

    basis = _range(operator, draw(operator.columns, block), power)
    random = draw(operator.rows, probes)
    random = random - basis @ (basis.mT @ random)
    lengths = random.norm(dim=-2)
    alpha, beta = _bidiagonal(operator, torch.cat([basis, random / lengths[..., None, :]], -1), steps)
    weights = torch.cat([torch.ones_like(basis[..., 0, :]), lengths.square()], -1)
    found = _sums(alpha, beta, weights, operator.energy, block)
    found |= _largest(alpha, beta)
    values = torch.linalg.svdvals(operator.backward(basis))
    cumulated = values.square().cumsum(-1) / operator.energy[..., None]
    enough = cumulated >= energy
    first = (~enough).sum(-1).double() + 1
    found["energy_rank"] = torch.where(enough.any(-1), first, torch.nan)
    found["block_energy"] = cumulated[..., -1].clamp(max=1)
    return _measures(found, operator.energy)


def _range(operator: Operator, x: Float[Tensor, "... n b"], power: int) -> Float[Tensor, "... m b"]:
    basis: Tensor = torch.linalg.qr(operator.forward(x)).Q
    for _ in range(power):
        basis = torch.linalg.qr(operator.forward(torch.linalg.qr(operator.backward(basis)).Q)).Q
    return basis


def _bidiagonal(
    operator: Operator, u: Float[Tensor, "... m C"], steps: int
) -> tuple[Float[Tensor, "... C S"], Float[Tensor, "... C S"]]:
    """Golub-Kahan-Lanczos from unit vectors: diagonal α and subdiagonal β (one below each α) of every column's run."""
    least = _EXHAUSTED * operator.energy.sqrt()[..., None]
    alphas, betas = [], []
    v, beta = torch.zeros_like(operator.backward(u)), None
    for _ in range(steps):
        v = operator.backward(u) - (0 if beta is None else beta[..., None, :] * v)
        v, alpha = _unit(v, least)
        u = operator.forward(v) - alpha[..., None, :] * u
        u, beta = _unit(u, least)
        alphas.append(alpha)
        betas.append(beta)
    return torch.stack(alphas, -1), torch.stack(betas, -1)


def _unit(x: Float[Tensor, "... n C"], least: Tensor) -> tuple[Tensor, Float[Tensor, "... C"]]:
    length = x.norm(dim=-2)
    length = torch.where(length > least, length, 0)
    return x * torch.where(length > 0, 1 / length, 0)[..., None, :], length


def _matrix(alpha: Tensor, beta: Tensor) -> Float[Tensor, "... S1 S"]:
    """The bidiagonal matrix with its last row more."""
    square = torch.diag_embed(alpha)
    lower = torch.diag_embed(beta)
    return torch.nn.functional.pad(square, (0, 0, 0, 1)) + torch.nn.functional.pad(lower, (0, 0, 1, 0))


def _sums(
    alpha: Tensor, beta: Tensor, weights: Float[Tensor, "... C"], energy: Tensor, block: int
) -> dict[str, Tensor]:
    """Σ s and Σ s ln s, what each random vector says of them, and half the distance of the two quadratures."""
    whole = _matrix(alpha, beta)
    gauss, radau = (_quadrature(b) * weights[..., None] for b in (whole[..., :-1, :], whole))
    values, change = (gauss + radau) / 2, (gauss - radau) / 2
    apart = change[..., :block, :].sum(-2) + change[..., block:, :].mean(-2)
    squares = alpha[..., 0].square() * weights  # ‖Aᵀu‖², free, and its sum over all directions is known
    rest = (energy - squares[..., :block].sum(-1)).clamp(min=0)
    sampled, control = values[..., block:, :], squares[..., block:, None]
    centred = control - control.mean(-2, keepdim=True)
    variance = centred.square().sum(-2)
    slope = torch.where(
        variance > 0, (centred * (sampled - sampled.mean(-2, keepdim=True))).sum(-2) / variance, 0
    )
    corrected = sampled - slope[..., None, :] * (control - rest[..., None, None])
    total = values[..., :block, :].sum(-2) + corrected.mean(-2)
    return {"sums": total, "parts": corrected, "apart": apart}


def _quadrature(b: Float[Tensor, "... R S"]) -> Float[Tensor, "... 2"]:
    """The first entry of f(|Bᵀ|) for f = s and f = s ln s."""
    left, s, _ = torch.linalg.svd(b, full_matrices=False)
    weight = left[..., 0, :].square()
    return torch.stack([(weight * s).sum(-1), (weight * torch.xlogy(s, s)).sum(-1)], -1)


def _largest(alpha: Tensor, beta: Tensor) -> dict[str, Tensor]:
    """The largest Ritz value of all runs, and the length of its residual: a singular value lies within it."""
    _, s, right = torch.linalg.svd(_matrix(alpha, beta)[..., :-1, :])
    top, column = s[..., 0].max(-1)
    residual = (beta[..., -1] * right[..., 0, -1].abs()).gather(-1, column[..., None])[..., 0]
    return {"largest": top, "largest_error": residual}


def _measures(found: dict[str, Tensor], energy: Tensor) -> dict[str, Tensor]:
    """From the sums to the measures, errors carried to first order."""
    (total, logs), top = found["sums"].unbind(-1), found["largest"]
    parts = found["parts"] - found["parts"].mean(-2, keepdim=True)
    probes = parts.shape[-2]
    entropy = total.log() - logs / total
    slopes = torch.stack([1 / total + logs / total.square(), -1 / total], -1)

    def spread(along: Tensor) -> Tensor:
        """One standard error of along · sums, and what the short runs leave open."""
        sampled = (parts * along[..., None, :]).sum(-1)
        error = (sampled.square().sum(-1) / (probes - 1) / probes).sqrt()
        return error + (along * found["apart"]).sum(-1).abs()

    of_total = spread(torch.stack([torch.ones_like(total), torch.zeros_like(total)], -1))
    effective, relative = entropy.exp(), found["largest_error"] / top
    participation = total.square() / energy
    measures = {
        "effective_rank": effective,
        "effective_rank_error": effective * spread(slopes),
        "stable_rank": energy / top.square(),
        "stable_rank_error": 2 * relative * energy / top.square(),
        "nuclear_ratio": total / top,
        "nuclear_ratio_error": of_total / top + relative * total / top,
        "participation": participation,
        "participation_error": 2 * participation * of_total / total,
    }
    kept = ("largest", "largest_error", "energy_rank", "block_energy")
    return measures | {name: found[name] for name in kept}
