"""Answers kept by what was asked, so that the same question costs once."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from probe.explainers._verbalize.llm.server import Answer


def default_folder() -> Path:
    """The user's cache folder for answers."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("attention-probe")) / "verbalizations"


def key_of(question: dict[str, Any]) -> str:
    """SHA-256 of a question: place, model, messages and settings, never a key."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def read(folder: Path | None, key: str) -> Answer | None:
    """The kept answer, or None; a damaged file counts as none."""
    if folder is None:
        return None
    try:
        kept = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        return Answer(
            str(kept["text"]), int(kept["prompt_tokens"]), int(kept["completion_tokens"]), 0.0, True
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(folder: Path | None, key: str, answer: Answer) -> None:
    """Keep an answer, whole or not at all; only the owner can read it, for explained texts may be private."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    document = {
        "text": answer.text,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
    }
    handle, partial = tempfile.mkstemp(dir=folder, suffix=".partial")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False)
    os.replace(partial, folder / f"{key}.json")
