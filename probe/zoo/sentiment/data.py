"""The 20-rater sentences: reading, and a split that keeps documents and near duplicates on one side.

Source: Hutto & Gilbert, *VADER*, ICWSM 2014 (MIT), in the PyPI source archive of vaderSentiment 0.5:
`pip download --no-deps --no-binary :all: vaderSentiment==0.5`; the four files are in
`additional_resources/hutto_ICWSM_2014.tar.gz` inside it.
"""

import hashlib
import html
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from probe.errors import InputError

FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
BY_DOCUMENT = ("amazon", "nyt")  # their numbers read document_sentence
TEST_SHARE, DEV_SHARE = 0.15, 0.10
CLEAR = 0.5  # a sentence counts as positive or negative when its mean rating lies beyond ±CLEAR


@dataclass(frozen=True)
class Sentence:
    """One rated sentence.

    Attributes:
        text: The sentence, with HTML entities and doubled apostrophes undone.
        rating: Mean of 20 people's ratings, from -4 (most negative) to +4.
        domain: "movie", "amazon", "nyt" or "tweets".
        document: What the sentence must not be separated from; its own number where there is no document.
    """

    text: str
    rating: float
    domain: str
    document: str

    @property
    def clear(self) -> bool:
        """Whether people see it as clearly positive or negative (|rating| > 0.5)."""
        return abs(self.rating) > CLEAR


def read(folder: Path) -> list[Sentence]:
    """Read the four files of rated sentences.

    Args:
        folder: Holds the files named in `FILES`, tab-separated: number, mean rating, text.

    Raises:
        InputError: A file is missing or a line does not have three fields.
    """
    sentences = []
    for domain, name in FILES.items():
        path = folder / name
        if not path.is_file():
            raise InputError(
                f"{path} is missing; expected the four files of vaderSentiment 0.5 (see {__name__})"
            )
        for line in path.read_text("utf-8", errors="replace").split("\n"):
            if not line.strip():
                continue
            fields = line.split("\t", 2)
            if len(fields) != 3:
                raise InputError(
                    f"{path}: expected number, rating and text separated by tabs, got {line[:60]!r}"
                )
            number, rating, text = fields
            document = number.split("_")[0] if domain in BY_DOCUMENT else number
            text = " ".join(html.unescape(text).replace("''", '"').split())
            sentences.append(Sentence(text, float(rating), domain, f"{domain}:{document}"))
    return sentences


def words(text: str) -> list[str]:
    """Lower-case words of a text, punctuation left out."""
    return re.findall(r"[a-z0-9']+", text.lower())


def _shingles(text: str, size: int = 4) -> frozenset[tuple[str, ...]]:
    """All runs of `size` words."""
    tokens = words(text)
    return frozenset(tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1))


def clusters(sentences: list[Sentence], alike: float = 0.4) -> list[str]:
    """Name each sentence's cluster: same document, or Jaccard similarity of 4-word runs of at least `alike`."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    runs = [_shingles(s.text) for s in sentences]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, own in enumerate(runs):
        for run in own:
            for j in holders[run]:
                if len(own & runs[j]) >= alike * len(own | runs[j]):
                    a, b = sorted((root(sentences[i].document), root(sentences[j].document)))
                    parent[b] = a
            holders[run].append(i)
    return [root(s.document) for s in sentences]


def split(sentences: list[Sentence], seed: int = 0) -> dict[str, list[Sentence]]:
    """Split by cluster into train, dev and test; each cluster is drawn by a hash of the seed and its name.

    Very short sentences ("Great value.") can stand in many documents: those of dev and test whose words also stand
    in train are left out, and so are those of dev that stand in test.
    """
    parts: dict[str, list[Sentence]] = {"test": [], "dev": [], "train": []}
    for sentence, cluster in zip(sentences, clusters(sentences), strict=True):
        draw = int.from_bytes(hashlib.sha256(f"{seed}/{cluster}".encode()).digest()[:8], "big") / 2**64
        part = "test" if draw < TEST_SHARE else "dev" if draw < TEST_SHARE + DEV_SHARE else "train"
        parts[part].append(sentence)
    seen = {" ".join(words(s.text)) for s in parts["train"]}
    for part in ("test", "dev"):
        parts[part] = [s for s in parts[part] if " ".join(words(s.text)) not in seen]
        seen |= {" ".join(words(s.text)) for s in parts[part]}
    return parts
