"""Linear attention on given q, k, v: its KV buffer, its outputs in O(N d²), and the spectrum of its map without the map.

κ(x) = ELU(x) + 1 (Katharopoulos et al. 2020). Weights α of the tokens as RALA has them (Fan et al. 2025, eq. 6 and their code):
α = N · softmax_j(q_g · κ(k_j) / √d) with the mean of κ(q) as q_g. Everything is computed in float64.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 256


def feature_map(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """κ(x) = ELU(x) + 1, positive."""
    return torch.nn.functional.elu(x.double()) + 1


def token_weights(
    fq: Float[Tensor, "M d"], fk: Float[Tensor, "N d"], query: Float[Tensor, "d"] | None = None
) -> Float[Tensor, "N"]:
    """RALA's α: how much each token counts in the KV buffer; they sum to N.

    Args:
        fq: κ of the queries.
        fk: κ of the keys.
        query: the global query; None for the mean of fq.
    """
    query = fq.mean(0) if query is None else query.double()
    return len(fk) * torch.softmax(fk @ query / fk.shape[1] ** 0.5, 0)


def kv_buffer(fk: Float[Tensor, "N d"], v: Float[Tensor, "N e"]) -> Float[Tensor, "d e"]:
    """Σ_j κ(k_j)ᵀ v_j; keys already weighted give RALA's."""
    return fk.T @ v.double()


def linear_output(
    fq: Float[Tensor, "M d"], fk: Float[Tensor, "N d"], v: Float[Tensor, "N e"], *, causal: bool = False
) -> Float[Tensor, "M e"]:
    """y_i = κ(q_i) Σ_j κ(k_j)ᵀ v_j / κ(q_i)·Σ_j κ(k_j), over all keys or those up to i, in O(N d²).

    Args:
        fq: κ of the queries.
        fk: κ of the keys, weighted or not.
        v: values.
        causal: query i sees the keys up to i; needs as many queries as keys.
    """
    if not causal:
        return (fq @ kv_buffer(fk, v)) / (fq @ fk.sum(0))[:, None]
    out = torch.empty(len(fq), v.shape[1], dtype=torch.float64, device=fq.device)
    buffer, total = fk.new_zeros(fk.shape[1], v.shape[1]), fk.new_zeros(fk.shape[1])
    for first in range(0, len(fq), _CHUNK):
        part = slice(first, first + _CHUNK)
        q, k, values = fq[part], fk[part], v[part].double()
        near = torch.tril(q @ k.T)
        norm = q @ total + near.sum(1)
        out[part] = (q @ buffer + near @ values) / norm[:, None]
        buffer, total = buffer + k.T @ values, total + k.sum(0)
    return out


def linear_spectrum(fq: Float[Tensor, "M d"], fk: Float[Tensor, "N d"]) -> Float[Tensor, "r"]:
    """The non-zero singular values of D⁻¹ κ(Q) κ(K)ᵀ (D its row sums), from d × d matrices: O(N d²).

    With the triangular factors R₁, R₂ of D⁻¹κ(Q) and κ(K) they are those of R₁ R₂ᵀ; exact for a map that sees all keys.
    """
    scaled = fq / (fq @ fk.sum(0))[:, None]
    left, right = (torch.linalg.qr(x, mode="r").R for x in (scaled, fk))
    found: Tensor = torch.linalg.svdvals(left @ right.T)
    return found
