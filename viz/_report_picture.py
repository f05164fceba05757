"""What a report shows of a picture beside its figure: the answer as a headline, and a table of the areas."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

ROWS = 12


def head(result: xr.Dataset) -> str:
    """The page's first lines: what the network sees and how sure it is; nothing where the result does not say.

    Args:
        result: An `image_overlay`.
    """
    attrs = result.attrs
    if "prediction" not in attrs:
        return f"<h1>{html.escape(str(attrs.get('title', '')))}</h1>"
    who, answer = html.escape(f"{attrs['model']} sees"), html.escape(str(attrs["prediction"]))
    says = f'<h1><span class="who">{who}</span> <q>{answer}</q></h1>'
    sure = float(attrs["prediction_probability"])
    if math.isfinite(sure):
        says += (
            f'<p class="meter"><span class="bar"><i style="width:{100 * sure:.1f}%"></i></span>'
            f"<b>{sure:.0%}</b> probability</p>"
        )
    if attrs["target"] != attrs["prediction"]:
        own = float(attrs["target_probability"])
        chance = f" (probability {own:.2%})" if math.isfinite(own) else ""
        says += f'<p class="other">Explained below is another class: <q>{html.escape(str(attrs["target"]))}</q>{chance}.</p>'
    return says


def areas(result: xr.Dataset) -> str:
    """The outlined areas as a table, the strongest first; nothing where there are none.

    Args:
        result: An `image_overlay`.
    """
    count = result.sizes.get("area", 0)
    if not count:
        return ""
    fields = {
        name: result[f"area_{name}"].values for name in ("share", "size", "left", "top", "right", "bottom")
    }
    rows = ""
    for number in range(min(count, ROWS)):
        share, size, *box = (fields[name][number] for name in fields)
        place = f"columns {box[0]}–{box[2] - 1}, rows {box[1]}–{box[3] - 1}"
        cells = f"<td class=n>{share:.1%}</td><td class=n>{size:.1%}</td><td>{place}</td>"
        rows += f"<tr><th scope=row>{number + 1}</th>{cells}</tr>"
    more = f"<p class=note>{count - ROWS} smaller areas in the result itself.</p>" if count > ROWS else ""
    return (
        "<table><thead><tr><th scope=col>area</th><th scope=col class=n>of the evidence</th>"
        "<th scope=col class=n>of the picture</th><th scope=col>where (pixels of the view)</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{more}"
    )
