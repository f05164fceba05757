"""Calibrations on disk: what a head search found, for which model, and the check that a model is that one."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import InputError

if TYPE_CHECKING:
    import torch
    import xarray as xr

    from probe.models.load import LoadedModel

__all__ = ["calibration", "read_calibration", "write_calibration"]

_STEERING = ("beta", "alpha", "threshold", "min_queries", "protect_first", "targets")
_FIELDS = {"schema": int, "model": dict, "task": dict, "settings": dict, "heads": dict, "held_out": dict}


def calibration(source: "str | Path | xr.Dataset", model: "LoadedModel | torch.nn.Module") -> dict[str, Any]:
    """What a head search found, as arguments of `act`: `with ex.act(model, **ex.calibration("heads.json", model)): …`.

    Args:
        source: a file that `probe calibrate` or `write_calibration` wrote, or the result of `act_heads`.
        model: the model it is meant for.

    Returns:
        heads, beta, alpha, threshold, min_queries, protect_first, targets.

    Raises:
        InputError: no calibration, or one of another model; the message names what differs.
    """
    document = _document(source) if not isinstance(source, (str, Path)) else read_calibration(source)
    name = str(source) if isinstance(source, (str, Path)) else "the calibration"
    _fits(document, model, name)
    heads = {int(layer): list(heads) for layer, heads in document["heads"].items()}
    return {"heads": heads} | {option: document["settings"][option] for option in _STEERING}


def write_calibration(result: "xr.Dataset", path: str | Path) -> Path:
    """Write what `act_heads` found as a small JSON file; an existing one is replaced in one step.

    Args:
        result: of `act_heads`.
        path: the file.

    Returns:
        The path.

    Raises:
        InputError: another result.
        OSError: the file cannot be written; nothing is left behind.
    """
    document, place = _document(result), Path(path)
    text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(place)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return place


def read_calibration(path: str | Path) -> dict[str, Any]:
    """The document in a file, checked field by field.

    Args:
        path: the file.

    Raises:
        InputError: no such file, or no calibration.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file, expected one that `probe calibrate --out` wrote")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{file}: is not JSON ({error}), expected what `probe calibrate --out` wrote"
        ) from error
    _check(document, str(file))
    return dict(document)


def _document(result: Any) -> dict[str, Any]:
    text = getattr(result, "attrs", {}).get("calibration")
    if not isinstance(text, str):
        raise InputError(f"got {type(result).__name__}, expected the result of act_heads or a file")
    document = json.loads(text)
    _check(document, "the calibration")
    return dict(document)


def _check(document: Any, name: str) -> None:
    if not isinstance(document, Mapping):
        raise InputError(
            f"{name}: got {type(document).__name__}, expected what `probe calibrate --out` wrote"
        )
    if document.get("schema") != 1:
        raise InputError(
            f"{name}: schema is {document.get('schema')!r}, expected 1: search again with this version"
        )
    for field, kind in _FIELDS.items():
        if not isinstance(document.get(field), kind):
            raise InputError(
                f"{name}: {field} is missing or no {kind.__name__}: the file is damaged, search again"
            )
    lacking = [option for option in _STEERING if option not in document["settings"]]
    if lacking:
        raise InputError(f"{name}: settings lack {', '.join(lacking)}: the file is damaged, search again")
    for layer, heads in document["heads"].items():
        whole = isinstance(heads, list) and all(isinstance(h, int) and not isinstance(h, bool) for h in heads)
        if not str(layer).isdecimal() or not whole:
            raise InputError(f"{name}: heads: got {layer!r}: {heads!r}, expected a layer and its heads")


def _fits(document: Mapping[str, Any], model: Any, name: str) -> None:
    """Refuse a model that the heads were not searched in."""
    from probe._inputs import parts

    meant = document["model"]
    inner, _ = parts(model)
    config: Any = getattr(inner, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    own = {
        "class": type(inner).__name__,
        "layers": getattr(config, "num_hidden_layers", None),
        "revision": getattr(model, "revision", None),
    }
    wanted = {**meant, "layers": len(meant.get("heads_per_layer", ()))}
    for fact, mine in own.items():
        if mine is not None and mine != wanted.get(fact):
            raise InputError(
                f"{name}: was made for {meant.get('name')} ({fact} {wanted.get(fact)}), got "
                f"{getattr(model, 'name', own['class'])} ({fact} {mine}); heads mean nothing in another model: run "
                "`probe calibrate` with this one"
            )
