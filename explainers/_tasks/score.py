"""Log-likelihoods of whole answers: a padded prefill of the prompts, then the answers' tokens on its cache."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from probe._inputs import accepts, device_of
from probe.errors import InputError, ModelError
from probe.explainers._tasks.encode import encode, first_ids
from probe.explainers._tasks.items import Task

NORMALISE = ("sum", "token", "byte")
Floats = NDArray[np.float64]


class Scorer:
    """A task made ready for one model: tokens, batches of similar length, lengths to normalise by.

    Args:
        loaded: from `probe.load`, of the task text-generation.
        task: the items.
        normalise: see `score_task`.
        batch_size: prompts in one forward pass.

    Raises:
        InputError: see `score_task`.
        ModelError: see `score_task`.
    """

    def __init__(self, loaded: Any, task: Task, *, normalise: str = "sum", batch_size: int = 16) -> None:
        if normalise not in NORMALISE:
            raise InputError(f"normalise: got {normalise!r}, expected one of {', '.join(NORMALISE)}")
        if batch_size < 1:
            raise InputError(f"batch_size: got {batch_size}, expected at least 1")
        self.model, tokenizer = _checked(loaded)
        self.name, self.task, self.normalise = str(loaded.name), task, normalise
        prefix, limit = first_ids(tokenizer), _limit(self.model, tokenizer)
        self.encoded = [encode(item, tokenizer, prefix, limit) for item in task.items]
        self.pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        order = sorted(range(len(self.encoded)), key=lambda i: len(self.encoded[i].prompt))
        self.batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        self.answers = np.array([item.answer for item in task.items])

    @property
    def one_token(self) -> bool:
        """Whether every choice is one token, so that one pass over the prompts scores everything."""
        return all(len(choice) == 1 for item in self.encoded for choice in item.choices)

    def scores(
        self,
        *,
        before: Callable[[int], object] | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Floats:
        """Scores [items, choices] in nats, NaN beyond an item's own choices.

        Args:
            before: called with the number of each batch before it runs.
            progress: called with (done, expected, name) after each batch.

        Raises:
            ModelError: a score is not finite.
        """
        widest = max(len(item.choices) for item in self.encoded)
        found = np.full((len(self.encoded), widest), np.nan)
        for number, rows in enumerate(self.batches):
            if before is not None:
                before(number)
            for row, values in zip(rows, self.batch(number), strict=True):
                found[row, : len(values)] = values
            if progress is not None:
                progress(number + 1, len(self.batches), self.task.name)
        for row, item in enumerate(self.encoded):
            if not np.isfinite(found[row, : len(item.choices)]).all():
                raise ModelError(
                    f"{self.task.items[row].where}: {self.name} gives scores that are not finite (NaN or infinite)"
                )
        return found / self._sizes(widest)

    def _sizes(self, widest: int) -> Floats:
        sizes = np.ones((len(self.encoded), widest))
        for row, (item, ids) in enumerate(zip(self.task.items, self.encoded, strict=True)):
            for place, (text, tokens) in enumerate(zip(item.choices, ids.choices, strict=True)):
                size = {"sum": 1, "token": len(tokens), "byte": len(text.encode())}[self.normalise]
                sizes[row, place] = size
        return sizes

    @torch.no_grad()
    def batch(self, number: int) -> list[list[float]]:
        """Σ log p of each choice of each item of one batch, in the order of `batches`."""
        items = [self.encoded[row] for row in self.batches[number]]
        device = device_of(self.model)
        prompts, mask = _padded([item.prompt for item in items], self.pad, left=True)
        prompts, mask = prompts.to(device), mask.to(device)
        longest = max(len(choice) for item in items for choice in item.choices)
        cache = self._new_cache() if longest > 1 else None
        first = self._logits(prompts, mask, cache, keep=1)[:, -1]
        first = torch.log_softmax(first.float(), -1)
        values = [[first[b, c[0]].item() for c in item.choices] for b, item in enumerate(items)]
        if cache is None:
            return values
        fed = 0  # tokens of the last choice in the cache
        for place in range(max(len(item.choices) for item in items)):
            rest = [item.choices[place] if place < len(item.choices) else () for item in items]
            if max(map(len, rest)) < 2:
                continue
            if fed and getattr(cache, "is_croppable", False):
                cache.crop(-fed)
            elif fed:  # a sliding cache has let go of the prompt's beginning
                cache = self._new_cache()
                self._logits(prompts, mask, cache, keep=1)
            fed = max(map(len, rest)) - 1
            for b, more in enumerate(self._continued(rest, mask, cache)):
                if rest[b]:
                    values[b][place] += more
        return values

    def _continued(self, choices: Sequence[tuple[int, ...]], mask: Tensor, cache: Any) -> list[float]:
        """Σ log p of the tokens of each choice after its first, given the prompts in the cache."""
        given, valid = _padded([choice[:-1] for choice in choices], self.pad, left=False)
        given, valid = given.to(mask.device), valid.to(mask.device)
        logits = self._logits(given, torch.cat([mask, valid], 1), cache, keep=0)
        logs = torch.log_softmax(logits.float(), -1)
        return [
            sum(logs[b, i, token].item() for i, token in enumerate(choice[1:]))
            for b, choice in enumerate(choices)
        ]

    def _logits(self, ids: Tensor, mask: Tensor, cache: Any, *, keep: int) -> Tensor:
        """Logits of the last `keep` positions, of all for 0."""
        asked: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": cache is not None}
        if accepts(self.model, "position_ids"):
            asked["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if keep and accepts(self.model, "logits_to_keep"):
            asked["logits_to_keep"] = keep
        if cache is not None:
            asked["cache" if accepts(self.model, "cache") else "past_key_values"] = cache
        logits: Tensor = self.model(**asked).logits
        return logits

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)


def _checked(loaded: Any) -> tuple[torch.nn.Module, Any]:
    model, tokenizer, task = (getattr(loaded, name, None) for name in ("model", "processor", "task"))
    if not isinstance(model, torch.nn.Module) or tokenizer is None:
        raise InputError(f"expected a model from probe.load, got {type(loaded).__name__}")
    if task != "text-generation":
        raise ModelError(f"{loaded.name} is a {task} model; answers are scored by text-generation models")
    if any(module.training for module in model.modules()):
        raise ModelError(
            "the model is in training mode (dropout makes every run differ); call model.eval() first"
        )
    return model, tokenizer


def _limit(model: Any, tokenizer: Any) -> int | None:
    found = [
        getattr(tokenizer, "model_max_length", None),
        getattr(model.config, "max_position_embeddings", None),
    ]
    return min((int(n) for n in found if isinstance(n, int) and 0 < n < 1 << 40), default=None)


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Ids and mask (1 where no padding), [rows, longest]."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        span = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[number, span] = torch.tensor(row, dtype=torch.long)
        mask[number, span] = 1
    return ids, mask


def losses(scores: Floats, answers: NDArray[np.int64]) -> Floats:
    """−log of the answer's share of exp(score) among its item's choices, [items]."""
    known = np.isfinite(scores)
    top = np.max(scores, axis=1, where=known, initial=-np.inf)
    total = np.log(np.exp(np.where(known, scores, -np.inf) - top[:, None]).sum(axis=1)) + top
    return np.asarray(total - scores[np.arange(len(scores)), answers])


def predictions(scores: Floats) -> NDArray[np.int64]:
    """The most likely choice of each item; of equal ones the first."""
    return np.asarray(np.where(np.isfinite(scores), scores, -np.inf).argmax(axis=1))


def as_dataset(scorer: Scorer, scores: Floats) -> xr.Dataset:
    """What `score_task` returns."""
    predicted, loss = predictions(scores), losses(scores, scorer.answers)
    found = xr.Dataset(
        {
            "score": (("item", "choice"), scores),
            "answer": ("item", scorer.answers),
            "prediction": ("item", predicted),
            "correct": ("item", predicted == scorer.answers),
            "loss": ("item", loss),
        }
    )
    found.attrs = {
        "accuracy": float((predicted == scorer.answers).mean()),
        "loss": float(loss.mean()),
        "task": scorer.task.name,
        "task_sha256": scorer.task.digest,
        "model": scorer.name,
        "normalise": scorer.normalise,
        "unit": "nat",
    }
    return found
