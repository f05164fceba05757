"""What the first layer of a tower fixes for all of them, and what is known of each layer that was written."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from probe.errors import ModelError, RecordError
from probe.record.schema import CELLS, COUNTS, RESERVED, Check, dims, strings
from probe.stats import STATS

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Written:
    """A layer that stands in the record.

    Attributes:
        stream: its tower.
        layer: its number.
        module: the module's name.
        facts: what else is known of it, in words.
        checks: its part of the validity report.
    """

    stream: str
    layer: int
    module: str
    facts: Mapping[str, str]
    checks: tuple[Check, ...]

    def line(self) -> str:
        """As one line of JSON; an error that is not a number survives."""
        return json.dumps(asdict(self), ensure_ascii=False, default=_plain)

    @classmethod
    def read(cls, line: str) -> "Written":
        """The layer that `line` was made of."""
        found = json.loads(line)
        return cls(**(found | {"checks": tuple(Check(**check) for check in found["checks"])}))


@dataclass
class Tower:
    """One tower while it is written.

    Attributes:
        name: its stream.
        queries: name of the group of positions of its queries.
        keys: name of the group of positions of its keys.
        stats: its statistics, in order.
        sizes: sizes of its dimensions without the layers.
        facts: names of the facts that each layer tells.
        layers: what was written.
    """

    name: str
    queries: str
    keys: str
    stats: tuple[str, ...]
    sizes: dict[str, int]
    facts: tuple[str, ...]
    layers: list[Written] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        stream: str,
        module: str,
        values: Mapping[str, Array],
        queries: str,
        keys: str,
        facts: Iterable[str],
    ) -> "Tower":
        """The tower that begins with this layer.

        Raises:
            RecordError: values that are no statistics, lack the counts, or do not fit each other.
        """
        stats = tuple(name for name in values if name not in COUNTS)
        unknown = [name for name in stats if name not in STATS]
        absent = [name for name in COUNTS if name not in values]
        if stream in RESERVED or unknown or absent or not stats:
            raise RecordError(
                f"{module}: got {', '.join(values) or 'nothing'} for /{stream}, expected statistics with "
                f"{' and '.join(COUNTS)}, in a tower not named {', '.join(RESERVED)}"
            )
        sizes: dict[str, int] = {}
        for name in values:
            sizes |= dict(zip(_along(name), values[name].shape, strict=False))
        tower = cls(stream, queries, keys, stats, sizes, tuple(facts))
        tower.check(module, values, queries, keys, facts)
        return tower

    @property
    def variables(self) -> tuple[str, ...]:
        """Its statistics and counts, in the order of the record."""
        return (*self.stats, *COUNTS)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of its group."""
        return {"stats": list(self.stats), "queries": self.queries, "keys": self.keys}

    def shape(self, name: str, layers: int) -> tuple[int, ...]:
        """The shape of a variable with this many layers."""
        return tuple(layers if along == "layer" else self.sizes[along] for along in dims(name))

    def check(
        self, module: str, values: Mapping[str, Array], queries: str, keys: str, facts: Iterable[str]
    ) -> None:
        """Check that a layer is like the first one.

        Raises:
            ModelError: other statistics, shapes, positions or facts.
        """
        want: dict[str, object] = {
            name: self.shape(name, 1)[:1] + self.shape(name, 1)[2:] for name in self.variables
        }
        got: dict[str, object] = {name: tuple(values[name].shape) for name in values}
        want |= {"queries": self.queries, "keys": self.keys, "facts": sorted(self.facts)}
        got |= {"queries": queries, "keys": keys, "facts": sorted(facts)}
        for name in dict.fromkeys((*want, *got)):
            if want.get(name) != got.get(name):
                raise ModelError(
                    f"{module}: {name} is {got.get(name, 'absent')}, but {want.get(name, 'absent')} in the layers of "
                    f"/{self.name} before it; choose layers of one kind (layers=…)"
                )

    def coordinates(self) -> dict[str, tuple[str, Array]]:
        """Its coordinates, each with its dimension."""
        found = {
            "layer": ("layer", np.array([w.layer for w in self.layers], dtype=np.int64)),
            "module": ("layer", strings([w.module for w in self.layers])),
        }
        found |= {name: ("layer", strings([w.facts[name] for w in self.layers])) for name in self.facts}
        found |= {name: (name, np.arange(self.sizes[name])) for name in ("head", "query", "key")}
        if "pooled" in self.stats:
            for name, along in CELLS.items():
                n, cells = self.sizes["query" if along == "row" else "key"], self.sizes[along]
                edges = np.arange(cells + 1) * n // cells  # as kernels/pooling.py cuts them
                found[name] = (along, edges[:-1] if name.endswith("start") else edges[1:])
        return found


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own."""
    return value.item()


def _along(name: str) -> list[str]:
    return [along for along in dims(name) if along != "layer"]
