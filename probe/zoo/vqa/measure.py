"""Accuracy of the small vision-language model on scenes that it never saw, by clutter and by kind of question.

python -m probe.zoo.vqa.measure --model FOLDER --scenes 200
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from probe.zoo.scenes import make_scene, questions
from probe.zoo.scenes.questions import KINDS

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def answers(model: Any, processor: Any, pictures: list[Any], texts: list[str], most: int = 32) -> list[str]:
    """Greedy answers to one question for each picture, in one batch."""
    import torch

    turn = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}] for text in texts
    ]
    prompts = [processor.apply_chat_template(t, add_generation_prompt=True) for t in turn]
    inputs = processor(images=pictures, text=prompts, padding=True, return_tensors="pt").to(model.device)
    with torch.no_grad():
        made = model.generate(**inputs, max_new_tokens=most, do_sample=False)
    found: list[str] = processor.batch_decode(
        made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return [text.strip() for text in found]


def accuracy(
    model: Any, processor: Any, clutter: float, count: int, *, seed: int = 0, held_out: bool = False
) -> dict[str, float]:
    """The share of right answers by kind; where `held_out`, to questions about pairs of colour and shape never trained on."""
    from PIL import Image

    rng = np.random.default_rng((10**7, seed))
    asked = []
    for _ in range(count):
        scene = make_scene(rng, clutter, held_out=held_out)
        found = questions(scene, rng, tuple(KINDS))
        asked += [(Image.fromarray(scene.picture), q) for q in found if not held_out or q.about == 0]
    right: dict[str, list[bool]] = {}
    for start in range(0, len(asked), 128):
        part = asked[start : start + 128]
        said = answers(model, processor, [p for p, _ in part], [q.text for _, q in part])
        for text, (_, question) in zip(said, part, strict=True):
            right.setdefault(question.kind, []).append(text == question.answer)
    return {kind: float(np.mean(flags)) for kind, flags in sorted(right.items())}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="folder of the model")
    parser.add_argument("--scenes", type=int, default=200, help="for each degree of clutter")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    import torch
    import transformers

    model = (
        transformers.AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32)
        .to(args.device)
        .eval()
    )
    processor = transformers.AutoProcessor.from_pretrained(args.model, backend="pil")
    figures: dict[str, Any] = {"scenes for each level": args.scenes}
    for level in LEVELS:
        figures[f"clutter {level:g}"] = accuracy(model, processor, level, args.scenes)
        sys.stdout.write(f"clutter {level:g} {json.dumps(figures[f'clutter {level:g}'])}\n")
    figures["held-out pairs, clutter 0"] = accuracy(model, processor, 0.0, args.scenes, held_out=True)
    sys.stdout.write(f"held-out pairs {json.dumps(figures['held-out pairs, clutter 0'])}\n")
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
