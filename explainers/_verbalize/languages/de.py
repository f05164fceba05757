"""German."""

from probe.explainers._verbalize.language import Language

_STRIP = {
    "prediction": "Die Antwort des Modells ist {answer} (Wahrscheinlichkeit {chance}).",
    "prediction_token": "Das wahrscheinlichste nächste Token ist {answer} (Wahrscheinlichkeit {chance}).",
    "target": "Erklärt wird eine andere Klasse, {target} (Wahrscheinlichkeit {chance}).",
    "target_token": "Erklärt wird ein anderes nächstes Token, {target} (Wahrscheinlichkeit {chance}).",
    "contrast": "Die Frage ist, warum {target} und nicht {rival} (Wahrscheinlichkeit {chance}).",
    "answer": "Das Modell fuhr fort mit {answer} ({count}); erklärt wird diese ganze Antwort.",
    "flat_zero": "Alle Werte sind 0: Kein Wort sticht hervor.",
    "flat_one": "{word} ist das einzige Wort; es kann sich von keinem anderen abheben.",
    "flat": "Kein Wort sticht hervor: Das stärkste, {word}, hält {share} der Summe; ein gleicher Anteil wäre {even}.",
    "unsigned": "Diese Werte haben kein Vorzeichen: Sie sagen, wo das Modell liest, nicht, worauf seine Antwort "
    "beruht.",
    "phrase": "Die Wendung {quote} ({count}) trägt {share} von allem, was für {target} spricht.",
    "passage": "Die Passage {quote} ({count}) trägt {share} von allem, was für {target} spricht.",
    "sentence": "Der Satz {quote} trägt {share} von allem, was für {target} spricht.",
    "phrase_unsigned": "Die Wendung {quote} ({count}) trägt {share} der Summe.",
    "passage_unsigned": "Die Passage {quote} ({count}) trägt {share} der Summe.",
    "sentence_unsigned": "Der Satz {quote} trägt {share} der Summe.",
    "phrase_against": "Die Wendung {quote} ({count}) trägt {share} von allem, was gegen {target} spricht.",
    "passage_against": "Die Passage {quote} ({count}) trägt {share} von allem, was gegen {target} spricht.",
    "sentence_against": "Der Satz {quote} trägt {share} von allem, was gegen {target} spricht.",
    "no_support": "Kein Wort spricht für {target}.",
    "top_word": "Am stärksten für {target} spricht {word} ({score}, {share} der gesamten Zuschreibung).",
    "top_word_unsigned": "Den höchsten Wert hat {word} ({score}, {share} der Summe).",
    "next_words_1": "Danach kommt {words}; diese {count} halten zusammen {share}.",
    "next_words": "Danach kommen {words}; diese {count} halten zusammen {share}.",
    "nothing_against": "Kein Wort spricht gegen {target}.",
    "little_against": "Wenig spricht dagegen: {share} der Summe.",
    "against_1": "Dagegen spricht vor allem {words}; alles, was dagegen spricht, macht {share} der Summe aus.",
    "against": "Dagegen sprechen vor allem {words}; alles, was dagegen spricht, macht {share} der Summe aus.",
    "balance": "In der Summe spricht mehr gegen {target} ({share}) als dafür ({less}).",
    "position": "Auf {part} des Textes entfallen {share} der Zuschreibung.",
    "spread": "Die Zuschreibung verteilt sich über den Text: Auf {part} entfallen {share}.",
    "first half": "die erste Hälfte",
    "second half": "die zweite Hälfte",
    "first third": "das erste Drittel",
    "middle third": "das mittlere Drittel",
    "last third": "das letzte Drittel",
    "concentrated": "Die Zuschreibung ist stark gebündelt: Sie wiegt wie {number} gleiche Token von {count}.",
    "moderate": "Die Zuschreibung ist mäßig gebündelt: Sie wiegt wie {number} gleiche Token von {count}.",
    "wide": "Die Zuschreibung ist weit verteilt: Sie wiegt wie {number} gleiche Token von {count}.",
    "special": "Sondertoken, vor allem {token}, halten {share} der Zuschreibung der ganzen Eingabe; die Anteile oben "
    "lassen sie aus.",
    "convergence": "Vorsicht: Die Werte verfehlen die Änderung, die sie aufteilen ({change}), um {delta}; erhöhe "
    "n_steps oder wähle eine andere Nullstelle.",
    "fallback": "Der Text des Sprachmodells wurde verworfen: {count} seiner Behauptungen deckt die Karte nicht"
    " (die erste: {first}); es folgen Schablonen.",
    "nth_word": "das {place} {word}",
}
_VERDICT = {
    "undecided": "Was auch immer ersetzt wird ({stand_in}): {what} bewegt sich um höchstens "
    "{reach}; so lässt sich nicht sagen, ob die Werte treu sind.",
    "moved_1": "Wird das am höchsten bewertete von {size} Token ersetzt ({stand_in}), geht {what} "
    "von {start} auf {own} (zufällige Token: {chance}), {ending}",
    "moved": "Werden die {count} am höchsten bewerteten von {size} Token ersetzt ({stand_in}), geht {what} "
    "von {start} auf {own} (zufällige Token: {chance}), {ending}",
    "faithful_0": "und keine von {random} zufälligen Ordnungen ist besser ({sigma}): Die Werte sind hier treu.",
    "faithful_1": "und nur 1 von {random} zufälligen Ordnungen ist besser ({sigma}): Die Werte sind hier treu.",
    "faithful": "und nur {better} von {random} zufälligen Ordnungen sind besser ({sigma}): Die Werte sind hier treu.",
    "not_shown": "aber {reason} ({sigma}): Dass die Werte treu sind, ist hier nicht gezeigt.",
    "hardly": "die Ordnung macht kaum einen Unterschied (Flächen um {gain} auseinander)",
    "better_1": "1 von {random} zufälligen Ordnungen ist besser",
    "better": "{better} von {random} zufälligen Ordnungen sind besser",
    "as_well": "{equal} von {random} zufälligen Ordnungen sind ebenso gut",
    "of_target": "die Wahrscheinlichkeit des Ziels",
    "of_contrast": "die Wahrscheinlichkeit des Ziels gegenüber der Alternative",
    "of_answer": "die Wahrscheinlichkeit der Antwort je Token",
    "mask token": "durch das Maskentoken",
    "padding token": "durch das Fülltoken",
    "mean embedding": "durch die mittlere Einbettung",
    "zero vector": "durch den Nullvektor",
    "unknown token": "durch das unbekannte Token",
    "baseline": "durch die Nullstelle",
}
_TABLE = {
    "first_token": "Über {texts} geben {share} der {heads} Köpfe dem ersten Token mehr als {threshold} der "
    "Aufmerksamkeit einer mittleren Anfrage.",
    "layers_without_1": "In Schicht {layers} tut das kein Kopf.",
    "layers_without": "In den Schichten {layers} tut das kein Kopf.",
    "strongest": "Am stärksten ist {head}; dort erhält es {share}.",
    "no_later_sinks": "Kein späteres Token ist eine Senke (Regel {rule}).",
    "later_sinks": "Spätere Senken (Regel {rule}): {mean} je Kopf und Text im Mittel, am meisten in {head} ({most}).",
    "sink_tokens_1": "Das häufigste Token ist {tokens}.",
    "sink_tokens": "Die häufigsten Token sind {tokens}.",
    "head": "Schicht {layer}, Kopf {head}",
    "entropy_mean": "Ein mittlerer Kopf verteilt seine Aufmerksamkeit wie auf {mean} gleiche Schlüssel.",
    "most_focused": "Am stärksten gebündelt ist {head} (Entropie {value} {unit}).",
    "widest": "Am weitesten verteilt ist {head} (Entropie {value} {unit}).",
    "most_focused_layer": "Die am stärksten gebündelte Schicht ist {layer}: im Mittel {share} der höchstmöglichen "
    "Entropie.",
    "head_for": "Am stärksten für {target} spricht {head} ({value}).",
    "head_against": "Am stärksten dagegen spricht {head} ({value}).",
    "heads_removed_1": "Ohne den wichtigsten von {heads} Köpfen bewegt sich der Wert um {change}; ohne einen"
    " zufälligen um {random} ± {spread} ({larger} von {sets} zufälligen Köpfen bewegen ihn"
    " mehr).",
    "heads_removed": "Ohne die {count} wichtigsten von {heads} Köpfen bewegt sich der Wert um {change}; ohne"
    " ebenso viele zufällige um {random} ± {spread} ({larger} von {sets} zufälligen Mengen"
    " bewegen ihn mehr).",
    "highest": "Das höchste {name} ist {value} ({head}).",
    "lowest": "Das niedrigste {name} ist {value} ({head}).",
    "mean": "Das Mittel über alle Köpfe ist {value}.",
}
_MEASURES = {
    "measure_clear": "Nach {measure} führt {method}: {mean} ({low} bis {high}), jenseits"
    " zufälliger Werte ({chance}).",
    "measure_unclear": "Nach {measure} führt {method} mit {mean} ({low} bis {high}), lässt"
    " zufällige Werte ({chance}) aber nicht hinter sich.",
}
_CHOICE = {
    "agree": "{first} und {second} teilen {shared} ihrer {top} stärksten Wörter (Rangkorrelation {tau}).",
    "more_faithful": "Treuer ist hier {method} (Flächen um {gap} weiter auseinander).",
    "chosen": "Von {tried} Verfahren ist hier {method} am treuesten (Flächen"
    " zwischen Einfügen und Löschen: {all}).",
    "llm_check": "Mit der Karte verglichen: {held} von {claims} Behauptungen stimmen.",
    "llm_no_claim": "Nichts in diesem Text lässt sich mit der Karte vergleichen.",
}
_SMV = {
    "smv_first": "{kind} » {quote} « ist für die Vorhersage am wichtigsten.",
    "smv_next": "{kind} » {quote} « sticht ebenfalls hervor.",
    "smv_none": "Kein Teil des Textes sticht hervor.",
    "smv_word": "Das Wort",
    "smv_phrase": "Die Wendung",
    "smv_span": "Der Abschnitt",
}

LANGUAGE = Language(
    code="de",
    name="Deutsch",
    templates={**_STRIP, **_VERDICT, **_TABLE, **_MEASURES, **_CHOICE, **_SMV},
    nouns={"word": ("Wort", "Wörter"), "token": ("Token", "Token"), "text": ("Text", "Texte")},
    small=(
        *("kein", "ein", "zwei", "drei", "vier", "fünf", "sechs"),
        *("sieben", "acht", "neun", "zehn", "elf", "zwölf"),
    ),
    ordinals=(
        *("", "erste", "zweite", "dritte", "vierte", "fünfte", "sechste"),
        *("siebte", "achte", "neunte", "zehnte", "elfte", "zwölfte"),
    ),
    later=lambda number: f"{number}.",
    quotes=("„", "“"),
    decimal=",",
    group=".",
    joint="und",
    percent_sign=" %",
    under="unter",
    over="über",
    cues={
        "first": r"\bam (?:stärksten|wichtigsten|meisten)\b|\b(?:höchste|größte)\w* (?:Wert|Anteil|Gewicht)\b|"
        r"\bvor allem\b",
        "for": r"\bspricht (?:\w+ ){0,3}für\b|\bsprechen (?:\w+ ){0,3}für\b|\bstütz(?:t|en)\b|\bdafür\b",
        "against": r"\b(?:spricht|sprechen) (?:\w+ ){0,3}gegen\b|\bdagegen\b|\bwiderspr\w+\b",
    },
)
