"""Attributes of HTML elements that Dash takes by keyword only."""

from __future__ import annotations

from typing import Any


def aria(label: str) -> dict[str, Any]:
    """The name of an element for those who do not see it."""
    return {"aria-label": label}


def data(**values: str) -> dict[str, Any]:
    """Values for the page's scripts: `data-<name>`."""
    return {f"data-{name}": value for name, value in values.items()}


def more(attributes: dict[str, str]) -> dict[str, Any]:
    """Attributes with a hyphen, which Dash takes as keywords and does not declare."""
    return dict(attributes)
