"""The measurements as tables on standard output; plain when that is no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from probe.dashboard.terminal import out

if TYPE_CHECKING:
    from rich.console import Console

    Document = dict[str, Any]

_MARKS = {True: "met", False: "not met", None: "–"}


def show(document: Document) -> None:
    """Print gate, times, ratios, goals, and what was left out and why.

    Args:
        document: A whole run, or a partial one.
    """
    console = out()
    _head(console, document)
    for pattern in document["patterns"]:
        of_pattern = [m for m in document["measurements"] if m["pattern"] == pattern]
        if of_pattern:
            _times(console, document, pattern, of_pattern)
    if document["measurements"]:
        _goals(console, document["goals"])
    captured = document["capture"]
    if captured:
        console.print(
            f"\ncapture of {', '.join(captured['stats'])}, {captured['model']}, {captured['n']:,} tokens: "
            f"{captured['capture_seconds']:.2f} s, plain forward {captured['forward_seconds']:.2f} s, "
            f"ratio {captured['ratio']:.2f}"
        )
    _skipped(console, document["skipped"])
    if document["partial"]:
        console.print(
            f"\npartial: {document['why_partial']}; what is above was measured until then", style="bold"
        )


def _head(console: Console, document: Document) -> None:
    device, shape, versions = document["device"], document["shape"], document["versions"]
    threads = "" if device["threads"] is None else f", {device['threads']} threads"
    console.print(
        f"{device['name']}{threads}; "
        f"{shape['heads']}/{shape['key_heads']} heads, head size {shape['head_size']}, {shape['dtype']}; "
        f"torch {versions['torch']}, triton {versions['triton'] or '–'}, driver {device['driver'] or '–'}; "
        f"{document['created']}",
        style="bold",
    )
    if document["gate"]:
        worst = max(document["gate"], key=lambda g: float(g["error"] / g["allowed"]))
        console.print(
            f"gate: {len(document['gate'])} results against float64, the worst at "
            f"{worst['error'] / worst['allowed']:.2f} of the allowed error ({worst['statistic']}, {worst['pattern']})"
        )
    if document["rates"]:
        rates = document["rates"]
        console.print(
            f"floor: matrix products {rates['matmul_flops'] / 1e12:.4g} TFLOP/s (measured), exponentials "
            f"{rates['exps'] / 1e9:.4g} G/s ({rates['exps_from']})"
        )


def _times(console: Console, document: Document, pattern: str, measured: list[Document]) -> None:
    """A line for each statistic and peer: time at each length; the other columns are of its longest length."""
    from rich.table import Table

    lengths = sorted({m["n"] for m in measured})
    peers = list(dict.fromkeys(m["name"] for m in measured if m["kind"] == "peer"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column(f"{pattern}, milliseconds", no_wrap=True)
    for head in (
        *(_tokens(n) for n in lengths),
        "N^p",
        "TFLOP/s",
        "of floor",
        *(f"÷ {name}" for name in peers),
        "extra MiB",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    exponents = {f["name"]: f["exponent"] for f in document["fits"] if f["pattern"] == pattern}
    for name in dict.fromkeys(m["name"] for m in measured):
        by_length = {m["n"]: m for m in measured if m["name"] == name}
        last = by_length[max(by_length)]
        times = [f"{by_length[n]['seconds'] * 1e3:.3g}" if n in by_length else "–" for n in lengths]
        ratios = [f"{last['ratio'][peer]:.2f}" if peer in last["ratio"] else "" for peer in peers]
        slope = f"{exponents[name]:.2f}" if name in exponents else "–"
        table.add_row(
            last["label"],
            *times,
            slope,
            f"{last['tflops']:.3g}",
            f"{last['floor_seconds'] / last['seconds']:.0%}",
            *ratios,
            f"{last['extra_bytes'] / 2**20:.0f}",
            style="dim" if last["kind"] == "peer" else "",
        )
    console.print()
    console.print(table)


def _tokens(n: int) -> str:
    return f"{n // 1024}k" if n % 1024 == 0 else f"{n:,}"


def _goals(console: Console, goals: list[Document]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for head in ("goal", "measured", "wanted", "", ""):
        table.add_column(head)
    for goal in goals:
        value = "–" if goal["value"] is None else f"{goal['value']:.3g}"
        wanted = f"{'≥' if goal['at_least'] else '≤'} {goal['limit']:.3g}"
        table.add_row(goal["goal"], value, wanted, _MARKS[goal["met"]], goal["why"] or "")
    console.print()
    console.print(table)


def _skipped(console: Console, skipped: list[Document]) -> None:
    """What was left out, patterns and lengths of one reason together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in skipped:
        place = one["pattern"] if one["n"] is None else f"{one['pattern']} {_tokens(one['n'])}"
        reasons.setdefault((one["name"], one["why"]), []).append(place)
    if reasons:
        console.print("\nleft out:")
    for (name, why), places in reasons.items():
        console.print(f"  {name} ({', '.join(places)}): {why}", style="dim")
