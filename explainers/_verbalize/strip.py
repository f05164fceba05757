"""A token strip in sentences, each computed from its numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.explainers._verbalize.heads import sink_strip_statements
from probe.explainers._verbalize.statement import Statement
from probe.explainers._verbalize.words import Run, Words, effective_number, standing_runs, words_of
from probe.explainers.wording import in_words, listing, ordinal, percent, plural, probability, quoted, signed

NAMED = 3  # words named after the first one
SMALLEST_SHARE = 0.05  # of a word worth naming beside the first
EVEN = 0.9  # effective number of words over their number, from which on a map counts as even …
NOT_EVEN = 1.5  # … unless the strongest word holds this many times an even share
PHRASE = 0.25  # least coverage of a run worth naming as a phrase
EXCESS = 0.2  # attribution share beyond the share of words, from which on a part of the text is named
CONVERGENCE = 0.05


@dataclass(frozen=True, eq=False)
class _Strip:
    """A strip with what the sentences are computed from."""

    data: xr.Dataset
    words: Words
    runs: list[Run]

    @property
    def target(self) -> str:
        return quoted(str(self.data.attrs["target"]))

    @property
    def signed(self) -> bool:
        return bool(self.data.attrs["signed"])

    def named(self, word: int) -> str:
        """The word with its score and its share of the total."""
        score = self.words.scores[word]
        figure = signed(score) if self.signed else f"{score:.2f}"
        return f"{self.called(word)} ({figure}, {percent(self.words.shares[word])})"

    def called(self, word: int) -> str:
        """The word between quotation marks, and which of several it is if it stands there more than once."""
        name = self.words.names[word]
        shown = [quoted(other) for other in self.words.names]
        if shown.count(quoted(name)) == 1:
            return quoted(name)
        return f"the {ordinal(shown[: word + 1].count(quoted(name)))} {quoted(name)}"

    def strongest(self, sign: int) -> list[int]:
        """Words of one sign, strongest first."""
        order = np.argsort(-sign * self.words.scores, kind="stable")
        return [int(i) for i in order if sign * self.words.scores[i] > 0]


def strip_statements(data: xr.Dataset) -> list[Statement]:
    """The sentences of a token strip: prediction, what stands out, what speaks against, where, how sharply.

    Raises:
        InputError: no text token, or scores that are not finite.
    """
    if data.attrs["explainer"] == "sink_tokens":
        return sink_strip_statements(data)
    words = words_of(data)
    strip = _Strip(data, words, standing_runs(words.scores))
    even = _even(strip)
    parts: Sequence[Callable[[_Strip], list[Statement]]] = (
        [_unsigned, _phrases, _support, _against, _position] if even is None else [_unsigned]
    )
    found = _prediction(strip) + ([even] if even is not None else [])
    for part in (*parts, _concentration, _special, _convergence, _faithfulness):
        found += part(strip)
    return found


def _prediction(strip: _Strip) -> list[Statement]:
    attrs = strip.data.attrs
    predicted = str(attrs.get("prediction", attrs["target"]))
    likely = float(attrs.get("prediction_probability", attrs["target_probability"]))
    asked = float(attrs["target_probability"])
    token = attrs.get("task") == "text-generation"
    opening = "The most probable next token is" if token else "The model's answer is"
    text = f"{opening} {quoted(predicted)} (probability {probability(likely)})."
    found = [Statement("prediction", text, likely)]
    if predicted != attrs["target"]:
        noun = "next token" if token else "label"
        text = f"Explained is another {noun}, {strip.target} (probability {probability(asked)})."
        found.append(Statement("target", text, asked))
    return found


def _even(strip: _Strip) -> Statement | None:
    """The sentence for a map that singles out nothing, or None."""
    words, count = strip.words, len(strip.words.names)
    if not words.scores.any():
        return Statement("flat", "All scores are 0: the map does not single out any word.", 0.0)
    if count == 1:
        name = quoted(words.names[0])
        return Statement(
            "flat", f"{name} is the only word, so nothing stands out against anything.", 1.0, words.tokens[0]
        )
    top = int(np.argmax(words.shares))
    share = float(words.shares[top])
    if effective_number(words.scores) < EVEN * count or share >= NOT_EVEN / count:
        return None
    text = (
        f"The map does not single out any word: the strongest, {strip.called(top)}, holds "
        f"{percent(share)} of the total, where an even share is {percent(1 / count)}."
    )
    return Statement("flat", text, share, words.tokens[top])


def _unsigned(strip: _Strip) -> list[Statement]:
    if strip.signed:
        return []
    text = "These scores have no sign: they say where the model reads, not what its answer rests on."
    return [Statement("unsigned", text, float(len(strip.words.names)))]


def _phrases(strip: _Strip) -> list[Statement]:
    """Runs of two or more words that carry more than the strongest one; signs at the ends are left off."""
    words, found = strip.words, []
    support = float(words.scores[words.scores > 0].sum())
    single = float(words.scores.max()) / support if support > 0 else 0.0
    longest = max(2, len(words.names) // 2)
    for run in strip.runs[:2]:
        inside = [i for i in range(run.first, run.last + 1) if words.is_word(i)]
        if not 2 <= len(inside) <= longest:
            continue
        first, last = inside[0], inside[-1]
        coverage = max(0.0, float(words.scores[first : last + 1].sum())) / support
        if coverage < PHRASE or coverage <= single + 1e-9:
            continue
        kind = "passage" if any(mark in "".join(words.names[first:last]) for mark in ".!?") else "phrase"
        what = f"of all that speaks for {strip.target}" if strip.signed else "of the total"
        quote = f"{quoted(words.quote(first, last))} ({plural(len(inside), 'word')})"
        text = f"The {kind} {quote} carries {percent(coverage)} {what}."
        found.append(Statement(kind, text, coverage, words.indices(first, last)))
    return found


def _support(strip: _Strip) -> list[Statement]:
    order = strip.strongest(+1)
    if not order:
        return [Statement("no_support", f"No word speaks for {strip.target}.", 0.0)]
    words, top = strip.words, order[0]
    opening = (
        f"What speaks most strongly for {strip.target} is" if strip.signed else "The highest score is that of"
    )
    total = "total attribution" if strip.signed else "total"
    text = f"{opening} {strip.named(top)[:-1]} of the {total})."
    found = [Statement("top_word", text, float(words.scores[top]), words.tokens[top])]
    least = max(SMALLEST_SHARE, min(0.1, 1.5 / len(words.names)))
    further = [i for i in order[1 : 1 + NAMED] if words.shares[i] >= least]
    if further:
        verb = "comes" if len(further) == 1 else "come"
        together = float(words.shares[[top, *further]].sum())
        count = in_words(len(further) + 1)
        named = listing([strip.named(i) for i in further])
        text = f"Next {verb} {named}; these {count} hold {percent(together)} together."
        tokens = tuple(t for i in (top, *further) for t in words.tokens[i])
        found.append(Statement("next_words", text, together, tokens))
    return found


def _against(strip: _Strip) -> list[Statement]:
    if not strip.signed:
        return []
    words, order = strip.words, strip.strongest(-1)
    share = float(words.shares[words.scores < 0].sum())
    if not order:
        return [Statement("nothing_against", f"No word speaks against {strip.target}.", 0.0)]
    tokens = tuple(t for i in order for t in words.tokens[i])
    if share < SMALLEST_SHARE:
        text = f"Little speaks against it: {percent(share)} of the total."
        return [Statement("against", text, share, tokens)]
    named = [i for i in order[:NAMED] if words.shares[i] >= SMALLEST_SHARE] or order[:1]
    verb = "speaks" if len(named) == 1 else "speak"
    text = (
        f"Against it {verb} above all {listing([strip.named(i) for i in named])}; "
        f"all that speaks against it makes up {percent(share)} of the total."
    )
    found = [Statement("against", text, share, tuple(t for i in named for t in words.tokens[i]))]
    if share > 0.5 and strip.strongest(+1):
        less = percent(1 - share)
        text = f"In sum, more speaks against {strip.target} ({percent(share)}) than for it ({less})."
        found.append(Statement("balance", text, share, tokens))
    return found


def _position(strip: _Strip) -> list[Statement]:
    """The half or third of the text whose share of the attribution exceeds its share of the words most."""
    shares, count = strip.words.shares, len(strip.words.names)
    if count < 6:
        return []
    third, half = round(count / 3), (count + 1) // 2
    parts = {
        "first half": slice(0, half),
        "second half": slice(half, count),
        "first third": slice(0, third),
        "middle third": slice(third, count - third),
        "last third": slice(count - third, count),
    }
    held = {name: float(shares[part].sum()) for name, part in parts.items()}
    excess = {name: held[name] - len(shares[part]) / count for name, part in parts.items()}
    name = max(excess, key=lambda part: excess[part])
    spread = excess[name] < EXCESS
    name = "first half" if spread else name
    share = percent(held[name])
    text = f"The {name} of the text holds {share} of the attribution."
    if spread:
        text = f"The attribution is spread over the text: its {name} holds {share}."
    return [
        Statement("position", text, held[name], strip.words.indices(parts[name].start, parts[name].stop - 1))
    ]


def _text_scores(strip: _Strip) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values = np.asarray(strip.data[strip.data.attrs["value"]].values, dtype=np.float64)
    return values, strip.data["role"].values == "text"


def _concentration(strip: _Strip) -> list[Statement]:
    values, inside = _text_scores(strip)
    count, number = int(inside.sum()), effective_number(values[inside])
    if number == 0 or count < 2:
        return []
    ratio = number / count
    how = (
        "is concentrated"
        if ratio <= 1 / 3
        else "is moderately concentrated"
        if ratio <= 2 / 3
        else "is widely spread"
    )
    text = f"The attribution {how}: it weighs like {number:.1f} equal tokens of {count}."
    return [Statement("concentration", text, number)]


def _special(strip: _Strip) -> list[Statement]:
    values, inside = _text_scores(strip)
    size = np.abs(values)
    total = float(size.sum())
    share = float(size[~inside].sum()) / total if total > 0 else 0.0
    if share < 0.1:
        return []
    top = int(np.argmax(np.where(inside, -1.0, size)))
    name = quoted(str(strip.data["text"].values[top]))
    text = (
        f"Special tokens, {name} above all, hold {percent(share)} of the "
        "attribution of the whole input; the shares above leave them out."
    )
    return [Statement("special", text, share, tuple(int(i) for i in np.flatnonzero(~inside)))]


def _convergence(strip: _Strip) -> list[Statement]:
    attrs = strip.data.attrs
    change, delta = (
        abs(float(attrs.get("score_change", 0.0))),
        abs(float(attrs.get("convergence_delta", 0.0))),
    )
    if delta <= CONVERGENCE * change:
        return []
    text = (
        f"Caution: the scores miss the change that they share out ({change:.2f}) by {delta:.2f}; "
        "raise n_steps or choose another baseline."
    )
    return [Statement("convergence", text, delta)]


def _faithfulness(strip: _Strip) -> list[Statement]:
    attrs = strip.data.attrs
    if "faithfulness_verdict" not in attrs:
        return []
    gain = float(attrs["insertion_auc"]) - float(attrs["deletion_auc"])
    return [Statement("faithfulness", str(attrs["faithfulness_verdict"]), gain)]
