"""Masks made row by row: bits, statistics and memory against the dense mask, and what else may be done with them (nothing)."""

import pytest
import torch
from lazy_masks import MODELS, build, lazy_at_any_length, logits, nothing_left_behind, padded, tapped  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils as hf
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import probe
from probe import ModelError
from probe.taps.longmask import switch
from probe.taps.longmask.lazy import ROWS, LazyMask, attend
from probe.taps.longmask.switch import ARCHITECTURES
from probe.taps.rules.masks import reader


def test_every_verified_class_is_tested():
    assert {entry[0] for entry in MODELS.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_bit_identical(name, side, dtype):
    model = build(name).to(dtype)
    for lengths in ([100, 70], [2 * ROWS + 1, 700], [3 * ROWS]):
        inputs = padded(lengths, side)
        plain = logits(model, inputs)
        out, calls = tapped(model, inputs)
        assert torch.equal(plain, out), lengths
        whole = len(lengths) == 1 and calls[0].spec.window is None and calls[0].spec.chunk is None
        assert isinstance(calls[0].mask, LazyMask) != whole


@pytest.mark.parametrize("name", MODELS)
def test_statistics_are_those_of_the_dense_mask(name, monkeypatch):
    model, inputs = build(name), padded()
    stats = ("entropy", "received", "max_key", "distance", "lse")
    lazy = probe.capture(model, inputs, stats=stats)
    monkeypatch.setattr(switch, "DENSE_LIMIT", 1 << 40)
    dense = probe.capture(model, inputs, stats=stats)
    assert lazy.validity.attrs["passed"]
    assert lazy.attrs["rules"] == dense.attrs["rules"]
    for group in ("text", "validity"):
        assert lazy[group].to_dataset().identical(dense[group].to_dataset()), group


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest storage that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize("limit", [0, 1 << 40], ids=["lazy", "dense"])
@pytest.mark.parametrize("name", ["llama", "mistral-window", "llama4-chunks"])
def test_no_tensor_of_the_size_of_a_map(name, limit, monkeypatch):
    monkeypatch.setattr(switch, "DENSE_LIMIT", limit)
    n = 6 * ROWS
    inputs = padded([n])
    inputs["attention_mask"][:, :100] = 0
    with Largest() as seen:
        probe.capture(build(name), inputs)
    if limit:
        assert seen.elements >= n * n
    else:
        assert seen.elements <= n * n / 4


RULES = {
    "causal": hf.causal_mask_function,
    "window": hf.sliding_window_causal_mask_function(5),
    "chunks": hf.chunked_causal_mask_function(7, torch.tensor([0, 4])),
    "two ways": hf.sliding_window_bidirectional_mask_function(6),
    "packed": hf.and_masks(
        hf.causal_mask_function,
        hf.packed_sequence_mask_function(torch.tensor([[0] * 9 + [1] * 21, [0] * 20 + [1] * 10])),
    ),
}


@pytest.mark.parametrize("use_vmap", [False, True])
@pytest.mark.parametrize("queries", [30, 11], ids=["whole", "after a cache"])
@pytest.mark.parametrize("rule", RULES)
def test_rows_are_those_of_the_dense_mask(rule, queries, use_vmap):
    padding = torch.ones(2, 30, dtype=torch.bool)
    padding[1, :4] = False
    arguments = {
        "batch_size": 2,
        "q_length": queries,
        "kv_length": 30,
        "q_offset": 30 - queries,
        "mask_function": RULES[rule],
        "attention_mask": padding,
        "use_vmap": use_vmap,
    }
    dense = hf.sdpa_mask(**arguments)
    lazy = LazyMask(hf.sdpa_mask, arguments, "a model")
    read = reader(lazy, queries, 29, torch.float32)
    for rows in (range(queries), range(3, 8), range(queries - 1, queries)):
        assert torch.equal(lazy.rows(rows), dense[:, :, rows.start : rows.stop])
        for sample in range(2):
            assert torch.equal(read(sample, rows), dense[sample, :, rows.start : rows.stop, :29])
    assert reader(lazy, queries + 1, 30, torch.float32) is None
    assert reader(lazy, queries, 31, torch.float32) is None


@pytest.mark.parametrize(
    ("count", "blocks"),
    [(1, [1]), (767, [767]), (1535, [1535]), (1536, [768, 768]), (3 * 768 + 5, [768, 768, 773])],
)
def test_blocks_keep_the_split_of_the_flash_kernel(count, blocks, monkeypatch):
    """The kernel takes 256 queries together where a call has 768 or more, counted from the call's first."""
    seen = []

    def sdpa(module, query, key, value, mask, dropout, *, scaling):
        assert mask.shape == (1, 1, query.shape[2], count)
        assert (dropout, scaling) == (0.0, 0.5)
        seen.append(query.shape[2])
        return query.transpose(1, 2), None

    monkeypatch.setattr("transformers.integrations.sdpa_attention.sdpa_attention_forward", sdpa)
    q = torch.randn(1, 2, count, 4)
    sizes = {"batch_size": 1, "q_length": count, "kv_length": count}
    mask = LazyMask(hf.sdpa_mask, sizes, "a model")
    arguments = {"query": q, "key": q, "value": q, "attention_mask": mask, "scaling": 0.5}
    output, weights = attend(sdpa, torch.nn.Module(), arguments, (0.0,))
    assert torch.equal(output, q.transpose(1, 2))
    assert weights is None
    assert seen == blocks


USES = {
    "shape": lambda m: m.shape,
    "to": lambda m: m.to("cpu"),
    "hasattr": lambda m: hasattr(m, "ndim"),
    "slice": lambda m: m[:, :, :, :5],
    "assign": lambda m: m.__setitem__(0, 1),
    "add": lambda m: m + 1,
    "add to": lambda m: torch.zeros(3) + m,
    "number first": lambda m: 1 - m,
    "not": lambda m: ~m,
    "truth": lambda m: not m,
    "equal": lambda m: m == 0,
    "unequal": lambda m: m != 0,
    "length": len,
    "iterate": list,
    "where": lambda m: torch.where(m, 1.0, 0.0),
    "keyword": lambda m: torch.nn.functional.pad(input=m, pad=(0, 1)),
    "in a list": lambda m: torch.cat([m, m]),
    "sdpa": lambda m: torch.nn.functional.scaled_dot_product_attention(*[torch.zeros(1, 1, 3, 4)] * 3, m),
}


@pytest.mark.parametrize("use", USES)
def test_any_other_use_is_refused(use):
    mask = LazyMask(hf.sdpa_mask, {"batch_size": 1, "q_length": 3, "kv_length": 3}, "LlamaModel")
    with pytest.raises(
        ModelError, match=r"the attention mask, which is made row by row.*Give a shorter input"
    ):
        USES[use](mask)


def test_a_model_that_touches_the_mask_is_named_and_left_as_it_was():
    def touch(module, args, kwargs):
        kwargs["attention_mask"] = kwargs["attention_mask"][..., :10]
        return args, kwargs

    model = build("llama")
    handle = model.model.layers[1].register_forward_pre_hook(touch, with_kwargs=True)
    with pytest.raises(ModelError, match="LlamaModel: something used __getitem__ on the attention mask"):
        tapped(model, padded())
    handle.remove()
    assert torch.equal(logits(model, padded()), tapped(model, padded())[0])


def test_attention_of_another_kind_refuses_the_mask():
    model, inputs = build("llama"), padded()

    def swap(*_):
        ALL_ATTENTION_FUNCTIONS["sdpa"] = lambda *args, **kwargs: None

    model.model.layers[1].register_forward_pre_hook(swap)
    try:
        with pytest.raises(ModelError, match=r"LlamaModel: LlamaAttention .* gave its own function"):
            tapped(model, inputs)
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def test_what_needs_no_mask_gets_none():
    model = build("qwen2-window")
    _, calls = tapped(model, padded([1600]))
    assert calls[0].mask is None
    assert isinstance(calls[1].mask, LazyMask)
