"""Looks every quoted word and every figure of a verbalized token strip up again, with code of its own.

Each sentence must be of a known form; what it quotes must stand in the input (or be the target or a special
token); each of its figures is computed again from tokens, offsets and scores.
"""

import re

import numpy as np

NUMBER = r"[+−]?\d+\.\d+"
SHARE = r"(?:under \d+%|over \d+%|\d+%)"
PLACES = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]
PLACES += [f"{n}th" for n in range(13, 21)]
CHANCE = r"(?:under \d\.\d\d|over \d\.\d\d|\d\.\d\d)"
QUOTE = r"“[^”]*”"
WHICH = r"(?:the \w+ )?"
ITEM = rf"{WHICH}{QUOTE} \({NUMBER}, {SHARE}(?: of the total(?: attribution)?)?\)"


class Map:
    """The strip read again: units are words (\\w+ with inner marks) or signs, by character offsets."""

    def __init__(self, strip):
        self.attrs = strip.attrs
        text = strip.attrs["input"]
        inside = strip["role"].values == "text"
        self.all = strip["score"].values
        self.tokens = self.all[inside]
        self.special = [str(t) for t in strip["text"].values[~inside]]
        spans = [m.span() for m in re.finditer(r"\w+(?:['’\-]\w+)*|[^\w\s]+", text)]
        self.units = {}
        for score, start, end in zip(
            self.tokens, strip["start"].values[inside], strip["end"].values[inside], strict=True
        ):
            begin = start + len(text[start:end]) - len(text[start:end].lstrip())
            home = next(s for s in spans if s[0] <= begin < s[1])
            self.units[home] = self.units.get(home, 0.0) + score
        self.text, self.names = text, [text[a:b] for a, b in self.units]
        self.scores = np.array(list(self.units.values()))
        self.total = np.abs(self.scores).sum()
        self.support = self.scores[self.scores > 0].sum()

    def share(self, chosen):
        return np.abs(self.scores[chosen]).sum() / self.total


def shown(value):
    """The forms that a share may take in words."""
    value = round(value, 9)
    if 0 < value < 0.005:
        return "under 1%"
    return "over 99%" if 0.995 <= value < 1 else f"{100 * value:.0f}%"


def chance(value):
    if 0 < value < 0.005:
        return "under 0.01"
    return "over 0.99" if 0.995 <= value < 1 else f"{value:.2f}"


def number(text):
    return float(text.replace("−", "-"))


def close(text, value):
    return abs(number(text) - value) <= 0.5 * 10 ** -len(text.partition(".")[2]) * 1.001


def unit(m, which, name):
    """Index of the unit of this name; which of several must be said, and only then."""
    places = [i for i, other in enumerate(m.names) if other == name]
    if not places or (len(places) > 1) != bool(which):
        raise AssertionError(f"{which}{name!r} stands {len(places)} times in {m.text!r}")
    return places[PLACES.index(which.split()[1]) if which else 0]


def check_items(m, sentence, sign, taken=()):
    """Each “word” (score, share) must be a unit with this score and share; returns the units' indices."""
    found = []
    for which, name, score, share in re.findall(rf"({WHICH})“([^”]*)” \(({NUMBER}), ({SHARE})", sentence):
        i = unit(m, which, name)
        fits = close(score, m.scores[i]) and share == shown(m.share([i])) and m.scores[i] * sign > 0
        if not fits or i in found or i in taken:
            raise AssertionError(f"{which}{name!r} with {score} and {share} is not in the map: {sentence}")
        found.append(i)
    return found


def by_strength(m, sign):
    return [i for i in np.argsort(-sign * m.scores, kind="stable") if sign * m.scores[i] > 0]


def prediction(m, g):
    value = m.attrs.get("prediction_probability", m.attrs["target_probability"])
    return g[0].strip("“”") == m.attrs.get("prediction", m.attrs["target"]).strip() and g[1] == chance(value)


def target(m, g):
    return g[0].strip("“”") == m.attrs["target"].strip() and g[1] == chance(m.attrs["target_probability"])


def flat(m, g):
    top = int(np.argmax(np.abs(m.scores)))
    return (
        unit(m, g[0] or "", g[1].strip("“”")) == top
        and g[2] == shown(m.share([top]))
        and g[3] == shown(1 / len(m.scores))
    )


def phrase(m, g):
    """The coverage of the run of units that spells the phrase, gaps and all, on the side that it names."""
    quote, words, share, side = g
    sign = -1 if (side or "").startswith("against") else 1
    support = np.maximum(sign * m.scores, 0).sum()
    starts = [i for i in range(len(m.text)) if m.text.startswith(quote.strip("“”"), i)]
    for start in starts:
        stop = start + len(quote.strip("“”"))
        run = [score for (a, b), score in m.units.items() if start <= a and b <= stop]
        if shown(max(0.0, sign * sum(run)) / support) == share:
            return words is None or len(re.findall(r"\w+(?:['’\-]\w+)*", quote)) == int(words)
    return False


def top(m, g):
    return check_items(m, g[0], +1) == by_strength(m, +1)[:1]


def following(m, g):
    first, *rest = by_strength(m, +1)
    named = check_items(m, g[0], +1, [first])
    count = ("", "", "two", "three", "four").index(g[1])
    together = shown(m.share([first, *named]))
    return rest[: len(named)] == named and count == len(named) + 1 and g[2] == together


def against(m, g):
    named = check_items(m, g[0], -1)
    return by_strength(m, -1)[: len(named)] == named and g[1] == shown(m.share(m.scores < 0))


def little(m, g):
    return g[0] == shown(m.share(m.scores < 0))


def balance(m, g):
    less = m.share(m.scores < 0)
    return less > 0.5 and g == (shown(less), shown(1 - less))


def place(m, g):
    count = len(m.scores)
    third, half = round(count / 3), (count + 1) // 2
    ranges = {
        "first half": range(half),
        "second half": range(half, count),
        "first third": range(third),
        "middle third": range(third, count - third),
        "last third": range(count - third, count),
    }
    return g[1] == shown(m.share(list(ranges[g[0]])))


def equal_tokens(m, g):
    p = np.abs(m.tokens[m.tokens != 0])
    p = p / p.sum()
    return int(g[1]) == len(m.tokens) and close(g[0], np.exp(-(p * np.log(p)).sum()))


def special(m, g):
    rest = 1 - np.abs(m.tokens).sum() / np.abs(m.all).sum()
    return g[0].strip("“”") in m.special and g[1] == shown(rest)


def nothing(sign):
    return lambda m, g: not (sign * m.scores > 0).any()


def convergence(m, g):
    return close(g[0], abs(m.attrs["score_change"])) and close(g[1], abs(m.attrs["convergence_delta"]))


FORMS = [
    (
        rf"(?:The model's answer|The most probable next token) is ({QUOTE}) \(probability ({CHANCE})\)\.",
        prediction,
    ),
    (rf"Explained is another (?:label|next token), ({QUOTE}) \(probability ({CHANCE})\)\.", target),
    (
        rf"The map does not single out any word: the strongest, ({WHICH})({QUOTE}), holds ({SHARE}) of the total, "
        rf"where an even share is ({SHARE})\.",
        flat,
    ),
    (r"All scores are 0: the map does not single out any word\.()", lambda m, g: m.total == 0),
    (rf"({QUOTE}) is the only word, so nothing .*", lambda m, g: m.names == [g[0].strip("“”")]),
    (r"These scores have no sign: .*()", lambda m, g: not m.attrs["signed"]),
    (
        rf"The (?:phrase|passage|sentence) ({QUOTE})(?: \((\d+) words\))? carries ({SHARE}) "
        rf"of (?:the total|all that speaks (for|against) {QUOTE})\.",
        phrase,
    ),
    (rf"(?:What speaks most strongly for {QUOTE} is|The highest score is that of) ({ITEM})\.", top),
    (rf"Next comes? ((?:{ITEM}(?:, | and )?)+); these (\w+) hold ({SHARE}) together\.", following),
    (
        rf"Against it speaks? above all ((?:{ITEM}(?:, | and )?)+); "
        rf"all that speaks against it makes up ({SHARE}) of the total\.",
        against,
    ),
    (rf"Little speaks against it: ({SHARE}) of the total\.", little),
    (rf"In sum, more speaks against {QUOTE} \(({SHARE})\) than for it \(({SHARE})\)\.", balance),
    (rf"No word speaks for {QUOTE}\.()", nothing(+1)),
    (rf"No word speaks against {QUOTE}\.()", nothing(-1)),
    (rf"The (\w+ \w+) of the text holds ({SHARE}) of the attribution\.", place),
    (rf"The attribution is spread over the text: its (\w+ \w+) holds ({SHARE})\.", place),
    (rf"The attribution is [a-z ]+: it weighs like ({NUMBER}) equal tokens of (\d+)\.", equal_tokens),
    (
        rf"Special tokens, ({QUOTE}) above all, hold ({SHARE}) of the attribution of the whole input; .*",
        special,
    ),
    (
        rf"Caution: the scores miss the change that they share out \(({NUMBER})\) by ({NUMBER}); .*",
        convergence,
    ),
]


def check(strip, text):
    """Raise AssertionError for the first sentence that is of no known form or does not agree with the map."""
    m = Map(strip)
    for sentence in text.splitlines():
        if sentence == strip.attrs.get("faithfulness_verdict"):
            continue
        for form, agrees in FORMS:
            match = re.fullmatch(form, sentence)
            if match:
                if not agrees(m, match.groups()):
                    raise AssertionError(f"does not agree with the map: {sentence}")
                break
        else:
            raise AssertionError(f"a sentence that nothing checks: {sentence}")
