"""LRP written down a second time: explicit matrices and the published formulas, in numpy float64, one sample."""

import numpy as np
import torch


def matrix_of(layer, shape):
    """A linear layer as an explicit matrix [out, in] and bias [out], by what it does to every unit vector."""
    size = int(np.prod(shape))
    with torch.no_grad():
        zero = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        unit = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        columns = layer(unit).reshape(size, -1) - zero
    return columns.T.numpy(), zero.numpy()


def sign(z):
    return np.where(z < 0, -1.0, 1.0)


def epsilon(x, w, b, r, eps):
    """R_i = Σ_j x_i w_ij R_j / (z_j + ε sign z_j); and what biases and stabilisers take."""
    found, biases, stabilisers = np.zeros_like(x), 0.0, 0.0
    for j in range(len(r)):
        z = sum(x[i] * w[j, i] for i in range(len(x))) + b[j]
        bottom = z + eps * sign(z)
        for i in range(len(x)):
            found[i] += x[i] * w[j, i] * r[j] / bottom
        biases += b[j] * r[j] / bottom
        stabilisers += eps * sign(z) * r[j] / bottom
    return found, biases, stabilisers


def alpha_beta(x, w, b, r, eps, alpha, beta):
    """α by the positive contributions, −β by the negative ones."""
    c = w * x
    positive, negative = np.maximum(c, 0), np.minimum(c, 0)
    zp, zn = positive.sum(1) + np.maximum(b, 0), negative.sum(1) + np.minimum(b, 0)
    found = (positive * (alpha * r / (zp + eps))[:, None]).sum(0)
    bias = (np.maximum(b, 0) * alpha * r / (zp + eps)).sum()
    if beta:
        bottom = zn + eps * sign(zn)
        found -= (negative * (beta * r / bottom)[:, None]).sum(0)
        bias -= (np.minimum(b, 0) * beta * r / bottom).sum()
    return found, bias, r.sum() - found.sum() - bias


def gamma(x, w, b, r, eps, g):
    """Contributions with the output's sign weigh (1 + γ) times."""
    c, z = w * x, w @ x + b
    agrees = c * sign(z)[:, None] > 0
    c = c * np.where(agrees, 1 + g, 1)
    bias = b * np.where(b * sign(z) > 0, 1 + g, 1)
    bottom = c.sum(1) + bias
    bottom = bottom + eps * sign(bottom)
    found = (c * (r / bottom)[:, None]).sum(0)
    return found, (bias * r / bottom).sum(), r.sum() - found.sum() - (bias * r / bottom).sum()


def z_box(x, w, b, r, eps, low, high):
    """R_i = Σ_j (x_i w_ij − l w_ij⁺ − h w_ij⁻) R_j / Σ_i (…)."""
    c = w * x - low * np.maximum(w, 0) - high * np.minimum(w, 0)
    bottom = c.sum(1)
    bottom = bottom + eps * sign(bottom)
    found = (c * (r / bottom)[:, None]).sum(0)
    return found, 0.0, r.sum() - found.sum()


def by_weights(x, w, b, r, eps, share):
    """R_i = Σ_j s_ij R_j / Σ_i s_ij with s of the weights alone."""
    s = share(w)
    found = (s * (r / (s.sum(1) + eps))[:, None]).sum(0)
    return found, 0.0, r.sum() - found.sum()
