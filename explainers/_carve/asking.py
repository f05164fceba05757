"""Asking a vision-language model, and hearing where each step of its answer looks: one row of attention a step, no map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError, ModelError
from probe.explainers._carve.grids import image_places
from probe.placement import ready


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model said, and where it looked.

    Attributes:
        text: the answer.
        words: each generated token as text, the end token included.
        probability: of the whole answer, as the model decoded it.
        rows: attention of the step that predicts each token to the image tokens, [steps, layers, heads, N]; or empty.
        layers: numbers of the layers.
        table: where the image tokens lie, of `probe.families.vision.image_tokens`.
        places: positions of the image tokens in the prompt.
        tokens: length of the prompt.
    """

    text: str
    words: list[str]
    probability: float
    rows: NDArray[np.float32]
    layers: tuple[int, ...]
    table: xr.Dataset
    places: NDArray[np.intp]
    tokens: int


def module_of(model: Any) -> tuple[torch.nn.Module, Any]:
    """The model and its processor.

    Raises:
        InputError: no processor of pictures and text came with it.
        ModelError: a model that does not read pictures and text, or one in training mode.
    """
    module, processor = getattr(model, "model", None), getattr(model, "processor", None)
    if isinstance(model, torch.nn.Module) or not isinstance(module, torch.nn.Module):
        raise InputError(
            f"model: got {type(model).__name__}, expected what probe.load gives: a vision-language model with its processor"
        )
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"a {getattr(model, 'task', type(module).__name__)} model answers no questions about pictures: choose a "
            "vision-language model (`probe models`, for example vqa)"
        )
    ready(module)
    return module, processor


def depth(module: torch.nn.Module) -> int:
    """How many layers the text model has."""
    config: Any = module.config
    return int(config.get_text_config().num_hidden_layers)


def prompt_of(processor: Any, text: str, pictures: int) -> str:
    """The prompt of one turn with so many pictures before the text, as the processor's own chat template writes it."""
    content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]
    template = getattr(processor, "chat_template", None) or getattr(
        processor.tokenizer, "chat_template", None
    )
    if template:
        turn = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
    token = getattr(processor, "image_token", None) or "<image>"
    return str(token) * pictures + text


def prepared(
    module: torch.nn.Module, processor: Any, pictures: Sequence[Any], text: str
) -> tuple[dict[str, torch.Tensor], xr.Dataset, NDArray[np.intp]]:
    """What the model is given for a text about pictures, the geometry of its image tokens, and where the first picture's are.

    Raises:
        InputError: the processor refuses the picture or the text, or the prompt holds no image token.
        ModelError: a model whose geometry is not known exactly.
    """
    from probe.families.vision import image_tokens

    prompt = prompt_of(processor, text, len(pictures))
    try:
        inputs = processor(images=list(pictures), text=[prompt], return_tensors="pt")
    except ValueError as error:
        raise InputError(
            f"the model's processor refuses this picture or prompt: {str(error).splitlines()[0]}"
        ) from error
    place = next(module.parameters())
    given = {
        n: x.to(place.device, place.dtype if x.is_floating_point() else None)
        for n, x in dict(inputs).items()
        if isinstance(x, torch.Tensor)
    }
    sizes = [(p.height, p.width) for p in pictures]
    table = image_tokens(module.config, given["input_ids"], given, sizes, processor)
    places = image_places(table)
    if not len(places):
        raise InputError(
            "the prompt holds no token of the picture: the processor and the model do not fit together"
        )
    return given, table, places


def ask(
    model: Any, pictures: Sequence[Any], text: str, *, layers: Sequence[int] = (), most: int = 32
) -> Answer:
    """Greedy answer to a text about pictures, with the attention of each step to the first picture's tokens.

    The model runs as it always does, with its cache; from each layer's call the last row alone is taken, and of it the image
    tokens alone.

    Args:
        model: what `probe.load` gave.
        pictures: of Pillow, in RGB.
        text: the question or instruction.
        layers: numbers of the text model's layers to hear; none for the answer alone.
        most: tokens of the answer.

    Raises:
        InputError: the prompt holds no image token.
        ModelError: a model whose attention or geometry is not known exactly.
    """
    module, processor = module_of(model)
    given, table, places = prepared(module, processor, pictures, text)
    hear = _Ear(places)
    run: Any = module.generate
    settings = {"max_new_tokens": most, "do_sample": False, "num_beams": 1, "output_logits": True}
    with hear.on(module, layers), torch.no_grad():
        output = run(**given, **settings, return_dict_in_generate=True)
    length = int(given["input_ids"].shape[1])
    made = output.sequences[0, length:]
    chances = [float(x[0].float().softmax(-1)[t]) for x, t in zip(output.logits, made.tolist(), strict=True)]
    decode = processor.tokenizer
    said = decode.decode(made, skip_special_tokens=True).strip()
    words = [decode.decode([t]) for t in made.tolist()]
    rows = hear.rows(len(made), layers)
    return Answer(said, words, float(np.prod(chances)), rows, tuple(layers), table, places, length)


class _Ear:
    """Takes the last row of each call."""

    def __init__(self, places: NDArray[np.intp]) -> None:
        self.places = torch.from_numpy(places)
        self.heard: dict[int, list[NDArray[np.float32]]] = {}

    def on(self, module: torch.nn.Module, layers: Sequence[int]) -> Any:
        """A context in which the layers are heard."""
        from contextlib import nullcontext

        from probe.taps.hf import HFTap
        from probe.taps.streams import main_stream

        if not layers:
            return nullcontext()
        return HFTap(module, self._take, layers=list(layers), towers=[main_stream(module).name], passes=True)

    def _take(self, call: Any) -> None:
        from probe.generation.steps import latest
        from probe.kernels.row_pass import row_stats
        from probe.kernels.tile import tile

        last = latest(call, 1, torch.zeros(1, dtype=torch.bool))
        lse = row_stats(last.q, last.k, last.spec, ("lse",))["lse"]
        row = tile(last.q, last.k, last.spec, lse, range(1), self.places)
        self.heard.setdefault(call.layer, []).append(row[0, :, 0].float().cpu().numpy())

    def rows(self, steps: int, layers: Sequence[int]) -> NDArray[np.float32]:
        """[steps, layers, heads, N]."""
        if not layers:
            return np.zeros((0, 0, 0, len(self.places)), np.float32)
        if any(len(self.heard.get(layer, ())) < steps for layer in layers):
            raise ModelError(
                "the model ran fewer passes than its answer has tokens: it goes a way of its own"
            )
        return np.stack([np.stack(self.heard[layer][:steps]) for layer in layers], axis=1)
