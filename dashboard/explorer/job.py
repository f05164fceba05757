"""The process of one job: `python -m probe.dashboard.explorer.job FOLDER` does what `FOLDER/request.json` asks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.dashboard.failure import guarded
from probe.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


def main(folder: Path) -> int:
    """Do the job: progress goes to standard output, a line of JSON a step; results into the folder.

    Args:
        folder: holds the request.

    Returns:
        0.
    """
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    kinds = {"text": _text, "picture": _picture, "steer": _steer}
    if request.get("kind") not in kinds:
        raise InputError(f"a job of kind {request.get('kind')!r}, expected one of {', '.join(kinds)}")
    for name, result in kinds[request["kind"]](request).items():
        save(result, folder / f"{name}.zarr")
    return 0


def save(result: xr.Dataset, place: Path) -> None:
    """Write a result so that it can be read without pickle: texts as texts, attributes as JSON values.

    Args:
        result: any.
        place: a folder that is not there yet.
    """
    from probe.dashboard.as_json import plain
    from probe.record import strings

    kept = result.copy()
    for name, variable in result.variables.items():
        if variable.dtype.kind in "OUT":
            texts = strings([str(v) for v in np.ravel(variable.values)]).reshape(variable.shape)
            kept[name] = (variable.dims, texts)
    kept.attrs = {key: plain(value) for key, value in result.attrs.items() if value is not None}
    kept.encoding.clear()
    kept.to_zarr(place, mode="w", consolidated=False)


def _told(done: int, steps: int, what: str) -> None:
    sys.__stdout__.write(json.dumps([done, steps, what]) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _text(request: dict[str, Any]) -> dict[str, xr.Dataset]:
    import probe
    from probe import explainers as ex
    from probe.dashboard.provenance import stamp

    _told(0, 3, f"loading {request['model']}")
    loaded = probe.load(request["model"])
    _told(1, 3, "scoring tokens, and testing the scores by deletion and insertion")
    result = ex.saliency(loaded, request["text"], method=request["method"])
    stamp(result, loaded)
    _told(2, 3, "finding words")
    return {"result": result, "words": ex.verbalization(result)}


def _picture(request: dict[str, Any]) -> dict[str, xr.Dataset]:
    import probe
    from probe import explainers as ex
    from probe.dashboard.provenance import stamp

    _told(0, 3, f"loading {request['model']}")
    loaded = probe.load(request["model"])
    _told(1, 3, "tracing relevance back to the pixels")
    result = ex.registry()["relevance"].function(loaded, request["path"], method=request["method"])
    stamp(result, loaded)
    _told(2, 3, "finding words")
    return {"result": result, "words": ex.verbalization(result)}


def _steer(request: dict[str, Any]) -> dict[str, xr.Dataset]:
    import torch

    import probe
    from probe import explainers as ex

    _told(0, 3, f"loading {request['model']}")
    loaded = probe.load(request["model"])
    given: dict[str, Any] = {"heads": [tuple(pair) for pair in request["heads"]]}
    if request["calibration"]:
        given = ex.calibration(request["calibration"], loaded)
    given["beta"] = request["beta"] / 100
    device = next(loaded.model.parameters()).device
    inputs = loaded.processor(request["text"], return_tensors="pt").to(device)
    _told(1, 3, "running the model as it is")
    with torch.no_grad():
        before = loaded.model(**inputs).logits
        _told(2, 3, "running it with the sinks shrunk")
        with ex.act(loaded, **given) as steering:
            after = loaded.model(**inputs).logits
        report = steering.report()
    return {"result": report, "answers": _answers(loaded, before, after)}


def _answers(loaded: Any, before: Any, after: Any, most: int = 8) -> xr.Dataset:
    """Probabilities of the answers with and without, the likeliest of both, and how far the two lie apart."""
    import torch
    import xarray as xr

    one, two = (x[0, -1] if x.dim() == 3 else x[0] for x in (before.float(), after.float()))
    p, q = (torch.softmax(x, -1) for x in (one, two))
    best = torch.maximum(p, q).topk(min(most, len(p))).indices
    best = best[p[best].argsort(descending=True)]
    labels = getattr(loaded.model.config, "id2label", {}) if before.dim() == 2 else {}
    names = [str(labels.get(int(i), i)) if labels else loaded.processor.decode([int(i)]) for i in best]
    apart = float((p * (p.clamp_min(1e-30).log() - q.clamp_min(1e-30).log())).sum())
    values = {"before": ("answer", p[best].cpu().numpy()), "after": ("answer", q[best].cpu().numpy())}
    what = "label" if labels else "next token"
    attrs = {"divergence": apart, "what": what, "unit": "probability", "label": f"probability of the {what}"}
    return xr.Dataset(values, coords={"answer": names}, attrs=attrs)


if __name__ == "__main__":
    sys.stdout = sys.stderr
    raise SystemExit(guarded(lambda: main(Path(sys.argv[1])), debug=lambda: False))
