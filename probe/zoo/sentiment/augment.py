"""New texts from the training sentences, for the teachers to label and the student to learn from.

Each text is made by one recipe: words exchanged, dropped or masked, a run of words cut out, runs of two sentences
joined, several sentences in a row, or a word of the vocabulary put into one of our own templates. Single words and
short runs teach the student what each word contributes; masks make occluded inputs familiar to it.
"""

import multiprocessing
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from probe.zoo.sentiment.data import Sentence

RECIPES = {"exchange": 30, "drop": 13, "mask": 12, "run": 15, "join": 14, "several": 4, "template": 12}
DOMAINS = {"movie": 5.0, "amazon": 2.5, "tweets": 1.5, "nyt": 1.0}  # how often each domain gives the sentence
LINKS = (
    "but",
    ", but",
    "and",
    ",",
    ".",
    ", and",
    ", although",
    ", yet",
    "; however ,",
    "because",
    "-",
    "even though",
    "",
)
TEMPLATES = (
    "{}", "{} .", "{} !", "{} {}", "a {} film", "the {} acting", "it is {}", "it is not {}", "this was {} and {}",
    "not {}", "never {}", "very {}", "so {} !", "too {}", "hardly {}", "a {} , {} story", "{} but {}", "not {} but {}",
    "i {} it", "i did not {} this", "they {} us", "the plot is {}", "the movie is as {} as it is {}", "full of {}",
    "without {}", "no {}", "a lack of {}", "less {} than {}", "more {} than {}", "the {} is {}", "my {} was {} today",
    "what a {} product", "the battery is {}", "{} service , {} quality", "the policy is {}", "neither {} nor {}",
    "{} with {}", "a {} of {}", "could have been {}", "feels {} , never {}", "at once {} and {}",
)  # fmt: skip


@dataclass(frozen=True)
class Stock:
    """What the recipes draw from: sentences as word lists, words of each kind, and each known word's neighbours."""

    sentences: Sequence[list[str]]
    weights: Sequence[float]
    used: Sequence[str]
    known: Sequence[str]
    near: dict[str, list[str]]


def neighbours(table: Tensor, vocabulary: dict[str, int], count: int = 12) -> dict[str, list[str]]:
    """The `count` nearest whole words of each whole word by cosine of input embeddings ([pieces, width])."""
    whole = sorted(w for w in vocabulary if len(w) > 2 and w.isascii() and w.isalpha())
    vectors = torch.nn.functional.normalize(table[[vocabulary[w] for w in whole]].double(), dim=-1)
    near: dict[str, list[str]] = {}
    for start in range(0, len(whole), 1024):  # in float64, so that every machine finds the same ones
        best = (vectors[start : start + 1024] @ vectors.T).topk(count + 1).indices[:, 1:].tolist()
        near |= {whole[start + i]: [whole[j] for j in row] for i, row in enumerate(best)}
    return near


def stock(sentences: Sequence[Sentence], near: dict[str, list[str]]) -> Stock:
    """Make the sentences ready to draw from."""
    lists = [re.findall(r"\w+(?:'\w+)*|[^\w\s]", s.text.lower()) for s in sentences]
    counts = {d: sum(s.domain == d for s in sentences) for d in DOMAINS}
    weights = list(accumulate(DOMAINS[s.domain] / counts[s.domain] for s in sentences))
    used = [w for words in lists for w in words if w.isalpha()]
    return Stock(lists, weights, used, list(near), near)


def _exchange(words: list[str], store: Stock, draw: random.Random) -> list[str]:
    share = draw.uniform(0.08, 0.5)
    out = []
    for word in words:
        if draw.random() >= share:
            out.append(word)
        elif word in store.near and draw.random() < 0.5:
            out.append(draw.choice(store.near[word]))
        else:
            out.append(draw.choice(store.used if draw.random() < 0.4 else store.known))
    return out


def _run(words: list[str], draw: random.Random, longest: int = 14) -> list[str]:
    length = min(len(words), draw.randint(1, longest))
    start = draw.randint(0, len(words) - length)
    return words[start : start + length]


def _thin(words: list[str], draw: random.Random, most: float, put: str) -> list[str]:
    share = draw.uniform(0.05, most)
    return [w for w in (put if draw.random() < share else w for w in words) if w]


def _fill(template: str, store: Stock, draw: random.Random) -> str:
    slots = template.count("{}")
    return template.format(
        *(draw.choice(store.used if draw.random() < 0.3 else store.known) for _ in range(slots))
    )


def compose(store: Stock, draw: random.Random) -> str:
    """One new text; words and signs are separated by spaces, which is how the tokenizers cut them anyway."""

    def sentence() -> list[str]:
        return draw.choices(store.sentences, cum_weights=store.weights)[0]

    recipe = draw.choices(list(RECIPES), list(RECIPES.values()))[0]
    words = sentence()
    if recipe == "exchange":
        words = _exchange(words, store, draw)
    elif recipe == "drop":
        words = _thin(words, draw, 0.5, "")
    elif recipe == "mask":
        words = _thin(words, draw, 0.8, "[MASK]")
    elif recipe == "run":
        words = _run(words, draw)
    elif recipe == "join":
        words = [*_run(words, draw, 24), draw.choice(LINKS), *_run(sentence(), draw, 24)]
    elif recipe == "several":
        words = [w for _ in range(draw.randint(2, 6)) for w in sentence()]
    else:
        return _fill(draw.choice(TEMPLATES), store, draw)
    return " ".join(w for w in words if w) or draw.choice(store.used)


_STORE: list[Stock] = []


def _chunk(task: tuple[int, int]) -> list[str]:
    seed, count = task
    draw = random.Random(seed)
    return [compose(_STORE[0], draw) for _ in range(count)]


def texts(store: Stock, count: int, seed: int, processes: int) -> list[str]:
    """`count` different new texts, the same ones for the same seed whatever the number of processes."""
    size = 20_000
    tasks = [(seed * 1_000_003 + i, min(size, count - i * size)) for i in range(-(-count // size))]
    _STORE[:] = [store]
    if processes <= 1:
        chunks = [_chunk(task) for task in tasks]
    else:
        with multiprocessing.get_context("fork").Pool(processes) as pool:  # the workers share the stock
            chunks = pool.map(_chunk, tasks, chunksize=1)
    return list(dict.fromkeys(t for chunk in chunks for t in chunk))
