"""How cluttered a picture is, and how that goes with the entropy of attention and with right answers."""

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["colour_complexity", "entropy_study", "texture_complexity"]

HUES = 180


def texture_complexity(picture: Any, *, sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> float:
    """The share of pixels on an edge of Canny's detector, 0 to 1.

    The paper does not state its thresholds; these are scikit-image's own, on luminance in [0, 1].

    Args:
        picture: as `carve` takes it.
        sigma: of the Gaussian, in pixels.
        low: weak edges begin here.
        high: strong edges begin here.
    """
    import numpy as np
    from skimage.color import rgb2gray
    from skimage.feature import canny

    from probe._pictures import read_picture

    grey = rgb2gray(np.asarray(read_picture(picture)))
    return float(canny(grey, sigma=sigma, low_threshold=low, high_threshold=high).mean())


def colour_complexity(picture: Any) -> float:
    """Entropy of the histogram of hues over 180 bins, divided by ln 180: 0 for one hue, 1 for all alike.

    Pixels without a hue (grey) do not count; NaN where all are grey.

    Args:
        picture: as `carve` takes it.
    """
    import numpy as np
    from skimage.color import rgb2hsv

    from probe._pictures import read_picture

    hsv = rgb2hsv(np.asarray(read_picture(picture)))
    hue = hsv[..., 0][hsv[..., 1] > 0]
    if not hue.size:
        return float("nan")
    counts = np.bincount(np.minimum((hue * HUES).astype(int), HUES - 1), minlength=HUES)
    share = counts[counts > 0] / hue.size
    return float(-(share * np.log(share)).sum() / np.log(HUES)) + 0.0


def entropy_study(
    model: Any,
    cases: Iterable[tuple[Any, str, str]],
    *,
    layers: str = "auto",
    right: Callable[[str, str], bool] | None = None,
) -> Any:
    """Entropy of attention, complexity of the picture and rightness of the answer, one line for each question.

    Args:
        model: what `probe.load` gave.
        cases: (picture, question, right answer).
        layers: as of `carve`.
        right: whether an answer (first argument) is right; default: the same words in lower case.

    Returns:
        A Dataset over `case`: entropy (nats, mean over layers, of the attention to the picture at the last step), mass
        (the picture's, in that row), texture, colour, right, probability; and the rank correlations (Spearman) of entropy with
        texture, colour and right as attributes.
    """
    import numpy as np
    import xarray as xr
    from scipy.stats import spearmanr

    from probe._pictures import read_picture
    from probe.explainers._carve.asking import ask, depth, module_of
    from probe.explainers._carve.build import layers_of
    from probe.explainers._carve.contrast import entropy

    chosen = layers_of(layers, depth(module_of(model)[0]))
    same = right or (lambda said, truth: said.strip().lower() == truth.strip().lower())
    lines = []
    for given, question, truth in cases:
        picture = read_picture(given)
        answer = ask(model, [picture], question, layers=chosen)
        last = answer.rows[-1].mean(axis=1)
        lines.append(
            (
                float(entropy(last).mean()),
                float(last.sum(-1).mean()),
                texture_complexity(picture),
                colour_complexity(picture),
                float(same(answer.text, truth)),
                answer.probability,
            )
        )
    names = ("entropy", "mass", "texture", "colour", "right", "probability")
    table = np.array(lines, dtype=np.float64).reshape(-1, len(names))
    found = xr.Dataset({name: ("case", table[:, n]) for n, name in enumerate(names)})
    for name in ("texture", "colour", "right"):
        both = np.isfinite(found["entropy"].values) & np.isfinite(found[name].values)
        pair = found["entropy"].values[both], found[name].values[both]
        varied = len(pair[0]) > 2 and all(np.ptp(x) > 0 for x in pair)
        found.attrs[f"entropy_with_{name}"] = float(spearmanr(*pair).statistic) if varied else float("nan")
    return found
