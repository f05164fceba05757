"""Train the small vision-language model from nothing on generated scenes.

    python -m probe.zoo.vqa.train --work WORK --out OUT --minutes 45

Scenes are drawn once into WORK; the state of the training is kept there every few minutes, and a second call goes on from it.
All questions of a scene stand behind one copy of its picture, hidden from each other, so that the tower runs once for all.
While training, a linear head names shape, colour and digit of each image token; it is dropped afterwards.
"""

import argparse
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probe.zoo.vqa import data, networks

CLASSES = (7, 9, 12)  # of shape, colour, digit on a patch; 0 is none
MODES = (("scene", 0.7), ("both", 0.15), ("close", 0.15))


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for drawn scenes and the state")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=24_000, help="how many to draw")
    parser.add_argument("--steps", type=int, default=6_000, help="that the learning rate is planned for")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time, plan or not")
    parser.add_argument("--batch", type=int, default=32, help="scenes a step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--kinds", default=",".join(data.KINDS), help="of questions, one of each for a scene")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw scenes")
    for name, value in asdict(networks.Shape()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    return parser.parse_args()


class Trainer:
    """The model, its head for the truth of patches, and one step of training."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        shape = networks.Shape(**{name: getattr(args, name) for name in asdict(networks.Shape())})
        self.processor = networks.new_processor(shape)
        torch.manual_seed(args.seed)
        self.model: Any = networks.new_model(shape, self.processor).to(self.device)
        self.head = nn.Linear(shape.width, sum(CLASSES)).to(self.device)
        groups = [*self.model.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.05)
        self.start = data.words("user :", self.processor)
        self.shape, self.step = shape, 0

    def rate(self) -> float:
        """Linear rise, then a cosine to a hundredth."""
        rise, part = 200, self.step / self.args.steps
        course = 0.01 + 0.99 * (1 + math.cos(math.pi * min(1, part))) / 2
        return float(self.args.rate * min(1.0, (self.step + 1) / rise) * course)

    def loss(
        self, scenes: data.Packed, rows: np.ndarray[Any, Any], mode: str
    ) -> tuple[Tensor, Tensor, float]:
        """Loss of answers, loss of patches, and the share of answer tokens that are right."""
        device, count = self.device, len(rows)
        shown = {"scene": [0], "close": [1], "both": [0, 1]}[mode]
        pixels = (
            torch.from_numpy(scenes.pictures[rows][:, shown]).to(device).flatten(0, 1).permute(0, 3, 1, 2)
        )
        pixels = (pixels.float() / 255 - 0.5) / 0.5
        features = torch.stack(
            list(self.model.model.get_image_features(pixels, return_dict=True).pooler_output)
        )
        truth = torch.from_numpy(scenes.truth[rows]).to(device).long()
        patches = features.new_zeros(())
        if mode != "close":
            told_of = self.head(features.view(count, len(shown), *features.shape[1:])[:, 0]).split(
                CLASSES, -1
            )
            for n, logits in enumerate(told_of):
                patches = patches + nn.functional.cross_entropy(logits.flatten(0, 1), truth[:, n].flatten())
        segment, tokens, position, answer = (
            torch.from_numpy(getattr(scenes, name)[rows]).to(device).long()
            for name in ("segment", "tokens", "position", "answer")
        )
        if mode == "close":
            answer = answer * torch.from_numpy(scenes.close[rows]).to(device).long()
        longest = int((segment >= 0).sum(1).max())
        segment, tokens, position, answer = (x[:, :longest] for x in (segment, tokens, position, answer))
        logits = self._logits(features.reshape(count, -1, features.shape[-1]), segment, tokens, position)
        told = (answer[:, 1:] > 0) & (segment[:, 1:] == segment[:, :-1])
        found, right = logits[:, :-1][told], tokens[:, 1:][told]
        share = float((found.argmax(-1) == right).float().mean())
        return nn.functional.cross_entropy(found.float(), right), patches, share

    def _logits(self, features: Tensor, segment: Tensor, tokens: Tensor, position: Tensor) -> Tensor:
        model, (count, n) = self.model, features.shape[:2]
        start = torch.tensor([self.processor.tokenizer.bos_token_id, *self.start], device=self.device)
        embed = model.get_input_embeddings()
        given = torch.cat([embed(start).expand(count, -1, -1), features, embed(tokens)], 1)
        before = len(start) + n
        length = given.shape[1]
        of = torch.cat([segment.new_full((count, before), -2), segment], 1)
        causal = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        seen = ((of[:, :, None] == of[:, None]) | (of == -2)[:, None]) & causal
        mask = torch.zeros(seen.shape, device=self.device).masked_fill(~seen, torch.finfo(torch.float32).min)
        places = torch.cat([torch.arange(before, device=self.device).expand(count, -1), position + before], 1)
        hidden = model.model.language_model(
            inputs_embeds=given, attention_mask=mask[:, None], position_ids=places, use_cache=False
        ).last_hidden_state
        logits: Tensor = model.lm_head(hidden[:, before:])
        return logits

    def train_step(self, scenes: data.Packed, rng: np.random.Generator) -> tuple[str, float, float, float]:
        """One step; returns mode, losses, and the share of right answer tokens."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        mode = str(rng.choice([m for m, _ in MODES], p=[p for _, p in MODES]))
        rows = rng.integers(len(scenes.tokens), size=self.args.batch)
        if mode == "close":
            rows = np.concatenate([rows, rng.integers(len(scenes.tokens), size=self.args.batch)])
            rows = rows[scenes.close[rows].any(1)]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            answers, patches, share = self.loss(scenes, rows, mode)
        self.optimizer.zero_grad(set_to_none=True)
        (answers + 0.3 * patches).backward()
        nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        self.step += 1
        return mode, float(answers.detach()), float(patches.detach()), share

    def keep(self) -> None:
        """Write the state, whole or not at all."""
        path = self.args.work / "state.pt"
        parts = {"model": self.model, "head": self.head, "optimizer": self.optimizer}
        torch.save(
            {n: p.state_dict() for n, p in parts.items()} | {"step": self.step}, path.with_suffix(".new")
        )
        os.replace(path.with_suffix(".new"), path)

    def resume(self) -> None:
        """Go on from the kept state, if there is one."""
        path = self.args.work / "state.pt"
        if path.is_file():
            state = torch.load(path, map_location=self.device, weights_only=True)
            for name in ("model", "head", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            self.step = int(state["step"])

    def ship(self) -> None:
        """Write model and processor as an ordinary transformers folder, in float16."""
        import copy

        self.args.out.mkdir(parents=True, exist_ok=True)
        copy.deepcopy(self.model).half().save_pretrained(self.args.out)
        self.processor.save_pretrained(self.args.out)


def main() -> None:
    """Draw, train, ship."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    args, begun = arguments(), time.time()
    trainer = Trainer(args)
    shape = trainer.shape

    plan = data.Plan(args.scenes, args.seed, shape.side, shape.patch, tuple(args.kinds.split(",")))
    name = f"scenes-{args.scenes}-{args.seed}-{shape.side}-{shape.patch}.npz"
    scenes = data.kept(args.work / name, lambda: data.drawn(plan, args.workers))
    trainer.resume()
    rng = np.random.default_rng((args.seed, trainer.step))
    means: dict[str, float] = {}
    kept = time.time()
    with tqdm(total=args.steps, initial=trainer.step, desc="training", mininterval=10) as bar:
        while trainer.step < args.steps and time.time() - begun < 60 * args.minutes:
            mode, answers, patches, share = trainer.train_step(scenes, rng)
            for name, value in (("loss", answers), ("patches", patches), (mode, share)):
                if name != "patches" or mode != "close":
                    means[name] = 0.98 * means.get(name, value) + 0.02 * value
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()}, refresh=False)
            if time.time() - kept > 120:
                trainer.keep()
                kept = time.time()
    trainer.keep()
    trainer.ship()


if __name__ == "__main__":
    main()
