"""A token strip in sentences, each computed from its numbers."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.explainers._verbalize.language import Language
from probe.explainers._verbalize.published import published_statements
from probe.explainers._verbalize.search import Run, coverage_in, find
from probe.explainers._verbalize.statement import Statement
from probe.explainers._verbalize.verdict import verdict
from probe.explainers._verbalize.words import Words, effective_number, words_of

NAMED = 3  # words named after the first one
SMALLEST_SHARE = 0.05  # of a word worth naming beside the first
EVEN = 0.9  # effective number of words over their number, from which on a map counts as even …
NOT_EVEN = 1.5  # … unless the strongest word holds this many times an even share
PHRASE = 0.25  # least coverage of a run worth naming as a phrase
OPPOSED = 0.2  # least share of all attribution that speaks against, for its phrases to be named
EXCESS = 0.2  # attribution share beyond the share of words, from which on a part of the text is named
CONVERGENCE = 0.05
LONG = 50  # words from which on the strongest sentence is named too


@dataclass(frozen=True, eq=False)
class Strip:
    """A strip with what the sentences are computed from."""

    data: xr.Dataset
    words: Words
    search: str
    unit: str
    language: Language

    @property
    def target(self) -> str:
        """The target's name between quotation marks."""
        return self.language.quoted(str(self.data.attrs["target"]))

    @property
    def signed(self) -> bool:
        """Whether the scores speak for and against."""
        return bool(self.data.attrs["signed"])

    def named(self, word: int) -> str:
        """The word with its score and its share of the total."""
        return f"{self.called(word)} ({self.score(word)}, {self.language.percent(self.words.shares[word])})"

    def score(self, word: int) -> str:
        """The word's score, with its sign where it has one."""
        score = float(self.words.scores[word])
        return self.language.signed(score) if self.signed else self.language.number(score)

    def called(self, word: int) -> str:
        """The word between quotation marks, and which of several it is if it stands there more than once."""
        quoted = self.language.quoted
        name = quoted(self.words.names[word])
        shown = [quoted(other) for other in self.words.names]
        if shown.count(name) == 1:
            return name
        place = self.language.ordinal(shown[: word + 1].count(name))
        return self.language.say("nth_word", place=place, word=name)

    def strongest(self, sign: int) -> list[int]:
        """Words of one sign, strongest first."""
        order = np.argsort(-sign * self.words.scores, kind="stable")
        return [int(i) for i in order if sign * self.words.scores[i] > 0]

    def about(
        self, claim: str, text: str, value: float, words: list[int], sign: int, rank: int = 0
    ) -> Statement:
        """A statement about some words; its span runs from the first to the last of them if they are neighbours."""
        tokens = tuple(t for i in words for t in self.words.tokens[i])
        ordered = sorted(words)
        joined = ordered == list(range(ordered[0], ordered[-1] + 1)) if ordered else False
        span = self.words.span(ordered[0], ordered[-1]) if joined else (-1, -1)
        side = sign * self.words.scores
        covered = coverage_in(side)(ordered[0], ordered[-1]) if joined and sign else float("nan")
        return Statement(claim, text, value, tokens, span, covered, rank, sign if self.signed else 0)


def strip_statements(
    data: xr.Dataset, language: Language, search: str = "segments", unit: str = "auto"
) -> list[Statement]:
    """The sentences of a token strip: prediction, what stands out, what speaks against, where, how sharply.

    Args:
        data: the strip.
        language: of the sentences.
        search: how phrases are found (`search.find`); "published" gives the templates of SMV instead.
        unit: "word", "phrase", "sentence", or "auto": words and phrases, and of a long text the strongest sentence.

    Raises:
        InputError: no text token, or scores that are not finite.
    """
    if search == "published":
        return published_statements(data, language)
    strip = Strip(data, words_of(data), search, unit, language)
    even = _even(strip)
    if even is not None:
        parts = [_unsigned]
    else:
        words, phrases = unit in ("auto", "word"), unit in ("auto", "phrase")
        parts = [_unsigned]
        parts += [_sentences] if unit == "sentence" else []
        parts += [_phrases] if phrases else []
        parts += [_sentences] if unit == "auto" and len(strip.words.names) >= LONG else []
        parts += [_support, _against] if words or not strip.words.scores.any() else []
        parts += [_phrases_against] if phrases else []
        parts += [_position]
    found = _prediction(strip) + ([even] if even is not None else [])
    for part in (*parts, _concentration, _special, _convergence, _faithfulness, _chosen):
        found += part(strip)
    return found


def _prediction(strip: Strip) -> list[Statement]:
    attrs, language = strip.data.attrs, strip.language
    predicted = str(attrs.get("prediction", attrs["target"]))
    likely = float(attrs.get("prediction_probability", attrs["target_probability"]))
    asked = float(attrs["target_probability"])
    token = "_token" if attrs.get("task") == "text-generation" else ""
    if "answer_tokens" in attrs:
        count = language.plural(int(attrs["answer_tokens"]), "token")
        text = language.say("answer", answer=strip.target, count=count)
        return [Statement("prediction", text, float(attrs["answer_tokens"]))]
    answer = language.quoted(predicted)
    text = language.say(f"prediction{token}", answer=answer, chance=language.probability(likely))
    found = [Statement("prediction", text, likely)]
    if predicted != attrs["target"]:
        text = language.say(f"target{token}", target=strip.target, chance=language.probability(asked))
        found.append(Statement("target", text, asked))
    if "contrast" in attrs:
        chance = float(attrs["contrast_probability"])
        rival = language.quoted(str(attrs["contrast"]))
        text = language.say("contrast", target=strip.target, rival=rival, chance=language.probability(chance))
        found.append(Statement("contrast", text, chance))
    return found


def _even(strip: Strip) -> Statement | None:
    """The sentence for a map that singles out nothing, or None."""
    words, language, count = strip.words, strip.language, len(strip.words.names)
    if not words.scores.any():
        return Statement("flat", language.say("flat_zero"), 0.0)
    if count == 1:
        return Statement("flat", language.say("flat_one", word=strip.called(0)), 1.0, words.tokens[0])
    top = int(np.argmax(words.shares))
    share = float(words.shares[top])
    if effective_number(words.scores) < EVEN * count or share >= NOT_EVEN / count:
        return None
    text = language.say(
        "flat", word=strip.called(top), share=language.percent(share), even=language.percent(1 / count)
    )
    return Statement("flat", text, share, words.tokens[top])


def _unsigned(strip: Strip) -> list[Statement]:
    if strip.signed:
        return []
    return [Statement("unsigned", strip.language.say("unsigned"), float(len(strip.words.names)))]


def _phrases(strip: Strip) -> list[Statement]:
    return _runs(strip, +1)


def _phrases_against(strip: Strip) -> list[Statement]:
    opposed = float(strip.words.shares[strip.words.scores < 0].sum())
    return _runs(strip, -1)[:1] if strip.signed and opposed >= OPPOSED else []


def _runs(strip: Strip, sign: int) -> list[Statement]:
    """Runs of two or more words that carry more than the strongest one; signs at the ends are left off."""
    words, language, side = strip.words, strip.language, sign * strip.words.scores
    covered = coverage_in(side)
    single = covered(int(side.argmax()), int(side.argmax()))
    longest = max(2, len(words.names) // 2)
    found: list[Statement] = []
    for run in find(side, strip.search)[:2]:
        inside = [i for i in range(run.first, run.last + 1) if words.is_word(i)]
        if not 2 <= len(inside) <= longest:
            continue
        first, last = inside[0], inside[-1]
        share = covered(first, last)
        if share < PHRASE or share <= single + 1e-9:
            continue
        kind = "passage" if any(mark in "".join(words.names[first:last]) for mark in ".!?") else "phrase"
        text = language.say(
            f"{kind}{_way(strip, sign)}",
            quote=language.quoted(words.quote(first, last)),
            count=language.plural(len(inside), "word"),
            share=language.percent(share),
            target=strip.target,
        )
        members = list(range(first, last + 1))
        claim = kind if sign > 0 else f"{kind}_against"
        found.append(strip.about(claim, text, share, members, sign, len(found) + 1))
    return found


def _way(strip: Strip, sign: int) -> str:
    return "_unsigned" if not strip.signed else "" if sign > 0 else "_against"


def _sentences(strip: Strip) -> list[Statement]:
    """The sentences that carry more than an even share of all support, strongest first."""
    words, language = strip.words, strip.language
    spans = words.sentences()
    if len(spans) < 2:
        return []
    covered = coverage_in(words.scores)
    runs = sorted((Run(a, b, covered(a, b)) for a, b in spans), key=lambda run: -run.coverage)
    found: list[Statement] = []
    for run in runs[: 3 if strip.unit == "sentence" else 1]:
        if run.coverage < max(PHRASE, NOT_EVEN / len(spans)):
            continue
        text = language.say(
            f"sentence{_way(strip, +1)}",
            quote=language.quoted(words.quote(run.first, run.last)),
            share=language.percent(run.coverage),
            target=strip.target,
        )
        members = list(range(run.first, run.last + 1))
        found.append(strip.about("sentence", text, run.coverage, members, +1, len(found) + 1))
    return found


def _support(strip: Strip) -> list[Statement]:
    order, language, words = strip.strongest(+1), strip.language, strip.words
    if not order:
        return [Statement("no_support", language.say("no_support", target=strip.target), 0.0)]
    top = order[0]
    text = language.say(
        "top_word" if strip.signed else "top_word_unsigned",
        target=strip.target,
        word=strip.called(top),
        score=strip.score(top),
        share=language.percent(words.shares[top]),
    )
    found = [strip.about("top_word", text, float(words.scores[top]), [top], +1, 1)]
    least = max(SMALLEST_SHARE, min(0.1, 1.5 / len(words.names)))
    further = [i for i in order[1 : 1 + NAMED] if words.shares[i] >= least]
    if further:
        together = float(words.shares[[top, *further]].sum())
        text = language.say(
            "next_words_1" if len(further) == 1 else "next_words",
            words=language.listing([strip.named(i) for i in further]),
            count=language.in_words(len(further) + 1),
            share=language.percent(together),
        )
        tokens = tuple(t for i in (top, *further) for t in words.tokens[i])
        found.append(Statement("next_words", text, together, tokens, rank=2, sign=int(strip.signed)))
    return found


def _against(strip: Strip) -> list[Statement]:
    if not strip.signed:
        return []
    words, order, language = strip.words, strip.strongest(-1), strip.language
    share = float(words.shares[words.scores < 0].sum())
    if not order:
        return [Statement("nothing_against", language.say("nothing_against", target=strip.target), 0.0)]
    tokens = tuple(t for i in order for t in words.tokens[i])
    shown = language.percent(share)
    if share < SMALLEST_SHARE:
        return [Statement("against", language.say("little_against", share=shown), share, tokens, sign=-1)]
    named = [i for i in order[:NAMED] if words.shares[i] >= SMALLEST_SHARE] or order[:1]
    claim = "against_1" if len(named) == 1 else "against"
    text = language.say(claim, words=language.listing([strip.named(i) for i in named]), share=shown)
    found = [strip.about("against", text, share, named, -1, 1)]
    if share > 0.5 and strip.strongest(+1):
        text = language.say("balance", target=strip.target, share=shown, less=language.percent(1 - share))
        found.append(Statement("balance", text, share, tokens, sign=-1))
    return found


def _position(strip: Strip) -> list[Statement]:
    """The half or third of the text whose share of the attribution exceeds its share of the words most."""
    shares, count, language = strip.words.shares, len(strip.words.names), strip.language
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
    text = language.say(
        "spread" if spread else "position", part=language.say(name), share=language.percent(held[name])
    )
    first, last = parts[name].start, parts[name].stop - 1
    return [
        Statement(
            "position", text, held[name], strip.words.indices(first, last), strip.words.span(first, last)
        )
    ]


def _text_scores(strip: Strip) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values = np.asarray(strip.data[strip.data.attrs["value"]].values, dtype=np.float64)
    return values, strip.data["role"].values == "text"


def _concentration(strip: Strip) -> list[Statement]:
    values, inside = _text_scores(strip)
    count, number = int(inside.sum()), effective_number(values[inside])
    if number == 0 or count < 2:
        return []
    ratio, language = number / count, strip.language
    how = "concentrated" if ratio <= 1 / 3 else "moderate" if ratio <= 2 / 3 else "wide"
    text = language.say(how, number=language.number(number, 1), count=count)
    return [Statement("concentration", text, number)]


def _special(strip: Strip) -> list[Statement]:
    values, inside = _text_scores(strip)
    size, language = np.abs(values), strip.language
    total = float(size.sum())
    share = float(size[~inside].sum()) / total if total > 0 else 0.0
    if share < 0.1:
        return []
    top = int(np.argmax(np.where(inside, -1.0, size)))
    name = language.quoted(str(strip.data["text"].values[top]))
    text = language.say("special", token=name, share=language.percent(share))
    return [Statement("special", text, share, tuple(int(i) for i in np.flatnonzero(~inside)))]


def _convergence(strip: Strip) -> list[Statement]:
    attrs, language = strip.data.attrs, strip.language
    change = abs(float(attrs.get("score_change", 0.0)))
    delta = abs(float(attrs.get("convergence_delta", 0.0)))
    if delta <= CONVERGENCE * change:
        return []
    text = language.say("convergence", change=language.number(change), delta=language.number(delta))
    return [Statement("convergence", text, delta)]


def _faithfulness(strip: Strip) -> list[Statement]:
    attrs = strip.data.attrs
    if "faithfulness_verdict" not in attrs:
        return []
    gain = float(attrs["insertion_auc"]) - float(attrs["deletion_auc"])
    return [Statement("faithfulness", verdict(strip.data, strip.language), gain)]


def _chosen(strip: Strip) -> list[Statement]:
    """Which method the choice by measured faithfulness fell on."""
    if "tried" not in strip.data.attrs:
        return []
    tried, language = json.loads(strip.data.attrs["tried"]), strip.language
    method = str(strip.data.attrs["method"])
    listed = language.listing(
        [f"{name.replace('_', ' ')} {language.number(gap)}" for name, gap in tried.items()]
    )
    count = language.in_words(len(tried))
    text = language.say("chosen", tried=count, method=method.replace("_", " "), all=listed)
    return [Statement("chosen", text, float(tried[method]))]


GRAMMAR: dict[str, Callable[..., list[Statement]]] = {"token_strip": strip_statements}
