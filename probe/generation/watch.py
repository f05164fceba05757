"""Watching `generate()`: which positions each forward pass feeds, which samples have ended, which beams go on.

The model's own methods run as they are; three of them and the forward pass are watched through attributes of the instance and a
hook, which are taken away again on every way out.
"""

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from probe.errors import InputError, ModelError

_MODES = {"greedy_search", "sample", "beam_search", "beam_sample"}


def refuse(model: Any, generate: Mapping[str, Any], batch: int) -> Any:
    """Refuse by name what cannot be followed exactly, before anything runs.

    Args:
        model: the model.
        generate: the arguments of its `generate`, without the inputs.
        batch: how many samples the inputs hold.

    Returns:
        The merged generation config that `generate` will use.

    Raises:
        ModelError: a model without transformers' own `generate`, or an encoder-decoder.
        InputError: an argument that asks for something that cannot be followed.
    """
    from transformers import GenerationMixin

    name = type(model).__name__
    if not isinstance(model, GenerationMixin):
        raise ModelError(f"{name}: has no generate() of transformers; give the transformers model itself")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name}: generation of an encoder-decoder cannot be captured; capture its forward pass"
        )
    given = {n: x for n, x in generate.items() if n not in ("generation_config", "assistant_model")}
    config, _ = model._prepare_generation_config(generate.get("generation_config"), **given)
    mode = str(getattr(config.get_generation_mode(generate.get("assistant_model")), "value", ""))
    found = None
    if generate.get("custom_generate") is not None:
        found = "custom_generate: a decoding loop of one's own"
    elif mode not in _MODES:
        found = f"{mode.replace('_', ' ')}: its passes feed tokens that are taken back"
    elif config.cache_implementation in ("quantized", "paged"):
        found = (
            f"cache_implementation={config.cache_implementation!r}: later steps read other keys than were fed"
        )
    elif config.guidance_scale not in (None, 1, 1.0) or generate.get("negative_prompt_ids") is not None:
        found = "guidance: the model also runs over a second prompt"
    elif generate.get("inputs_embeds") is not None:
        found = "inputs_embeds: the tokens of the prompt are not known"
    elif _filled(generate.get("past_key_values")):
        found = "past_key_values is filled: what it holds was not heard"
    elif batch > 1 and config.num_beams in (None, 1) and _stops(config, generate):
        found = "stopping_criteria or stop_strings for several samples: where each one ended is not told"
    if found is not None:
        raise InputError(
            f"generate: got {found}; expected greedy search, sampling or beam search with a plain cache"
        )
    return config


def _cache(kwargs: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a pass, under the name that this version of transformers gives it."""
    return kwargs.get("past_key_values", kwargs.get("cache"))


def _filled(cache: Any) -> bool:
    return cache is not None and (not hasattr(cache, "get_seq_length") or int(cache.get_seq_length()) > 0)


def _stops(config: Any, generate: Mapping[str, Any]) -> bool:
    return bool(generate.get("stopping_criteria")) or getattr(config, "stop_strings", None) is not None


class Watch:
    """Follows one run of `generate`; a context manager around it.

    Args:
        model: the model.
        begin: called before each pass, after the state below was brought up to date.
        descend: called with the beam [B] that each of the next pass's rows goes on from.
        keep: called with hypotheses that beam search holds as finished, as rows of `beam_indices`.

    Attributes:
        number: of the pass, from 0; -1 before the first.
        eos: ids that end a sample, or None.
        most: most passes that can come.
        cache: class of the cache, or "none".
        prompt: length of the prompt, padding included.
        total: positions fed so far, those of this pass included.
        new: how many of them this pass feeds for the first time.
        cached: whether earlier positions stand in a cache (else each pass feeds all again).
        ended: whether a sample had ended before this pass's new positions, [B].
        steps: number of the pass that fed each position.
        fed: ids of the new positions of each pass, [B, new].
        shared: what layers of this pass have in common: their masks cut, their keys counted.
        kept: `beam_indices` of the hypotheses held at the end, [batch, beams, steps]; None without beams.
    """

    def __init__(
        self,
        model: Any,
        begin: Callable[[], None],
        descend: Callable[[Int[Tensor, "B"]], None],
        keep: Callable[[Int[Tensor, "n steps"]], None],
    ) -> None:
        self._model = model
        self._begin, self._descend, self._keep = begin, descend, keep
        self.number, self.prompt, self.total, self.new = -1, 0, 0, 0
        self.cached = True
        self.cache = "none"
        self.steps: list[int] = []
        self.fed: list[Tensor] = []
        self.kept: Tensor | None = None
        self.shared: dict[object, Any] = {}
        self.beams = 1
        self._valid: Tensor | None = None
        self.eos: Tensor | None = None
        self.most = 0

    def __enter__(self) -> "Watch":
        watched = {
            "_prefill": self._seen_prefill,
            "_get_running_beams_for_next_iteration": self._seen_running,
            "_update_finished_beams": self._seen_finished,
        }
        missing = [name for name in watched if not hasattr(self._model, name)]
        if missing:
            raise self._astray(f"it has no {', '.join(missing)} in this version of transformers")
        self._before = {name: vars(self._model).get(name) for name in watched}
        self._hook = self._model.register_forward_pre_hook(self._pass, with_kwargs=True)
        for name, seen in watched.items():
            setattr(self._model, name, seen(getattr(self._model, name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()
        for name, before in self._before.items():
            delattr(self._model, name)
            if before is not None:
                setattr(self._model, name, before)

    def valid(self) -> Bool[Tensor, "B total"]:
        """Which positions so far the model takes for tokens: all but the padding of the prompt."""
        if self._valid is None:
            raise self._astray("no prompt was prepared")
        head = self._valid[:, : self.total]
        return torch.nn.functional.pad(head, (0, self.total - head.shape[1]), value=True)

    def _astray(self, what: str) -> ModelError:
        return ModelError(
            f"generate() of {type(self._model).__name__} goes a way of its own here ({what}); expected the greedy search, "
            "sampling or beam search of transformers"
        )

    def _seen_prefill(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(input_ids: Tensor, config: Any, kwargs: dict[str, Any], *args: Any, **more: Any) -> Any:
            if self._valid is not None:
                raise self._astray("a second prompt")
            mask = kwargs.get("attention_mask")
            self._valid = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
            self.prompt = input_ids.shape[1]
            self.ended = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
            self._ending = self.ended
            self.eos = config._eos_token_tensor
            self.most = config.max_length - self.prompt
            self.beams = config.num_beams or 1
            cache = _cache(kwargs)
            self.cached, self.cache = cache is not None, type(cache).__name__ if cache is not None else "none"
            _refuse_compiling(self._model, kwargs, config)
            return method(input_ids, config, kwargs, *args, **more)

        return watched

    def _pass(self, _: torch.nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids")
        if self._valid is None or not isinstance(ids, Tensor) or ids.shape[0] != self._valid.shape[0]:
            raise self._astray("a forward pass outside of its loop")
        self.number += 1
        self.new = ids.shape[1] if self.cached else ids.shape[1] - self.total
        self.total += self.new
        new = ids[:, ids.shape[1] - self.new :] if self.new > 0 else ids[:, :0]
        if self.new < 1 or (self.total > self.prompt and self.new > 1):
            raise self._astray(
                f"pass {self.number} feeds {ids.shape[1]} tokens after {self.total - self.new}"
            )
        self.ended = self._ending
        if self.total > self.prompt and self.eos is not None and self.beams == 1:
            self._ending = self.ended | torch.isin(new[:, -1], self.eos.to(new.device))
        self.shared = {}
        self.fed.append(new)
        self.steps += [self.number] * self.new
        self._begin()

    def _seen_running(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self._next = result[2][..., self.total - self.prompt].flatten()
            return result

        return watched

    def _seen_finished(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self.kept = result[2].clone()
            self._keep(self.kept.flatten(0, 1))
            self._descend(self._next.long())
            return result

        return watched


def _refuse_compiling(model: Any, kwargs: dict[str, Any], config: Any) -> None:
    """Refuse a decoding loop that transformers would compile: compiled attention cannot be heard."""
    variable = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(variable)
    compiles = model._valid_auto_compile_criteria(kwargs, config)
    if before is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = before
    if compiles:
        raise InputError(
            f"generate: {type(model).__name__} would be compiled for its {type(_cache(kwargs)).__name__}, and "
            "compiled attention cannot be heard; add disable_compile=True"
        )
