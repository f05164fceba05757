"""Head types: which heads look at the token before, copy what followed an earlier copy, or rest on the first."""

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import xarray as xr

from probe.errors import InputError
from probe.explainers._head_types.scores import KINDS_OF_HEADS, kinds_of, scores_of
from probe.explainers._rollout.step import one_sample
from probe.explainers.layers import Layer, each_layer
from probe.explainers.spec import Interval, Text, explainer
from probe.explainers.tables import LayerTable
from probe.record import strings

if TYPE_CHECKING:
    import torch


@explainer(
    title="Head types",
    shape="runs",
    kind="head_table",
    references=(
        "Olsson et al., In-context Learning and Induction Heads, 2022 (arXiv 2209.11895)",
        "Clark et al., What Does BERT Look At?, BlackboxNLP 2019 (arXiv 1906.04341), §3",
        "Wang et al., Interpretability in the Wild, ICLR 2023 (arXiv 2211.00593): duplicate-token heads",
    ),
)
def head_types(
    source: Any,
    inputs: Any = None,
    *,
    threshold: Annotated[float, Interval(0, 1, "least mean mass that makes a head one of a kind")] = 0.4,
    lift: Annotated[float, Interval(1, 1000, "least ratio to what an even head would give")] = 2.0,
    max_offset: Annotated[int, Interval(1, 64, "largest distance of a positional head")] = 8,
    window: Annotated[int, Interval(1, 64, "tokens that are local, the token itself included")] = 4,
    random_tokens: Annotated[
        int, Interval(2, 100_000, "without inputs: length of the random sequence that is repeated")
    ] = 40,
    batch: Annotated[int, Interval(1, 1024, "without inputs: how many such sequences")] = 4,
    seed: Annotated[int, Interval(0, 2**31, "without inputs: of the draw")] = 0,
    layers: Annotated[str | None, Text("numbers joined by commas")] = None,
    tower: Annotated[str, Text("which tower")] = "text",
) -> xr.Dataset:
    """Of which kind each head is, with the evidence: the mean mass that it gives to the keys of each kind.

    first_token: the first token. previous_token: i − 1. offset: the best other distance up to `max_offset`. local: all within
    `window`. duplicate_token: other copies of the token. induction: what followed other copies of it. separator:
    punctuation, line
    breaks and special tokens behind the first. Means are over the rows that see such a key and another one; `…_chance`
    is what a
    head that spreads evenly would give in the same rows. All are exact, from lists of pairs and one sweep, at any length.

    Args:
        source: a record that kept q, k and v, or a model.
        inputs: of the model; without them it gets random tokens, repeated once, on which nothing but copying helps.
        threshold: least score; of several kinds that reach it the highest wins; first_token comes into question where no
            other does (a head rests there when what it looks for is missing), local last.
        lift: least ratio of the score to the chance.
        max_offset: of positional heads.
        window: of local heads.
        random_tokens: of the sequence that is repeated.
        batch: of such sequences.
        seed: of the draw.
        layers: which layers; all without it.
        tower: which tower.

    Returns:
        head_table: score, that of the head's kind, or the highest where no kind holds; type, its kind or ""; mark, the
            same in short; each
        kind's score and chance, means over samples; offset_of, the best offset (positive: before).

    Raises:
        InputError: a source whose token ids are not known, attention between two sequences, or no inputs for a model without a
            vocabulary.
        RecordError: the record kept no q and k.
    """
    drawn = inputs is None and not isinstance(source, xr.DataTree)
    if drawn:
        inputs = _repeated(source, random_tokens, batch, seed)
    table = LayerTable()

    def take(layer: Layer) -> None:
        samples = range(len(layer.q))
        table.add(layer, [scores_of(one_sample(layer, s), s, max_offset, window) for s in samples])

    origin = each_layer(source, inputs, tower, take, layers=layers)
    result = table.dataset()
    labels, strength = kinds_of({str(n): v.values for n, v in result.data_vars.items()}, threshold, lift)
    marks = [[KINDS_OF_HEADS.get(str(label), "") for label in row] for row in labels]
    over = ("layer", "head")
    first = {
        "score": (over, strength),
        "type": (over, strings(labels.tolist())),
        "mark": (over, strings(marks)),
    }
    evidence = [name for kind in KINDS_OF_HEADS for name in (kind, f"{kind}_chance")]
    result = xr.Dataset(first, coords=result.coords).merge(result[[*evidence, "offset_of"]])
    result.attrs = {**origin, "unit": "1", "value": "score", "mark": "mark"}
    result.attrs["averaging"] = "mean over the rows of a sample that see such a key, then over samples"
    if drawn:
        result.attrs["note"] = (
            f"The input is {batch} sequences of {random_tokens} random tokens, each repeated once (seed {seed})."
        )
    return result


def _repeated(model: Any, length: int, batch: int, seed: int) -> dict[str, "torch.Tensor"]:
    """Random tokens of the model's vocabulary, special ones left out, each sequence twice in a row."""
    import torch

    from probe._inputs import parts, tokenizer_of

    try:
        found, tokenizer = parts(model)
    except InputError:
        raise InputError(
            f"expected a record (probe.capture or probe.open_record) or a model, got {type(model).__name__}"
        ) from None
    module: Any = found
    size = getattr(getattr(module, "cfg", None), "d_vocab", None)
    if hasattr(module, "get_input_embeddings"):
        size = getattr(module.get_input_embeddings(), "num_embeddings", size)
    if not isinstance(size, int):
        raise InputError(
            f"inputs: {type(module).__name__} shows no vocabulary to draw from; give a text or input_ids"
        )
    special = set(getattr(tokenizer_of(tokenizer), "all_special_ids", ()) or ())
    allowed = np.array([i for i in range(size) if i not in special])
    draw = np.random.default_rng(seed)
    once = allowed[
        np.stack([draw.choice(len(allowed), length, replace=length > len(allowed)) for _ in range(batch)])
    ]
    ids = torch.from_numpy(np.concatenate([once, once], 1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
