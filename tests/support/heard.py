"""Calls of attention: inside real models, as the switch observes them and as the tap hands them on; and made-up ones."""

import contextlib
from types import SimpleNamespace

import torch
from tiny_models import kind

from probe.taps.hf import HFTap, sites
from probe.taps.interface import Observed, listen, unlisten
from probe.taps.rules.derive import Rules


@contextlib.contextmanager
def observing(model, hear):
    """Have `hear(module name, Observed)` told of every call that goes through the interface, at its time."""
    names = {id(site.module): site.name for site in sites(model)}
    interfaces = {id(site.interface): site.interface for site in sites(model)}.values()

    def tell(seen):
        hear(names[id(seen.module)], seen)

    for interface in interfaces:
        listen(interface, tell)
    try:
        yield
    finally:
        for interface in interfaces:
            unlisten(interface, tell)


def generating(model, inputs, hear, steps=6, **options):
    """Generate greedily; `hear(name, Observed, positions so far)` is told of every call while the cache is as it was."""
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    total = [0]

    def count(_, __, given):
        ids = given.get("decoder_input_ids")
        total[0] += (given["input_ids"] if ids is None else ids).shape[1]

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        with observing(model, lambda name, seen: hear(name, seen, total[0])), torch.no_grad():
            return model.generate(**inputs, max_new_tokens=steps, do_sample=False, **options)
    finally:
        hook.remove()


def calls_of(name, model, inputs, **options):
    """The calls of one forward pass, through the tap, with the padding that the inputs tell."""
    found = []
    with torch.no_grad(), HFTap(model, found.append, valid=padding_of(name, inputs), **options):
        model(**inputs)
    return found


def padding_of(name, inputs):
    """A function from a group of positions to what of it is no padding, as the inputs of `tiny(name)` tell it."""
    mask, kinds = inputs.get("attention_mask"), kind(name)
    known = {"tokens": mask}
    if kinds in ("encoder-decoder", "speech"):
        known = {"tokens": inputs.get("decoder_attention_mask"), "source": mask}
    elif kinds == "cross-decoder":
        known["source"] = inputs.get("encoder_attention_mask")
    known = {group: mask.bool() for group, mask in known.items() if mask is not None and mask.ndim == 2}
    return known.get


def eager(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    raise NotImplementedError


def observed(
    mask=None, *, function=eager, default=eager, causal=True, n=(6, 6), config=None, batch=2, **arguments
):
    module = torch.nn.Module().eval()
    module.is_causal = causal
    module.config = SimpleNamespace(**(config or {}))
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(batch, 2, size, 4, generator=generator) for size in n)
    given = {"query": q, "key": k, "value": k, "attention_mask": mask, "scaling": 0.5, **arguments}
    return Observed(module, "mine", function, default, given, q)


def sdpa():
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward


def flash():
    from transformers.integrations.flash_attention import flash_attention_forward

    return flash_attention_forward


def packed_lengths(ends, function=None):
    given = {"function": function or flash(), "batch": 1}
    ends = torch.tensor(ends, dtype=torch.int32)
    return given | {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 4, "max_length_k": 4}


def derive(seen, name, valid=None, rules=None, **options):
    """The rule of a call whose queries are the last of the positions that `valid` tells of."""
    n_queries = seen.arguments["query"].shape[2]
    queries = None if valid is None else valid[:, valid.shape[1] - n_queries :]
    return (rules or Rules()).derive(seen, name, query_valid=queries, key_valid=valid, **options)
