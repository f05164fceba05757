"""`probe models`: what is here, what can be had, and getting it."""

from __future__ import annotations

from dataclasses import asdict

from probe.dashboard.failure import say
from probe.dashboard.terminal import out, quiet_stdout


def show_models(as_json: bool) -> int:
    """Print the catalogue.

    Args:
        as_json: Print JSON instead of a table.

    Returns:
        0.
    """
    from probe.models import catalog

    cards = catalog.list_models()
    if as_json:
        from probe.dashboard.as_json import emit

        emit({"models": [asdict(card) for card in cards]})
        return 0
    from rich.table import Table

    console = out()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for title in ("name", "model", "task", "MB", "licence", "here"):
        table.add_column(title, justify="right" if title == "MB" else "left")
    for card in cards:
        here = "yes" if card.installed else f"no: probe models install {card.name}"
        table.add_row(card.name, card.title, card.task, f"{card.size_mb:,.0f}", card.license, here)
    console.print(table)
    console.print("Also: a folder that transformers saved, or a hub id such as owner/model.", style="dim")
    return 0


def install_model(name: str) -> int:
    """Fetch a model of the catalogue.

    Args:
        name: As `probe models` shows it.

    Returns:
        0.
    """
    from probe.models import catalog
    from probe.models.install import install

    with quiet_stdout():
        install(name, say)
    entry = catalog.find(name)
    pictures = entry is not None and bool(entry.net)
    say(f"{name} is ready: probe explain {'PICTURE' if pictures else 'TEXT'} --model {name}")
    return 0
