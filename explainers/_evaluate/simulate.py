"""Simulatability by machine: does a small model recover the answer from the words that an explanation names?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probe.explainers._evaluate.measures import Measure

FOLDS = 5
MEASURE = Measure(
    "simulatability",
    "higher",
    "share of answers that a bag of words guesses from the words named, cross-validated",
)


def simulate(named: Sequence[Sequence[str]], answers: Sequence[str], seed: int) -> NDArray[np.float64]:
    """For each text 1 if its answer is guessed from the named words of it alone, else 0.

    A logistic regression on counts of the lower-cased words, trained on the other folds. Names of the answers are left
    out of the words, so that no label gives itself away.

    Args:
        named: the words that each explanation names.
        answers: what the model said.
        seed: of the folds.

    Returns:
        [texts]; all NaN where an answer has fewer texts than there are folds.

    References:
        Hase, Bansal, Evaluating Explainable AI: Which Algorithmic Explanations Help Users Predict Model Behavior?, ACL
        2020 (arXiv 2005.01831).
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    kinds, counts = np.unique(np.array(answers), return_counts=True)
    if len(kinds) < 2 or counts.min() < FOLDS:
        return np.full(len(named), np.nan)
    labels = {kind.casefold().strip() for kind in kinds.tolist()}
    texts = [
        "\n".join(word for word in (w.casefold().strip() for w in words) if word and word not in labels)
        for words in named
    ]
    guesser = make_pipeline(
        CountVectorizer(analyzer=str.splitlines, lowercase=False), LogisticRegression(C=10.0, max_iter=1000)
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    if not any(texts):
        return np.full(len(named), np.nan)
    guessed = cross_val_predict(guesser, texts, np.array(answers), cv=folds)
    return np.asarray(guessed == np.array(answers), dtype=np.float64)
