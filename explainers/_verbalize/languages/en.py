"""English: the sentences that every other language has too."""

from probe.explainers._verbalize.language import Language


def _later(number: int) -> str:
    teens = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


_STRIP = {
    "prediction": "The model's answer is {answer} (probability {chance}).",
    "prediction_token": "The most probable next token is {answer} (probability {chance}).",
    "target": "Explained is another label, {target} (probability {chance}).",
    "target_token": "Explained is another next token, {target} (probability {chance}).",
    "contrast": "The question is why {target} and not {rival} (probability {chance}).",
    "answer": "The model went on with {answer} ({count}); explained is this whole answer.",
    "flat_zero": "All scores are 0: the map does not single out any word.",
    "flat_one": "{word} is the only word, so nothing stands out against anything.",
    "flat": "The map does not single out any word: the strongest, {word}, holds {share} of the total, "
    "where an even share is {even}.",
    "unsigned": "These scores have no sign: they say where the model reads, not what its answer rests on.",
    "phrase": "The phrase {quote} ({count}) carries {share} of all that speaks for {target}.",
    "passage": "The passage {quote} ({count}) carries {share} of all that speaks for {target}.",
    "sentence": "The sentence {quote} carries {share} of all that speaks for {target}.",
    "phrase_unsigned": "The phrase {quote} ({count}) carries {share} of the total.",
    "passage_unsigned": "The passage {quote} ({count}) carries {share} of the total.",
    "sentence_unsigned": "The sentence {quote} carries {share} of the total.",
    "phrase_against": "The phrase {quote} ({count}) carries {share} of all that speaks against {target}.",
    "passage_against": "The passage {quote} ({count}) carries {share} of all that speaks against {target}.",
    "sentence_against": "The sentence {quote} carries {share} of all that speaks against {target}.",
    "no_support": "No word speaks for {target}.",
    "top_word": "What speaks most strongly for {target} is {word} ({score}, {share} of the total attribution).",
    "top_word_unsigned": "The highest score is that of {word} ({score}, {share} of the total).",
    "next_words_1": "Next comes {words}; these {count} hold {share} together.",
    "next_words": "Next come {words}; these {count} hold {share} together.",
    "nothing_against": "No word speaks against {target}.",
    "little_against": "Little speaks against it: {share} of the total.",
    "against_1": "Against it speaks above all {words}; all that speaks against it makes up {share} of the total.",
    "against": "Against it speak above all {words}; all that speaks against it makes up {share} of the total.",
    "balance": "In sum, more speaks against {target} ({share}) than for it ({less}).",
    "position": "The {part} of the text holds {share} of the attribution.",
    "spread": "The attribution is spread over the text: its {part} holds {share}.",
    "first half": "first half",
    "second half": "second half",
    "first third": "first third",
    "middle third": "middle third",
    "last third": "last third",
    "concentrated": "The attribution is concentrated: it weighs like {number} equal tokens of {count}.",
    "moderate": "The attribution is moderately concentrated: it weighs like {number} equal tokens of {count}.",
    "wide": "The attribution is widely spread: it weighs like {number} equal tokens of {count}.",
    "special": "Special tokens, {token} above all, hold {share} of the attribution of the whole input; "
    "the shares above leave them out.",
    "convergence": "Caution: the scores miss the change that they share out ({change}) by {delta}; "
    "raise n_steps or choose another baseline.",
    "fallback": "The language model's text was turned down: {count} of its claims are not borne out by the map"
    " (first: {first}); what follows are templates.",
    "nth_word": "the {place} {word}",
}
_VERDICT = {
    "undecided": "Whatever is replaced by the {stand_in}, {what} moves by no more than "
    "{reach}, so this measure cannot tell whether the scores are faithful.",
    "moved_1": "Replacing the highest-scored token of {size} by the {stand_in} takes {what} "
    "from {start} to {own} (random tokens: {chance}), {ending}",
    "moved": "Replacing the {count} highest-scored tokens of {size} by the {stand_in} takes {what} "
    "from {start} to {own} (random tokens: {chance}), {ending}",
    "faithful_0": "and none of {random} random orders does better ({sigma}): the scores are faithful here.",
    "faithful_1": "and only 1 of {random} random orders does better ({sigma}): the scores are faithful here.",
    "faithful": "and only {better} of {random} random orders do better ({sigma}): the scores are faithful here.",
    "not_shown": "but {reason} ({sigma}): the scores are not shown to be faithful here.",
    "hardly": "the order hardly matters (areas {gain} apart)",
    "better_1": "1 of {random} random orders does better",
    "better": "{better} of {random} random orders do better",
    "as_well": "{equal} of {random} random orders do as well",
    "of_target": "the target's probability",
    "of_contrast": "the target's probability against the contrast",
    "of_answer": "the answer's probability per token",
    "mask token": "mask token",
    "padding token": "padding token",
    "mean embedding": "mean embedding",
    "zero vector": "zero vector",
    "unknown token": "unknown token",
    "baseline": "baseline",
}
_TABLE = {
    "first_token": "Over {texts}, {share} of the {heads} heads give the first token more than {threshold} of the "
    "attention of an average query.",
    "layers_without_1": "No head does so in layer {layers}.",
    "layers_without": "No head does so in layers {layers}.",
    "strongest": "The strongest is {head}, where it receives {share}.",
    "no_later_sinks": "No later token is a sink ({rule} rule).",
    "later_sinks": "Later sinks ({rule} rule): {mean} per head and text on average, most in {head} ({most}).",
    "sink_tokens_1": "The most frequent token is {tokens}.",
    "sink_tokens": "The most frequent tokens are {tokens}.",
    "head": "layer {layer}, head {head}",
    "entropy_mean": "An average head spreads its attention like {mean} equal keys.",
    "most_focused": "The most focused head is {head} (entropy {value} {unit}).",
    "widest": "The most widely spread head is {head} (entropy {value} {unit}).",
    "most_focused_layer": "The most focused layer is {layer}: on average {share} of the highest entropy possible.",
    "head_for": "The head that speaks most strongly for {target} is {head} ({value}).",
    "head_against": "The one most strongly against it is {head} ({value}).",
    "heads_removed_1": "Without the most important of {heads} heads the score moves by {change}; without a random"
    " one by {random} ± {spread} ({larger} of {sets} random heads move it more).",
    "heads_removed": "Without the {count} most important of {heads} heads the score moves by {change}; without"
    " as many random ones by {random} ± {spread} ({larger} of {sets} random sets move it more).",
    "highest": "The highest {name} is {value} ({head}).",
    "lowest": "The lowest {name} is {value} ({head}).",
    "mean": "The mean over all heads is {value}.",
}
_MEASURES = {
    "measure_clear": "By {measure}, {method} leads: {mean} ({low} to {high}), beyond random"
    " scores ({chance}).",
    "measure_unclear": "By {measure}, {method} leads with {mean} ({low} to {high}), but"
    " random scores ({chance}) are not left behind.",
}
_CHOICE = {
    "agree": "{first} and {second} share {shared} of their {top} strongest words (rank correlation {tau}).",
    "more_faithful": "The more faithful here is {method} (areas {gap} further apart).",
    "chosen": "Of {tried} tried, {method} is the most faithful here (areas between"
    " insertion and deletion: {all}).",
    "llm_check": "Checked against the map: {held} of {claims} claims hold.",
    "llm_no_claim": "Nothing in this text can be checked against the map.",
}
_SMV = {
    "smv_first": "The {kind} » {quote} « is most important for the prediction.",
    "smv_next": "The {kind} » {quote} « is also salient.",
    "smv_none": "No part of the text stands out.",
    "smv_word": "word",
    "smv_phrase": "phrase",
    "smv_span": "span",
}

LANGUAGE = Language(
    code="en",
    name="English",
    templates={**_STRIP, **_VERDICT, **_TABLE, **_MEASURES, **_CHOICE, **_SMV},
    nouns={"word": ("word", "words"), "token": ("token", "tokens"), "text": ("text", "texts")},
    small=(
        *("no", "one", "two", "three", "four", "five", "six"),
        *("seven", "eight", "nine", "ten", "eleven", "twelve"),
    ),
    ordinals=(
        *("", "first", "second", "third", "fourth", "fifth", "sixth"),
        *("seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"),
    ),
    later=_later,
    quotes=("“", "”"),
    decimal=".",
    group=",",
    joint="and",
    percent_sign="%",
    under="under",
    over="over",
    cues={
        "first": r"\bmost (?:strongly|important|influential|significant|salient|decisive)\b|\bstrongest\b|"
        r"\b(?:highest|largest|greatest) (?:score|importance|weight|contribution|attribution)\b|\babove all\b",
        "for": r"\bspeaks? (?:\w+ ){0,2}for\b|\bsupport(?:s|ed|ing)?\b|\bpositive(?:ly)? (?:score|contribut\w+|"
        r"influence|impact|effect)\b|\bin favou?r of\b|\bpush(?:es|ed)? towards?\b",
        "against": r"\bspeaks? (?:\w+ ){0,2}against\b|\boppos(?:e|es|ed|ing)\b|\bnegative(?:ly)? (?:score|"
        r"contribut\w+|influence|impact|effect)\b|\bcontradict\w*\b|\bagainst\b|\blower(?:s|ed)?\b",
    },
)
