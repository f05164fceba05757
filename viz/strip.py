"""Read a `token_strip` result into plain values that a figure, an HTML page and a terminal show alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probe.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Token:
    """One token as it is shown.

    Attributes:
        index: Position in the result, counted from 0, special tokens included.
        text: The piece of the input, leading blank included; pieces join to the input.
        role: `"text"` or `"special"`.
        score: The signed score, in the result's unit; NaN if the method gives none.
        share: |score| over the sum of |score| of all text tokens, NaN without a score. A special token's is
            measured by the same sum, so that it may exceed 1.
        start: First character in the input, -1 if unknown.
        end: One past the last character, -1 if unknown.
    """

    index: int
    text: str
    role: str
    score: float
    share: float
    start: int
    end: int


@dataclass(frozen=True)
class Strip:
    """A whole text with its scores.

    Attributes:
        tokens: All tokens but padding, in reading order.
        limit: Largest absolute score among text tokens: the full colour. Special tokens, which often hold
            most of the score, do not flatten the colours of the words.
        signed: Whether the sign carries meaning.
        target: What the scores are about (a label or the next token).
        probability: The model's probability of the target, NaN if not given.
        prediction: What the model itself says; the target, if the result does not tell them apart.
        prediction_probability: The model's probability of its prediction, NaN if not given.
        method: Name of the method.
        model: Name of the model.
        task: The model's task, empty if unknown.
        unit: Unit of the scores.
    """

    tokens: tuple[Token, ...]
    limit: float
    signed: bool
    target: str
    probability: float
    prediction: str
    prediction_probability: float
    method: str
    model: str
    task: str
    unit: str

    @property
    def special_share(self) -> float:
        """Part of the absolute score of the whole input that lies on special tokens, 0 to 1."""
        sizes = [(token.role, abs(token.score)) for token in self.tokens if np.isfinite(token.score)]
        total = sum(size for _, size in sizes)
        return sum(size for role, size in sizes if role != "text") / total if total else 0.0

    def strongest(self, count: int) -> list[Token]:
        """The text tokens of greatest absolute score, strongest first; blank tokens are left out.

        Args:
            count: How many at most.

        Returns:
            Tokens with a finite score other than 0.
        """
        scored = [
            t for t in self.tokens if t.role == "text" and t.text.strip() and np.isfinite(t.score) and t.score
        ]
        return sorted(scored, key=lambda token: -abs(token.score))[:count]


def read_strip(result: xr.Dataset) -> Strip:
    """Check a `token_strip` result and read it.

    Args:
        result: Dataset with dimension `token`, the variable named by `attrs["value"]` and the coordinate
            `text`; `role`, `start`, `end` are optional.

    Returns:
        The strip, padding left out.

    Raises:
        InputError: A part is missing, or no text token has a finite score.
    """
    value = str(result.attrs.get("value", "score"))
    for name in (value, "text"):
        if name not in result.variables or result[name].dims != ("token",):
            got = result[name].dims if name in result.variables else "nothing"
            raise InputError(f"a token_strip needs {name!r} with dimension (token), got {got}")
    size = result.sizes["token"]
    scores = np.asarray(result[value].values, dtype=np.float64)
    texts = [str(text) for text in result["text"].values]
    roles = [str(role) for role in result["role"].values] if "role" in result.variables else ["text"] * size
    starts = _integers(result, "start", size)
    ends = _integers(result, "end", size)
    kept = [i for i in range(size) if roles[i] != "pad"]
    words = [i for i in kept if roles[i] == "text"]
    finite = np.abs(scores[words])[np.isfinite(scores[words])]
    if not finite.size:
        raise InputError(f"nothing to draw: none of the {len(words)} text tokens has a finite {value!r}")
    total = float(finite.sum())
    shares = np.abs(scores) / total if total else np.zeros(size)
    tokens = tuple(
        Token(i, texts[i], roles[i], float(scores[i]), float(shares[i]), starts[i], ends[i]) for i in kept
    )
    attrs = result.attrs
    return Strip(
        tokens=tokens,
        limit=float(finite.max()),
        signed=bool(attrs.get("signed", True)),
        target=str(attrs.get("target", "")),
        probability=float(attrs.get("target_probability", np.nan)),
        prediction=str(attrs.get("prediction", attrs.get("target", ""))),
        prediction_probability=float(
            attrs.get("prediction_probability", attrs.get("target_probability", np.nan))
        ),
        method=str(attrs.get("method", attrs.get("explainer", ""))),
        model=str(attrs.get("model", "")),
        task=str(attrs.get("task", "")),
        unit=str(attrs.get("unit", "")),
    )


def _integers(result: xr.Dataset, name: str, size: int) -> list[int]:
    return [int(v) for v in result[name].values] if name in result.variables else [-1] * size


def headline(strip: Strip) -> str:
    """The story in one line: what the model says, how sure it is, and what is explained if something else.

    Args:
        strip: A read strip.

    Returns:
        Plain text, for a next token `smollm2 continues with “ Paris” (41%)`, for a label `sentiment says
        “positive” (97%)`.
    """
    if not strip.target:
        return f"{strip.model}: {strip.method}".strip(": ")
    said = f"{strip.model or 'the model'} {verb(strip)} “{visible(strip.prediction)}”"
    said += f" ({percent(strip.prediction_probability)})" if np.isfinite(strip.prediction_probability) else ""
    if strip.prediction == strip.target:
        return said
    sure = f" ({percent(strip.probability)})" if np.isfinite(strip.probability) else ""
    return f"{said}; explained here: “{visible(strip.target)}”{sure}"


def verb(strip: Strip) -> str:
    """What the model does with its prediction: a classifier says it, a language model goes on with it."""
    return "continues with" if strip.task == "text-generation" else "says"


def percent(part: float) -> str:
    """A share of 1 in percent, never rounded to a false 0% or 100%."""
    if not np.isfinite(part):
        return "n/a"
    if 0 < part < 0.001:
        return "<0.1%"
    if 0.999 < part < 1:
        return ">99.9%"
    whole = part in (0, 1) or 0.0995 <= part <= 0.985
    return f"{100 * part:.0f}%" if whole else f"{100 * part:.1f}%"


def figure(score: float, *, signed: bool) -> str:
    """A score to read: two decimals, or three digits for small ones, with a true minus sign.

    Args:
        score: A finite number.
        signed: Whether a plus sign stands before positive numbers.
    """
    decimals = 2 if abs(score) >= 0.095 else 3
    text = f"{score:+.{decimals}f}" if signed else f"{score:.{decimals}f}"
    return text.replace("-", "−")


def visible(text: str) -> str:
    """The text with line breaks and tabs shown as signs, so that it stays on one line."""
    return text.replace("\r\n", "↵").replace("\n", "↵").replace("\r", "↵").replace("\t", "→")


def word_around(strip: Strip, token: Token) -> tuple[str, str]:
    """The rest of the word that a token is a part of.

    Args:
        strip: The strip that holds the token.
        token: One of its text tokens.

    Returns:
        The letters before and after it in the same word; both empty for a whole word or a punctuation mark.
    """
    place = next(i for i, other in enumerate(strip.tokens) if other.index == token.index)
    if not token.text.strip().isalnum():
        return "", ""
    before, after = "", ""
    for i in range(place, 0, -1):
        previous = strip.tokens[i - 1]
        if (
            strip.tokens[i].text[:1].isspace()
            or previous.role != "text"
            or not previous.text.strip().isalnum()
        ):
            break
        if previous.text[-1:].isspace():
            break
        before = previous.text.lstrip() + before
    for following in [] if token.text[-1:].isspace() else strip.tokens[place + 1 :]:
        if following.role != "text" or not following.text.isalnum():
            break
        after += following.text
    return before, after


def shorten(text: str, length: int = 28) -> str:
    """The text, cut with an ellipsis when it has more than `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def signs(strip: Strip) -> tuple[str, str]:
    """What the two ends of the scale mean, in words: low end, high end."""
    if strip.signed:
        name = f"“{shorten(visible(strip.target).strip())}”" if strip.target.strip() else "the target"
        return f"speaks against {name}", f"speaks for {name}"
    return "little", f"much ({strip.method.replace('_', ' ')})"
