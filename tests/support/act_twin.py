"""The slow twin of ACT: explicit maps written out by eager attention in float64, calibrated entry by entry as the paper says.

It shares no code with the fast path: the model's own `eager_attention_forward` is wrapped, and its weights are changed by loops
over samples, heads, rows and keys. Who is padding is told by the test.
"""

import contextlib
import copy
import sys
from unittest import mock

import torch


def calibrate(weights, visible, received, seen, tokens, first, *, a, beta, threshold="relative", min_queries=1,
              protect=True, targets="all", uniform=None, margins=None):  # fmt: skip
    """One head of one sample, in place of `weights` [Q, K]: a copy with the sinks shrunk, and the set of sinks.

    `received`, `seen`, `uniform` [K]: of all rows so far; `tokens`: T; `first`: position of the first token.
    """
    sinks = set()
    for k in range(weights.shape[1]):
        if seen[k] == 0:
            continue
        alpha = received[k] / seen[k]
        limit = {
            "relative": a / tokens,
            "absolute": a,
            "corrected": a * (uniform[k] / seen[k] if uniform is not None else 0),
        }[threshold]
        if margins is not None:
            margins.append(abs(float(alpha) / float(limit) - 1))
        if alpha > limit and seen[k] >= min_queries and not (protect and k == first):
            sinks.add(k)
    return shrink(weights, visible, sinks, first, beta=beta, targets=targets), sinks


def shrink(weights, visible, sinks, first, *, beta, targets="all"):
    """The map with its sinks shrunk and their weight handed to the others in proportion."""
    out = weights.clone()
    for i in range(weights.shape[0]):
        mine = [k for k in sinks if visible[i, k]]
        others = [k for k in range(weights.shape[1]) if visible[i, k] and k not in sinks]
        if targets == "no_first":
            others = [k for k in others if k != first]
        freed = (1 - beta) * sum(weights[i, k] for k in mine)
        rest = sum(weights[i, k] for k in others)
        if not mine or not rest > 0:
            continue
        for k in mine:
            out[i, k] = beta * weights[i, k]
        for k in others:
            out[i, k] = weights[i, k] + freed * weights[i, k] / rest
    return out


class Twin:
    """A copy of a model in `dtype`, with eager attention; calls inside `steered()` are calibrated.

    Args:
        model: the model.
        heads: {layer: heads}.
        valid: [B, length] of all positions that will be fed, padding False.
        decoding: "running" or "frozen".
        prompt: tokens of each sample that decide ("frozen"), or None.
    """

    def __init__(
        self,
        model,
        heads,
        valid,
        *,
        dtype=torch.float64,
        decoding="running",
        prompt=None,
        layer_of=None,
        **rule,
    ):
        self.model = copy.deepcopy(model).to(dtype)
        self.model.set_attn_implementation("eager")
        if hasattr(self.model, "set_experts_implementation"):
            self.model.set_experts_implementation("eager")
        self.heads, self.valid, self.decoding, self.prompt, self.rule = heads, valid, decoding, prompt, rule
        self.layer_of = layer_of or (lambda module: module.layer_idx)
        self.columns, self.sinks, self.maps, self.margins = {}, {}, {}, []

    @contextlib.contextmanager
    def steered(self):
        homes = {type(module).__module__ for module in self.model.modules()}
        with contextlib.ExitStack() as stack, torch.no_grad():
            for home in homes:
                plain = getattr(sys.modules[home], "eager_attention_forward", None)
                if plain is not None:
                    stack.enter_context(
                        mock.patch.object(sys.modules[home], "eager_attention_forward", self._around(plain))
                    )
            yield self.model

    def _around(self, plain):
        def eager(module, query, key, value, attention_mask, *args, **kwargs):
            output, weights = plain(module, query, key, value, attention_mask, *args, **kwargs)
            output = output.nan_to_num()
            layer = self.layer_of(module)
            if layer not in self.heads:
                return output, weights
            changed = self._calibrated(layer, weights.nan_to_num())
            values = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
            for head in self.heads[layer]:
                output[:, :, head] = changed[:, head].to(values.dtype) @ values[:, head]
            return output, weights

        return eager

    def _calibrated(self, layer, weights):
        batch, _, n_queries, n_keys = weights.shape
        past = self.columns[layer]["length"] if n_keys != n_queries and layer in self.columns else 0
        total = past + n_queries
        offset = total - n_keys  # of key 0: a sliding cache has let go of what came before
        if past == 0:
            self.columns[layer] = {"received": {}, "seen": {}, "uniform": {}}
            self.sinks[layer] = {}
        known = self.columns[layer]
        known["length"] = total
        out = weights.clone()
        for b in range(batch):
            valid = self.valid[b, :total]
            first = int(valid.int().argmax())
            for head in self.heads[layer]:
                at = (b, head)
                pad = torch.zeros(n_queries, dtype=torch.float64)
                for name in ("received", "seen", "uniform"):
                    known[name][at] = torch.cat([known[name].get(at, pad[:0]), pad])
                rows = weights[b, head].double()
                visible = rows > 0
                count = [i for i in range(n_queries) if valid[past + i]]
                tokens = int(valid.sum())
                if self.decoding == "frozen" and self.prompt is not None:
                    tokens = self.prompt[b]
                    count = [i for i in count if past + i < first + tokens]
                if past == 0 or self.decoding == "running":
                    for i in count:
                        known["received"][at][offset:] += rows[i]
                        known["seen"][at][offset:] += visible[i]
                        known["uniform"][at][offset:] += visible[i] / visible[i].sum()
                    window = {n: known[n][at][offset:total] for n in ("received", "seen", "uniform")}
                    changed, sinks = calibrate(
                        rows,
                        visible,
                        **window,
                        tokens=tokens,
                        first=first - offset,
                        margins=self.margins,
                        **self.rule,
                    )
                    self.sinks[layer][at] = {k + offset for k in sinks}
                else:
                    sinks = {k - offset for k in self.sinks[layer][at] if k >= offset}
                    keep = {n: self.rule[n] for n in ("beta", "targets") if n in self.rule}
                    changed = shrink(rows, visible, sinks, first - offset, **keep)
                real = torch.tensor([bool(valid[past + i]) for i in range(n_queries)])
                out[b, head] = torch.where(real[:, None], changed, rows)
        self.maps[layer] = out
        return out
