"""Settings of an image processor, as the processor itself states them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import InputError, ModelError
from probe.families.vision._canvas import Size

_HINT = "give the processor, or its to_dict()"


@dataclass(frozen=True, eq=False)
class Settings:
    """Settings of one processor.

    Attributes:
        kind: name of its class, without the ending that names the backend.
        backend: "pil" or "torchvision", None where the settings do not say.
        values: the settings by name.
    """

    kind: str
    backend: str | None
    values: Mapping[str, Any]

    def flag(self, name: str) -> bool:
        """A switch; one that is not named is off, as in the processor's own dictionary."""
        return bool(self.values.get(name))

    def number(self, name: str) -> int:
        """A positive whole number.

        Raises:
            InputError: it is missing, or something else.
        """
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(f"{self.kind}: got {name} {value!r}, expected a whole number above 0; {_HINT}")
        return int(value)

    def sides(self, name: str) -> dict[str, int]:
        """A size by the names of its sides ("height", "width", "shortest_edge", "longest_edge", …).

        Raises:
            InputError: it is missing, or not of that form.
        """
        value = self.values.get(name)
        named: Any = value if hasattr(value, "keys") else {}
        items = {str(side): named[side] for side in named.keys() if named[side] is not None}  # noqa: SIM118
        if not items or not all(isinstance(v, (int, np.integer)) and v > 0 for v in items.values()):
            raise InputError(
                f"{self.kind}: got {name} {value!r}, expected sides by name, as height and width; {_HINT}"
            )
        return {side: int(length) for side, length in items.items()}


def read(given: object, part: str, kinds: Mapping[str, Collection[str]]) -> Settings:
    """Read the settings of one part of a processor.

    Args:
        given: the processor, one of its parts, or the `to_dict()` of either.
        part: "image_processor", "video_processor" or "feature_extractor".
        kinds: classes whose geometry is known, and the settings that each of them states in any case.

    Raises:
        InputError: no settings, or not enough of them.
        ModelError: another class of processor.
    """
    inner = given.get(part) if isinstance(given, Mapping) else getattr(given, part, None)
    source: Any = given if inner is None else inner
    if isinstance(source, Mapping):
        values: Mapping[str, Any] = source
        name = source.get(f"{part}_type")
    else:
        values = source.to_dict() if hasattr(source, "to_dict") else {}
        name = type(source).__name__ if values else None
    if not isinstance(name, str):
        got = type(given).__name__
        raise InputError(f"processor_settings: got {got} without {part}_type, expected the {part}; {_HINT}")
    kind = name.removesuffix("Pil").removesuffix("Fast")
    if kind not in kinds:
        raise ModelError(f"{name}: where its pixels come from is known for {', '.join(sorted(kinds))} only")
    missing = [item for item in kinds[kind] if values.get(item) is None]
    if missing:
        raise InputError(f"{kind}: its settings lack {', '.join(missing)}; {_HINT}")
    backend = "pil" if name.endswith("Pil") else getattr(source, "backend", None)
    return Settings(kind, backend if isinstance(backend, str) else None, values)


def array(value: Any) -> NDArray[Any]:
    """The values of a tensor (on any device) or array."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def required(inputs: Mapping[str, Any], name: str, ndim: int | None = None) -> Any:
    """One of the model's inputs.

    Raises:
        InputError: it is missing, or has another number of dimensions.
    """
    value = inputs.get(name)
    if value is None:
        raise InputError(
            f"inputs: got {', '.join(map(str, inputs)) or 'nothing'}, expected {name} among them"
        )
    if ndim is not None and len(value.shape) != ndim:
        raise InputError(f"{name}: got shape {list(value.shape)}, expected {ndim} dimensions")
    return value


def sizes(images: Sequence[Any]) -> list[Size]:
    """The original sizes of pictures, checked.

    Raises:
        InputError: one is not (height, width) in whole pixels.
    """
    for number, size in enumerate(images):
        good = isinstance(size, (tuple, list)) and len(size) == 2
        if not good or not all(isinstance(n, (int, np.integer)) and n > 0 for n in size):
            raise InputError(f"images: got {size!r} as number {number}, expected (height, width) in pixels")
    return [(int(size[0]), int(size[1])) for size in images]


def square(config: Any, name: str, owner: str) -> int:
    """A side of square patches or pictures in a model's configuration.

    Raises:
        ModelError: not one whole number (or the same one twice).
    """
    value = getattr(config, name, None)
    pair = list(value) if isinstance(value, (tuple, list)) else [value]
    if len(set(pair)) != 1 or not isinstance(pair[0], int) or pair[0] < 1:
        raise ModelError(
            f"{owner}: its {name} is {value!r}, expected one whole number; only squares are supported"
        )
    return int(pair[0])
