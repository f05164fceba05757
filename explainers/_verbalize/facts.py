"""A free text about a token strip, held against the strip: each quote, number, rank and polarity is looked up."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from probe.explainers._verbalize.languages import language_of
from probe.explainers._verbalize.words import Words, effective_number, words_of

_QUOTES = re.compile(
    r"“([^“”]+)[”“]|„([^“”„]+)[“”]|»([^«»]+)«|«([^«»]+)»|‘([^‘’]+)’|`([^`]+)`|\"([^\"]+)\"|(?<!\w)'([^']+)'(?!\w)"
)
_NUMBER = re.compile(r"(?<![\w.,])([+\-−]?)(\d+(?:[.,]\d+)?)(\s?%)?(?![\w]|[.,]\d)")
_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?](?!\s|$)[^.!?\n]*)*(?:[.!?]+[\"”’'»«“]*|\n|$)")
_NEGATED = re.compile(r"\b(?:not|no|never|n't|nicht|kein\w*)\b[^.;,]{0,14}$", re.IGNORECASE)
_VISIBLE = {"␣": " ", "⏎": "\n", "⇥": "\t"}  # how `Language.quoted` shows blanks
_BLANKS = {ord(sign): blank for sign, blank in _VISIBLE.items()}
TOP = 5  # words that precision and recall of an explanation are about


@dataclass(frozen=True)
class Claim:
    """One checkable claim: `kind` is quote, number, rank, polarity or form; `why` names what is wrong with it."""

    kind: str
    text: str
    end: int  # place in the checked text behind it, 0 for what does not stand there
    why: str = ""

    @property
    def supported(self) -> bool:
        """Whether the map bears it out."""
        return not self.why


@dataclass(frozen=True, eq=False)
class FactCheck:
    """All claims of a text, and which words of the input it names."""

    text: str
    claims: tuple[Claim, ...]
    named: frozenset[int]  # words of the input inside supported quotes
    words: Words
    unchecked: tuple[str, ...] = field(default=())  # sentences without anything that can be looked up

    @property
    def unsupported(self) -> tuple[Claim, ...]:
        """The claims that the map does not bear out."""
        return tuple(claim for claim in self.claims if not claim.supported)

    @property
    def quotation_precision(self) -> float:
        """Share of the quoted strings that stand in the input; NaN without any."""
        quotes = [claim.supported for claim in self.claims if claim.kind == "quote"]
        return float(np.mean(quotes)) if quotes else float("nan")

    def coverage_at(self, k: int) -> float:
        """Of the k largest positive scores, the mass of those that the text quotes, over all positive mass.

        References:
            Feldhus et al., Saliency Map Verbalization, 2023 (arXiv 2210.07222): coverage@k.
        """
        scores = self.words.scores
        support = float(scores[scores > 0].sum())
        top = [int(i) for i in np.argsort(-scores, kind="stable")[:k] if scores[i] > 0]
        return float(sum(scores[i] for i in top if i in self.named)) / support if support > 0 else 0.0

    def precision_recall(self, k: int = TOP) -> tuple[float, float]:
        """How many of the named words are among the k strongest, and how many of those are named."""
        order = [int(i) for i in np.argsort(-np.abs(self.words.scores), kind="stable")]
        top = {i for i in [i for i in order if self.words.is_word(i)][:k] if self.words.scores[i]}
        named = {i for i in self.named if self.words.is_word(i)}
        hit = len(top & named)
        return (hit / len(named) if named else float("nan")), (hit / len(top) if top else float("nan"))

    def marked(self) -> str:
        """The text with a mark behind each claim that the map does not bear out."""
        text = self.text
        shown = [claim for claim in self.unsupported if claim.end]
        for claim in sorted(shown, key=lambda claim: -claim.end):
            text = f"{text[: claim.end]} ⟦unsupported: {claim.why}⟧{text[claim.end :]}"
        return text


def fact_check(text: str, strip: xr.Dataset, language: str = "en") -> FactCheck:
    """Look up every claim of a text in the map that it is about.

    A quote must stand in the input as whole words, and may be the name of the target, the prediction or the
    contrast. A number must be, at its own rounding, a score, a share of the total or of the support, or a score
    over the largest one, of what the sentence quotes (of any word, if it quotes nothing), or one of the model's
    probabilities or the input's counts. Where a sentence calls m quotes the most important, each must hold one of
    the m strongest words, or carry as much as the m-th of them. A quote that is said to speak for or against the
    target must have that sign; the
    nearest cue in the sentence decides. Cues stand in the language's file.

    Args:
        text: any.
        strip: a token_strip.
        language: whose cues are used.

    Raises:
        InputError: the strip has no text tokens or scores that are not finite; an unknown language.
    """
    return _Checker(strip, language).check(text)


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Place and text of each sentence; full stops inside quotes do not end one."""
    masked = _QUOTES.sub(lambda m: re.sub(r"[.!?\n]", "·", m.group()), text)
    for match in _SENTENCE.finditer(masked):
        if match.group().strip():
            yield match.start(), text[match.start() : match.end()]


class _Checker:
    def __init__(self, strip: xr.Dataset, language: str) -> None:
        self.attrs, self.words, self.cues = strip.attrs, words_of(strip), language_of(language).cues
        self.input = "".join(self.words.names)
        self.signed = bool(strip.attrs["signed"])
        names = ("target", "prediction", "contrast")
        self.labels = {_plain(str(strip.attrs[name])) for name in names if name in strip.attrs}
        pieces = strip["text"].values[strip["role"].values == "text"]
        self.pieces = [_plain(str(piece)) for piece in pieces]
        probabilities = [f"{name}_probability" for name in names]
        self.facts = [float(strip.attrs[name]) for name in probabilities if name in strip.attrs]
        self.facts += [float(len(self.words.names)), float(len(self.pieces))]
        self.facts += [sum(self.words.is_word(i) for i in range(len(self.words.names)))]
        for sign in (1, -1):
            side = sign * self.words.scores > 0
            self.facts += [float(self.words.shares[side].sum()), float(self.words.scores[side].sum())]
        order = np.argsort(-np.abs(self.words.scores), kind="stable")
        self.facts += _derived(self.words, strip)
        self.order = [int(i) for i in order if self.words.scores[i]]

    def check(self, text: str) -> FactCheck:
        claims: list[Claim] = []
        named: set[int] = set()
        unchecked = []
        for place, sentence in sentences(text):
            found, words = self._sentence(sentence, place)
            claims += found
            named |= words
            if not found:
                unchecked.append(sentence.strip())
        return FactCheck(text, tuple(claims), frozenset(named), self.words, tuple(unchecked))

    def _sentence(self, sentence: str, place: int) -> tuple[list[Claim], set[int]]:
        claims: list[Claim] = []
        spans: list[tuple[re.Match[str], list[list[int]]]] = []
        for match in _QUOTES.finditer(sentence):
            body = next(group for group in match.groups() if group is not None)
            where = self.find(body)
            if not where and _plain(body) in self.labels:
                continue
            claims.append(Claim("quote", body, place + match.end(), "" if where else "not in the text"))
            if where:
                spans.append((match, where))
        named = {i for _, where in spans for run in where for i in run}
        blank = _QUOTES.sub(lambda m: "·" * len(m.group()), sentence)
        claims += self._numbers(blank, place, sorted(named), [run for _, w in spans for run in w])
        claims += self._ranks(blank, place, spans)
        claims += self._polarity(blank, place, spans)
        return claims, named

    def find(self, quote: str) -> list[list[int]]:
        """The words of each place where a quote stands, as whole words or as one token."""
        if not set(quote) - _VISIBLE.keys():
            blanks = [i for i, name in enumerate(self.words.names) if not name.strip()]
            return [[i] for i in blanks]
        shown = quote if set(self.input) & _VISIBLE.keys() else quote.translate(_BLANKS)
        whole = " ".join(shown.casefold().split())
        found: list[list[int]] = []
        for wanted in dict.fromkeys((whole, _plain(shown))):
            found += [run for run in self._places(wanted) if run and run not in found]
        return found

    def _places(self, wanted: str) -> list[list[int]]:
        if not wanted:
            return []
        left, right = (r"(?<!\w)" if wanted[0].isalnum() else ""), (r"(?!\w)" if wanted[-1].isalnum() else "")
        pattern = left + re.escape(wanted).replace(r"\ ", r"\s+") + right
        text = self.input.casefold()
        found = [self._inside(*m.span()) for m in re.finditer(pattern, text)]
        if not found and wanted in self.pieces and wanted in text:
            start = text.index(wanted)
            found = [self._inside(start, start + len(wanted))]
        return found

    def _inside(self, start: int, end: int) -> list[int]:
        return [i for i, (a, b) in enumerate(self.words.edges) if a < end and b > start]

    def _numbers(self, sentence: str, place: int, quoted: list[int], runs: list[list[int]]) -> list[Claim]:
        scores, total = self.words.scores, float(np.abs(self.words.scores).sum())
        peak = float(np.abs(scores).max()) or 1.0
        support, opposed = (float(np.maximum(side, 0).sum()) or 1.0 for side in (scores, -scores))
        counts = [float(sum(map(self.words.is_word, run))) for run in runs]
        groups = [*runs, quoted] if runs else [[i] for i in range(len(scores))]
        sums = np.array([scores[group].sum() for group in groups])
        sizes = np.array([np.abs(scores[group]).sum() for group in groups])
        ratios = [sums / part for part in (1.0, peak, support, opposed)]
        known = np.concatenate([*ratios, sizes / (total or 1.0), counts, self.facts])
        claims = []
        for match in _NUMBER.finditer(sentence):
            sign, digits, percent = match.groups()
            decimals = len(re.split("[.,]", digits)[1]) if re.search("[.,]", digits) else 0
            value = float(digits.replace(",", ".")) * (-1 if sign in ("-", "−") else 1)
            values = (known if sign else np.abs(known)) * (100 if percent else 1)
            fits = bool((np.abs(values - value) <= 0.5001 * 10.0**-decimals).any())
            whole = not percent and not decimals and not sign
            fits = fits and (not whole or value in [*counts, *(f for f in self.facts if f == int(f))])
            if whole and value <= 10 and not fits:
                continue  # "these 3 words", "2 sentences": a count of the text's own
            why = "" if fits else "no such figure in the map"
            claims.append(Claim("number", match.group().strip(), place + match.end(), why))
        return claims

    def _ranks(
        self, sentence: str, place: int, spans: list[tuple[re.Match[str], list[list[int]]]]
    ) -> list[Claim]:
        if not spans or not re.search(self.cues["first"], sentence, re.IGNORECASE):
            return []
        signs = [0, 1] + ([-1] if re.search(self.cues["against"], sentence, re.IGNORECASE) else [])
        sides = [
            [i for i in order if not sign or sign * self.words.scores[i] > 0]
            for sign in signs
            for order in (self.order, [i for i in self.order if self.words.is_word(i)])
        ]
        claims = []
        for match, where in spans:
            held = {i for run in where for i in run}
            carried = max(abs(float(self.words.scores[run].sum())) for run in where)
            fits = any(
                held & set(side[: len(spans)])
                or carried >= max(abs(float(self.words.scores[i])) for i in side[len(spans) - 1 :])
                for side in sides
                if len(side) >= len(spans)
            )
            why = "" if fits else f"not among the {len(spans)} strongest"
            claims.append(Claim("rank", match.group(), place + match.end(), why))
        return claims

    def _polarity(
        self, sentence: str, place: int, spans: list[tuple[re.Match[str], list[list[int]]]]
    ) -> list[Claim]:
        cues = []
        for side, sign in (("for", 1), ("against", -1)):
            for cue in re.finditer(self.cues[side], sentence, re.IGNORECASE):
                flipped = bool(_NEGATED.search(sentence[: cue.start()]))
                cues.append((cue.start(), cue.end(), -sign if flipped else sign))
        claims = []
        for match, where in spans if cues else []:
            _, _, sign = min(cues, key=lambda cue: max(cue[0] - match.end(), match.start() - cue[1], 0))
            sums = [float(self.words.scores[run].sum()) for run in where]
            why = "" if self.signed else "these scores have no sign"
            if self.signed and not any(sign * value > 0 for value in sums):
                why = "it speaks against the target" if sign > 0 else "it does not speak against the target"
            claims.append(Claim("polarity", match.group(), place + match.end(), why))
        return claims


def _derived(words: Words, strip: xr.Dataset) -> list[float]:
    """Figures about several words: what the strongest few hold together, halves, thirds, effective number."""
    shares, count = words.shares, len(words.names)
    found = []
    for strength in (np.abs(words.scores), words.scores, -words.scores):
        order = np.argsort(-strength, kind="stable")
        found += np.cumsum(shares[order][:TOP]).tolist()
    third, half = round(count / 3), (count + 1) // 2
    edges = ((0, half), (half, count), (0, third), (third, count - third), (count - third, count))
    found += [float(shares[a:b].sum()) for a, b in edges] + [1 / count]
    values = np.asarray(strip[strip.attrs["value"]].values, dtype=np.float64)
    return [*found, effective_number(values[strip["role"].values == "text"])]


def _plain(text: str) -> str:
    """Lower case, single blanks, no mark at the end that English puts inside quotation marks."""
    plain = " ".join(text.casefold().split())
    return plain.rstrip(".,;:") or plain
