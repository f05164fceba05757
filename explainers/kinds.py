"""The closed list of result kinds, and the contract that a result of each has to meet.

A figure (`viz.draw`) and words (`ex.verbalization`) go by the kind, so that a new explainer of a kind that is here needs
neither.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from probe.errors import ProbeError

if TYPE_CHECKING:
    import xarray as xr


class DeclarationError(ProbeError):
    """An explainer's declaration, or the result it returned, breaks the contract: a fault of its author."""


@dataclass(frozen=True)
class Kind:
    """What results of a kind have in common.

    Attributes:
        dims: of the primary variable, the one that the attribute `value` names; None: open until the first explainer of the
            kind fixes them.
        variables: further variables and coordinates.
        attrs: attributes beyond those of every result.
    """

    dims: tuple[str, ...] | None
    variables: tuple[str, ...] = ()
    attrs: tuple[str, ...] = ()


KINDS = MappingProxyType(
    {
        "head_table": Kind(("layer", "head"), ("layer", "head")),
        "token_strip": Kind(
            ("token",),
            ("text", "role", "start", "end"),
            ("target", "target_probability", "method", "signed", "input"),
        ),
        "text": Kind(("statement",), ("text", "claim", "value", "tokens")),
        "measure_table": Kind(
            ("explainer", "measure"), ("explainer", "measure", "low", "high", "count", "better")
        ),
        # text: what stands at each column; margin: a variable over the rows beside the map, or ""
        "map2d": Kind(("row", "column"), ("row", "column", "text"), ("row_title", "column_title", "margin")),
        "image_overlay": Kind(
            ("map", "row", "column"),
            ("picture", "name", "signed"),
            ("target", "target_probability", "method", "input"),
        ),
        "embedding": Kind(("point", "axis"), ("axis",), ("method", "seed", "points", "colours")),
        # stop: number of an object, -1 after the end of a path; made_by: "model" or "person"
        "path": Kind(
            ("path", "step"),
            ("row", "column", "name", "made_by", "box", "object_name", "agreement"),
            ("target", "target_object", "method", "input", "aspect"),
        ),
        # ends of links are numbers of nodes
        "flow": Kind(("link",), ("source", "target", "node_layer", "node_token", "node_text"), ("target",)),
        "concentration": Kind(
            ("bag", "k"),
            ("k", "name", "label", "instances", "entropy", "effective", "activated", "overlap"),
        ),
        "slide_overlay": Kind(
            ("patch",),
            ("percentile", "x", "y", "region", "region_patches", "region_mass"),
            ("of", "patch_size", "width", "height", "downsample"),
        ),
    }
)
_ATTRS = ("kind", "explainer", "title", "parameters", "references", "unit", "value", "model")


def check_result(result: "xr.Dataset") -> None:
    """Hold a result against the contract of its kind.

    Raises:
        DeclarationError: an attribute, variable or dimension is missing or wrong; the message names it.
    """
    kind = str(result.attrs.get("kind"))
    name = result.attrs.get("explainer", "a result")
    if kind not in KINDS:
        raise DeclarationError(f"{name}: kind is {kind!r}, expected one of {', '.join(KINDS)}")
    missing = [a for a in (*_ATTRS, *KINDS[kind].attrs) if a not in result.attrs]
    if missing:
        raise DeclarationError(f"{name}: a {kind} result lacks the attributes {', '.join(missing)}")
    value = result.attrs["value"]
    absent = [v for v in (value, *KINDS[kind].variables) if v not in result.variables]
    if absent:
        raise DeclarationError(f"{name}: a {kind} result lacks the variables {', '.join(absent)}")
    dims = KINDS[kind].dims
    if dims is not None and result[value].dims != dims:
        raise DeclarationError(f"{name}: {value} has dims {result[value].dims}, a {kind} has {dims}")
