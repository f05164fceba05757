"""The sweep over families: what each promises, checked on a tiny model against the maps that its eager copy writes out."""

import copy
import sys
from unittest import mock

import numpy as np
import torch
from attention_oracle import EPS32
from tiny_models import FAMILIES, MODELS, OUTSIDE, kind

STATISTICS = ("entropy", "max_prob", "second_moment", "key_mass", "distance", "received")
#: Families and the attention implementations that each is swept with.
BACKENDS = {name: entry[3] for name, entry in {**MODELS, **FAMILIES}.items() if name not in OUTSIDE}
#: What is refused, and a word of the message.
REFUSED = {"beit-bias": "bias", "swin-windows": "bias"}
_PICTURES = ("vision",)
#: With which paddings a family is swept.
SIDES = {name: ("none",) if kind(name) in _PICTURES else ("none", "right", "left") for name in BACKENDS}
_TOWERS = {
    "vision": {"vision"},
    "encoder-decoder": {"encoder", "decoder", "cross"},
    "speech": {"encoder", "decoder", "cross"},
    "cross-decoder": {"text", "cross"},
    "text": {"text"},
    "decoder": {"text"},
}


def expected_towers(name):
    """The towers that a family's record has."""
    return _TOWERS.get(kind(name), {"vision", "text"})


def written_out(model, inputs, dtype):
    """{module name: the weights [B, H, Nq, Nk] of each of its calls} of an eager copy in `dtype`."""
    twin = copy.deepcopy(model).to(dtype)
    twin.set_attn_implementation("eager")
    if hasattr(twin, "set_experts_implementation"):
        twin.set_experts_implementation("eager")  # the grouped product knows no float64
    names = {id(module): name for name, module in twin.named_modules()}
    found = {}

    def watching(function):
        def watched(module, *args, **kwargs):
            output, weights = function(module, *args, **kwargs)
            found.setdefault(names[id(module)] or type(module).__name__, []).append(
                weights.double().nan_to_num()
            )
            return output.nan_to_num(), weights

        return watched

    homes = {type(module).__module__ for module in twin.modules()}
    with mock.patch.dict("os.environ"), torch.no_grad():
        patches = [
            mock.patch.object(
                sys.modules[home],
                "eager_attention_forward",
                watching(sys.modules[home].eager_attention_forward),
            )
            for home in homes
            if hasattr(sys.modules[home], "eager_attention_forward")
        ]
        for patch in patches:
            patch.start()
        try:
            twin(**{n: x.to(dtype) if x.is_floating_point() else x for n, x in inputs.items()})
        finally:
            for patch in patches:
                patch.stop()
    return found


def _of_layer(pieces, again, times):
    """The weights of one recorded layer: one call of several, or all calls of a module as blocks of one map."""
    if len(pieces) == times:
        return pieces[again]
    heads = pieces[0].shape[1]
    return torch.stack([torch.block_diag(*(piece[0, h] for piece in pieces)) for h in range(heads)])[None]


def truth(p, queries, cross):
    """The statistics of one layer by definition, {name: [B, H, N]}, NaN where a query is padding."""
    at, keys = torch.arange(p.shape[-2]), torch.arange(p.shape[-1])
    rows = queries[:, None, :]
    stats = {
        "entropy": -torch.special.xlogy(p, p).sum(-1),
        "max_prob": p.amax(-1),
        "second_moment": (p * p).sum(-1),
        "key_mass": p.sum(-1),
    }
    if not cross:
        stats["distance"] = (p * (at[:, None] - keys[None, :]).abs()).sum(-1)
    stats = {name: torch.where(rows, x, torch.nan) for name, x in stats.items()}
    stats["received"] = (p * rows[..., None]).sum(-2)
    return {name: x.numpy() for name, x in stats.items()}


def compare(tree, model, inputs):
    """Every tower, layer and statistic of a record within four times the error of plain eager in float32."""
    exact, plain = (written_out(model, inputs, dtype) for dtype in (torch.float64, torch.float32))
    from probe.record import positions, towers

    seen = 0
    for tower in towers(tree):
        data = tree[tower].to_dataset()
        queries = torch.from_numpy(positions(tree, tower, "queries")["valid"].values)
        keys = torch.from_numpy(positions(tree, tower, "keys")["valid"].values)
        cross = data.attrs["queries"] != data.attrs["keys"]
        modules = data["module"].values.tolist()
        for index, module in enumerate(modules):
            call = (modules[:index].count(module), modules.count(module))
            want, own = (truth(_of_layer(maps[module], *call), queries, cross) for maps in (exact, plain))
            seen += modules.index(module) == index
            assert set(data.attrs["stats"]) == set(want), tower
            for name, values in want.items():
                if name == "received":
                    values = np.where(keys[:, None, :].numpy(), values, np.nan)
                got = data[name].values[:, index].astype(np.float64)
                where = f"{tower} {module} {name}"
                np.testing.assert_array_equal(np.isnan(got), np.isnan(values), err_msg=where)
                error = np.nanmax(np.abs(own[name] - values))
                floor = 64 * EPS32 * max(1.0, np.nanmax(np.abs(values)))
                assert np.nanmax(np.abs(got - values)) <= 4 * error + floor, where
    assert seen == len(exact), f"{seen} modules recorded, {len(exact)} written out by the model"


def tensors(value):
    """All tensors of a model's output, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


def state(model):
    """What must be the same before and after: configuration, hooks, weights' places, the interfaces' own attributes."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    hooks = [
        (
            name,
            len(m._forward_hooks),
            len(m._forward_pre_hooks),
            m.training,
            sorted(set(vars(m)) - {"_buffers"}),
        )
        for name, m in model.named_modules()
    ]
    places = [(name, p.data_ptr(), p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
    shared = [
        sorted(vars(i)) + sorted(i._local_mapping)
        for i in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS)
    ]
    return repr(model.config), hooks, places, shared
