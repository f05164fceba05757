"""What is explained: a network, a picture as the network sees it, and one of its outputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probe._pictures import read_picture, source_of
from probe.errors import InputError, ModelError

MOST_SIDE = 2048


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and one picture.

    Attributes:
        model: in eval mode.
        name: what it is called.
        inputs: the prepared picture, [1, C, H, W].
        view: what the network sees of the picture, [H, W, 3].
        logits: [classes].
        labels: names of the outputs.
        exclusive: how many leading outputs are logits of exclusive classes.
        target: the output that is explained.
        source: the picture's file, or "".
        box: the part of the whole picture that is seen (left, top, right, bottom in its pixels), () if unknown.
    """

    model: nn.Module
    name: str
    inputs: Tensor
    view: NDArray[np.uint8]
    logits: Tensor
    labels: dict[int, str]
    exclusive: int
    target: int
    source: str
    box: tuple[float, ...]

    def label(self, index: int) -> str:
        """The name of an output."""
        return self.labels.get(index, f"class {index}")

    @property
    def predicted(self) -> int:
        """The highest of the exclusive classes."""
        return int(self.logits[: self.exclusive].argmax())

    def answer(self) -> dict[str, Any]:
        """What a result says of the network's answer and of the output that is explained."""
        said, target = self.predicted, self.target
        chances = [float(self.probability(self.logits[None], index)) for index in (target, said)]
        return {
            "model": self.name,
            "target": self.label(target),
            "target_probability": chances[0],
            "prediction": self.label(said),
            "prediction_probability": chances[1],
            "input": self.source,
            "task": "image-classification",
        }

    def probability(self, logits: Tensor, index: int) -> Tensor:
        """Softmax over the exclusive classes, [B]; NaN for an output that is no class."""
        if index >= self.exclusive:
            return torch.full(logits.shape[:1], float("nan"))
        return logits[:, : self.exclusive].softmax(-1)[:, index]


def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits [B, classes], float32.

    Raises:
        ModelError: the output is something else, or not finite.
    """
    output = model(inputs)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ModelError(
            f"{type(model).__name__} gives {type(output).__name__}, expected logits [B, classes] of a picture"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the network's outputs are not finite: its weights or its number format are broken")
    return logits.float()


def open_subject(loaded: Any, picture: Any, target: str | None) -> Subject:
    """Prepare the picture, run the network once and settle the target.

    Args:
        loaded: from `probe.load`, or any object with model, processor and name; or a bare module, for which `picture` must
            be a prepared tensor.
        picture: a file, a picture of Pillow, an array, or a prepared tensor [1, C, H, W].
        target: name or number of an output; None takes the prediction.

    Raises:
        InputError: a picture or a target that cannot be used.
        ModelError: a network in training mode, or without logits.
    """
    model = loaded if isinstance(loaded, nn.Module) else getattr(loaded, "model", None)
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a model from probe.load or a torch module, got {type(loaded).__name__}")
    inputs, view, box = _prepared(loaded, picture)
    if any(module.training for module in model.modules()):
        raise ModelError(
            "the model is in training mode (dropout makes every run differ); call model.eval() first"
        )
    weight = next(model.parameters(), None)
    if weight is not None:
        inputs = inputs.to(weight.device, weight.dtype)
    with torch.no_grad():
        logits = logits_of(model, inputs)[0].cpu()
    config = getattr(model, "config", None)
    labels = {int(index): str(label) for index, label in (getattr(config, "id2label", None) or {}).items()}
    exclusive = int(getattr(config, "softmax", 0)) or len(logits)
    name = str(getattr(loaded, "name", type(model).__name__))
    source = source_of(picture)
    predicted = int(logits[:exclusive].argmax())
    index = predicted if target is None else _output(target, labels, len(logits))
    return Subject(model, name, inputs, view, logits, labels, exclusive, index, source, box)


def _prepared(loaded: Any, picture: Any) -> tuple[Tensor, NDArray[np.uint8], tuple[float, ...]]:
    if isinstance(picture, Tensor):
        fits = picture.ndim == 4 and picture.shape[0] == 1 and picture.shape[1] in (1, 3)
        if not fits or not picture.is_floating_point() or 0 in picture.shape:
            raise InputError(
                f"picture: got {picture.dtype} {list(picture.shape)}, expected floats [1, 1 or 3, H, W]"
            )
        if max(picture.shape[2:]) > MOST_SIDE:
            raise InputError(
                f"picture: {list(picture.shape)}, at most {MOST_SIDE} pixels a side are explained"
            )
        if not bool(torch.isfinite(picture).all()):
            raise InputError("picture: NaN or infinity in it")
        shown = picture[0].detach().float().cpu()
        low, high = shown.amin(), shown.amax()
        scaled = ((shown - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
        return picture.detach(), scaled.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy(), ()
    processor: Any = getattr(loaded, "processor", None)
    if not hasattr(processor, "view"):
        task = getattr(loaded, "task", type(loaded).__name__)
        raise ModelError(
            f"a {task} model takes no pictures: choose one that does (`probe models`), or give a prepared tensor [1, C, H, W]"
        )
    whole = read_picture(picture)
    view = processor.view(whole)
    return processor.prepared(view), view, tuple(processor.box(*whole.size))


def _output(asked: str, labels: dict[int, str], count: int) -> int:
    """The output of that name or number."""
    wanted = asked.strip().lower()
    named = [index for index, label in labels.items() if label.lower() == wanted]
    if len(named) == 1:
        return named[0]
    if wanted.isdecimal() and int(wanted) < count:
        return int(wanted)
    import difflib

    near = difflib.get_close_matches(wanted, [label.lower() for label in labels.values()], 3, 0.5)
    near += [
        label for label in labels.values() if wanted and wanted in label.lower() and label.lower() not in near
    ]
    hint = f"; near it: {', '.join(near[:5])}" if near else ""
    raise InputError(f"target = {asked!r} is no output of this model: a name or a number below {count}{hint}")
