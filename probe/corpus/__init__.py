"""Many inputs through one model, each captured once, resumable, aggregated."""

from probe.corpus.inputs import read_jsonl
from probe.corpus.run import capture_corpus, open_corpus

__all__ = ["capture_corpus", "open_corpus", "read_jsonl"]
