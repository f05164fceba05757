"""A token strip in the words of a language model, each claim held against the map."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xarray as xr

from probe.errors import InputError
from probe.explainers._verbalize.facts import Claim, FactCheck, fact_check, sentences
from probe.explainers._verbalize.language import Language
from probe.explainers._verbalize.languages import language_of
from probe.explainers._verbalize.llm import cache as kept
from probe.explainers._verbalize.llm.prompt import SCHEMA, Prompt, again, messages
from probe.explainers._verbalize.llm.server import Answer, Server
from probe.explainers._verbalize.statement import Statement, as_dataset
from probe.explainers._verbalize.strip import strip_statements

AT = (1, 5, 10)


def write_words(
    strip: xr.Dataset,
    server: Server,
    *,
    prompt: Prompt = "checked",
    strict: int = 0,
    language: str = "en",
    cache: Path | None = None,
) -> xr.Dataset:
    """Ask a language model for the words of a strip and check them.

    Args:
        strip: a token_strip.
        server: whom to ask.
        prompt: "checked" or "published".
        strict: how often it is asked again, with the errors listed, before the templates speak; 0: never, what the
            map does not bear out is only marked.
        language: of the answer.
        cache: folder of kept answers; None keeps none.

    Returns:
        A `text` result (see `verbalization`), a statement a sentence: claim "llm", "llm_unsupported" or
        "llm_unchecked" (nothing in it can be looked up), value the share of its claims that hold. Attributes say
        what was counted, what it cost, and whether the templates had to speak (`fallback`).

    Raises:
        InputError: no token_strip, or one that cannot be put into words.
        ServerError: the server gave no answer.
    """
    if not isinstance(strip, xr.Dataset) or strip.attrs.get("kind") != "token_strip":
        raise InputError("a language model puts results of kind token_strip into words; this is none")
    tongue = language_of(language)
    asked = first = messages(strip, prompt, tongue)
    answers: list[Answer] = []
    for _ in range(strict + 1):
        answers.append(_ask(server, asked, SCHEMA if prompt == "checked" else None, cache))
        checked = _checked(answers[-1].text, strip, language)
        if not strict or not errors_of(checked):
            break
        asked = again(first, answers[-1].text, errors_of(checked))
    fell = bool(strict and errors_of(checked))
    written = [] if fell else _statements(checked, strip, language)
    words = as_dataset(_fallen(checked, strip, tongue) if fell else [*written, _tally(checked, tongue)])
    words.attrs = _attrs(strip, language) | _counts(checked) | _spent(server, answers)
    words.attrs |= {"prompt": prompt, "strict": strict, "fallback": fell, "answer": answers[-1].text}
    return words


def write_many(
    strips: Iterable[xr.Dataset],
    server: Server,
    *,
    together: int = 4,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> list[xr.Dataset]:
    """As `write_words` for many strips, several requests at a time; in the order of the strips.

    Raises:
        ServerError: of the first that failed; the answers before it are in the cache.
    """
    server.name()
    found = []
    with ThreadPoolExecutor(max_workers=together) as pool:
        try:
            for words in pool.map(lambda strip: write_words(strip, server, **options), strips):
                found.append(words)
                if progress is not None:
                    progress(len(found))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def errors_of(checked: FactCheck) -> list[str]:
    """What is wrong with an answer, one line each; an answer that quotes nothing is wrong as a whole."""
    found = [f"{claim.kind} {claim.text!r}: {claim.why}" for claim in checked.unsupported]
    found += [f"nothing in this sentence can be looked up: {text!r}" for text in checked.unchecked]
    if not any(claim.kind == "quote" and claim.supported for claim in checked.claims):
        found.append("it quotes no word of the text")
    return found


def _ask(
    server: Server, asked: list[dict[str, str]], schema: dict[str, Any] | None, folder: Path | None
) -> Answer:
    question = {
        "place": server.place,
        "model": server.name(),
        "messages": asked,
        "schema": schema,
        "temperature": server.temperature,
        "max_tokens": server.max_tokens,
    }
    key = kept.key_of(question)
    found = kept.read(folder, key)
    if found is None:
        found = server.ask(asked, schema)
        kept.write(folder, key, found)
    return found


def _checked(answer: str, strip: xr.Dataset, language: str) -> FactCheck:
    """The check of an answer's text and, where it is of the asked form, of its list of evidence."""
    document = _document(answer)
    if document is None:
        return fact_check(answer.strip(), strip, language)
    checked = fact_check(str(document.get("explanation", "")).strip(), strip, language)
    claims = [claim for item in document.get("evidence") or () for claim in _evidence(item, checked, strip)]
    return FactCheck(
        checked.text, (*checked.claims, *claims), checked.named, checked.words, checked.unchecked
    )


def _document(answer: str) -> dict[str, Any] | None:
    start, end = answer.find("{"), answer.rfind("}")
    try:
        found = json.loads(answer[start : end + 1])
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("explanation"), str) else None


def _evidence(item: Any, checked: FactCheck, strip: xr.Dataset) -> list[Claim]:
    if not isinstance(item, dict) or not isinstance(item.get("quote"), str):
        return [Claim("form", str(item)[:40], 0, "evidence without a quote")]
    quote, found = item["quote"], []
    single = fact_check(f"“{quote}”.", strip)
    found += [Claim(c.kind, c.text, 0, c.why) for c in single.claims if c.kind == "quote"]
    sides = {"for": 1, "against": -1}
    if single.named and item.get("role") in sides:
        score = float(sum(checked.words.scores[i] for i in single.named))
        fits = bool(strip.attrs["signed"]) and score * sides[item["role"]] > 0
        found.append(
            Claim("polarity", quote, 0, "" if fits else f"it does not speak {item['role']} the target")
        )
    return found


def _statements(checked: FactCheck, strip: xr.Dataset, language: str) -> list[Statement]:
    found = []
    for place, sentence in sentences(checked.text):
        inside = [c for c in checked.claims if place < c.end <= place + len(sentence)]
        own = fact_check(sentence, strip, language)
        held = sum(claim.supported for claim in inside) / len(inside) if inside else float("nan")
        claim = "llm_unchecked" if not inside else "llm" if held == 1 else "llm_unsupported"
        tokens = tuple(t for i in sorted(own.named) for t in own.words.tokens[i])
        found.append(Statement(claim, own.marked().strip(), held, tokens))
    return found


def _tally(checked: FactCheck, language: Language) -> Statement:
    """How much of the text the map bears out."""
    claims = len(checked.claims)
    if not claims:
        return Statement("llm_check", language.say("llm_no_claim"), 0.0)
    held = claims - len(checked.unsupported)
    return Statement("llm_check", language.say("llm_check", held=held, claims=claims), held / claims)


def _fallen(checked: FactCheck, strip: xr.Dataset, language: Language) -> list[Statement]:
    errors = errors_of(checked)
    text = language.say("fallback", count=len(errors), first=errors[0])
    return [Statement("fallback", text, float(len(errors))), *strip_statements(strip, language)]


def _attrs(strip: xr.Dataset, language: str) -> dict[str, Any]:
    return {
        "kind": "text",
        "explainer": "llm_verbalization",
        "title": f"{strip.attrs['title']} in a language model's words",
        "parameters": "{}",
        "references": ["Feldhus et al., Saliency Map Verbalization, NLRSE 2023 (arXiv 2210.07222), §3.3"],
        "unit": "1",
        "value": "text",
        "model": strip.attrs["model"],
        "of": strip.attrs["explainer"],
        "language": language,
    }


def _counts(checked: FactCheck) -> dict[str, Any]:
    precision, recall = checked.precision_recall()
    return {
        "claims": len(checked.claims),
        "unsupported": len(checked.unsupported),
        "unchecked": len(checked.unchecked),
        "errors": errors_of(checked),
        "quotation_precision": checked.quotation_precision,
        "top_precision": precision,
        "top_recall": recall,
        **{f"coverage_at_{k}": checked.coverage_at(k) for k in AT},
    }


def _spent(server: Server, answers: list[Answer]) -> dict[str, Any]:
    new = [answer for answer in answers if not answer.cached]
    return {
        "verbalizer": server.name(),
        "server": server.place,
        "requests": len(answers),
        "requests_cached": len(answers) - len(new),
        "prompt_tokens": sum(answer.prompt_tokens for answer in new),
        "completion_tokens": sum(answer.completion_tokens for answer in new),
        "seconds": sum(answer.seconds for answer in new),
        "cost_usd": sum(server.cost(answer) for answer in new),
    }
