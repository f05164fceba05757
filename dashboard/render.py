"""Results in a terminal: coloured tokens in a panel, sentences, small tables; plain lines when piped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probe.dashboard.terminal import clean
from probe.viz import theme
from probe.viz.passages import choose
from probe.viz.strip import Strip, Token, figure, headline, percent, read_strip, signs, visible, word_around

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

SHOWN = 400
TOP = 6
BAR = 24
FAINT = 0.03
STRONG = 0.2


def show_explanation(console: Console, result: xr.Dataset, sentences: list[str]) -> None:
    """Print a token strip: the coloured text, the sentences, the strongest tokens, a line on faithfulness.

    Args:
        console: Where to; without a terminal the same content comes as plain lines.
        result: A `token_strip`.
        sentences: Its verbalization.
    """
    strip = read_strip(result)
    if console.is_terminal:
        _panel(console, strip)
    else:
        console.print(clean(headline(strip)))
    console.print()
    for sentence in sentences:
        console.print(clean(sentence))
    console.print()
    console.print(_strongest(strip, plain=not console.is_terminal))
    line = faithfulness_line(result)
    if line:
        console.print()
        console.print(line, style="dim")


def _panel(console: Console, strip: Strip) -> None:
    from rich.panel import Panel
    from rich.text import Text

    body = Text.assemble(coloured(strip), "\n\n", _legend(strip))
    title = Text(clean(headline(strip)), style="bold")
    subtitle = Text(clean(strip.method.replace("_", " ")), style="dim")
    console.print(
        Panel(
            body, title=title, title_align="left", subtitle=subtitle, subtitle_align="right", padding=(1, 2)
        )
    )


def coloured(strip: Strip) -> Text:
    """The text with each token on the colour of its score.

    Args:
        strip: A read strip.

    Returns:
        Rich text; strong tokens are bold, those against the target underlined too: no colour is needed.
    """
    from rich.text import Text

    text = Text()
    spans = choose([token.score if token.role == "text" else 0.0 for token in strip.tokens], SHOWN)
    position = 0
    for first, end in [*spans, (len(strip.tokens), len(strip.tokens))]:
        if first > position:
            text.append(f"\n… {first - position:,} tokens not shown …\n", style="dim")
        for token in strip.tokens[first:end]:
            _append(text, token, strip)
        position = end
    if strip.task == "text-generation" and strip.target:
        text.append(" ▸ ", style="dim")
        text.append(clean(visible(strip.target)), style="bold")
    return text


def _append(text: Text, token: Token, strip: Strip) -> None:
    if token.role != "text":
        text.append(f"{clean(token.text)} " if token.index == 0 else f" {clean(token.text)}", style="dim")
        return
    body = token.text.strip()
    start = token.text.find(body) if body else len(token.text)
    text.append(clean(token.text[:start]))
    if body:
        text.append(clean(body), style=_style(token, strip))
        text.append(clean(token.text[start + len(body) :]))


def _style(token: Token, strip: Strip) -> str:
    part = abs(token.score) / strip.limit if strip.limit and np.isfinite(token.score) else 0.0
    colour = theme.token_colour(token.score, strip.limit, signed=strip.signed)
    if part < FAINT or colour is None:
        return ""
    marks = ("bold " if part >= STRONG else "") + ("underline " if part >= STRONG and token.score < 0 else "")
    return f"{marks}{theme.INK} on {colour}"


def _legend(strip: Strip) -> Text:
    from rich.text import Text

    low, high = signs(strip)
    steps = np.linspace(-1.0 if strip.signed else 0.0, 1.0, 9)
    text = Text(f"{clean(low)} ", style="dim")
    for step in steps:
        text.append("  ", style=f"on {theme.token_colour(float(step), 1.0, signed=strip.signed)}")
    return text.append(f" {clean(high)}", style="dim")


def _strongest(strip: Strip, *, plain: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("token")
    table.add_column("score", justify="right")
    if not plain:
        table.add_column("")
    table.add_column("share", justify="right")
    table.add_column("position", justify="right")
    for token in strip.strongest(TOP):
        before, after = word_around(strip, token)
        name = Text.assemble(
            (clean(before), "dim"), (clean(visible(token.text.strip())), "bold"), (clean(after), "dim")
        )
        score = figure(token.score, signed=strip.signed)
        cells: list[Text | str] = [name, Text(score), percent(token.share), str(token.index + 1)]
        if not plain:
            size = max(1, round(BAR * abs(token.score) / strip.limit))
            colour = theme.DIVERGING[-1][1] if token.score > 0 else theme.DIVERGING[0][1]
            cells.insert(2, Text("█" * size if token.score > 0 else "▒" * size, style=colour))
        table.add_row(*cells)
    return table


def faithfulness_line(result: xr.Dataset) -> str:
    """The areas under the deletion and insertion curves beside those of random orders, or nothing.

    Args:
        result: A `token_strip`.
    """
    attrs = result.attrs
    if "deletion_auc" not in attrs:
        return ""
    parts = []
    for name, better in (("deletion", "lower"), ("insertion", "higher")):
        random = attrs.get(f"{name}_auc_random")
        beside = f", random {float(random):.2f}" if random is not None else ""
        parts.append(f"{name} area {float(attrs[f'{name}_auc']):.2f}{beside} ({better} is better)")
    return "faithfulness: " + "; ".join(parts)


def show_head_table(console: Console, result: xr.Dataset, sentences: list[str]) -> None:
    """Print a value per head: the sentences, then a coloured grid, or one line per layer when piped.

    Args:
        console: Where to.
        result: A `head_table`.
        sentences: Its verbalization.
    """
    from rich.table import Table
    from rich.text import Text

    name = str(result.attrs["value"])
    values = np.asarray(result[name].transpose("layer", "head").values, dtype=np.float64)
    heads = result["head"].values if "head" in result.coords else np.arange(values.shape[1])
    layers = result["layer"].values if "layer" in result.coords else np.arange(values.shape[0])
    console.print(clean(str(result.attrs.get("title", ""))), style="bold")
    for sentence in sentences:
        console.print(clean(sentence))
    console.print()
    bound = float(np.nanmax(np.abs(values))) or 1.0
    grid = console.is_terminal and 2 * len(heads) + 40 <= console.width
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("layer", justify="right")
    if grid:
        table.add_column(f"heads {heads[0]} to {heads[-1]}")
    for title in ("mean", "highest", "in head"):
        table.add_column(title, justify="right")
    for layer, row in zip(layers, values, strict=True):
        finite = np.isfinite(row)
        if not finite.any():
            numbers = ["none", "", ""]
        else:
            top = int(np.nanargmax(row))
            numbers = [f"{np.nanmean(row):.3f}", f"{row[top]:.3f}", str(heads[top])]
        table.add_row(
            str(layer), *([Text.assemble(*(_cell(v, bound) for v in row))] if grid else []), *numbers
        )
    console.print(table)
    console.print(f"{name.replace('_', ' ')}{_unit(result)}", style="dim")


def _cell(value: float, bound: float) -> tuple[str, str]:
    if not np.isfinite(value):
        return "··", "dim"
    if value < 0:
        return "  ", f"on {theme.interpolate(theme.DIVERGING, 0.5 + 0.5 * value / bound)}"
    return "  ", f"on {theme.interpolate(theme.SEQUENTIAL, value / bound)}"


def _unit(result: xr.Dataset) -> str:
    unit = str(result.attrs.get("unit", ""))
    return "" if unit in ("", "1") else f" [{unit}]"


def show_validity(console: Console, record: xr.DataTree) -> bool:
    """Print a record's validity report.

    Args:
        console: Where to.
        record: Any record.

    Returns:
        Whether all checks passed.
    """
    from rich.table import Table
    from rich.text import Text

    from probe.viz.checks import read_checks

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for title, side in (
        ("check", "left"),
        ("layers", "right"),
        ("worst", "right"),
        ("tolerance", "right"),
        ("", "left"),
    ):
        table.add_column(title, justify=side)  # type: ignore[arg-type]
    lines = read_checks(record)
    for line in lines:
        outcome = (
            Text(f"failed in {line.failed}", style="bold red") if line.failed else Text("ok", style="green")
        )
        table.add_row(line.name, str(line.layers), f"{line.worst:.2g}", f"{line.tolerance:.2g}", outcome)
    console.print(table)
    return not any(line.failed for line in lines)


def show_words(console: Console, result: xr.Dataset, sentences: list[str]) -> None:
    """Print a result whose figures belong into a picture: its title and its sentences.

    Args:
        console: Where to.
        result: Of any kind.
        sentences: Its verbalization.
    """
    console.print(clean(str(result.attrs.get("title", ""))), style="bold")
    for sentence in sentences:
        console.print(clean(sentence))
