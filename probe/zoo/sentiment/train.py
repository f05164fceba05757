"""Train the embedded sentiment classifier, end to end: teachers, their labels on new texts, the student, its figures.

    python -m probe.zoo.sentiment.train --data DATA --base BASE --work WORK --out OUT

DATA is the folder of rated sentences (see data.py), BASE the folder of all-MiniLM-L6-v2 (`probe models install minilm`).
WORK keeps the teachers' labels, so that several students can be trained from them. What ships is written to OUT, with
its figures on dev sentences; `--test` adds those on test sentences, to be looked at once, for the student that ships.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe.zoo.sentiment import augment, data, fit, measure, networks, ship, vocabulary

STEEPNESS = 2.0  # soft target of a rating r: sigmoid(2 r), so that ±0.5 stands at 0.27 and 0.73
RATES = (5e-5, 1e-4, 7e-5, 5e-5)  # of the teachers, in turn


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the four files of rated sentences"
    )
    parser.add_argument("--base", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True, help="folder for the teachers' labels")
    parser.add_argument(
        "--out", type=Path, help="folder for the student; without it only the teachers are trained"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use only so many training sentences (to try the script)")
    parser.add_argument("--teachers", type=int, default=4)
    parser.add_argument("--teacher-epochs", type=float, default=4)
    parser.add_argument("--pool", type=int, default=1_200_000, help="how many new texts to label")
    parser.add_argument("--epochs", type=float, default=4, help="of the student over all texts")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument(
        "--repeat", type=int, default=5, help="how often each rated sentence stands among the texts"
    )
    parser.add_argument(
        "--truth", type=float, default=0.5, help="weight of the ratings in the rated sentences' targets"
    )
    parser.add_argument(
        "--hide", type=float, default=0.0, help="mask anew up to this share of the student's tokens"
    )
    parser.add_argument(
        "--random-start", action="store_true", help="token embeddings start random, not from MiniLM"
    )
    parser.add_argument(
        "--ratings-only", action="store_true", help="no teacher: learn from the rated sentences alone"
    )
    parser.add_argument("--test", action="store_true", help="report test sentences as well")
    for name, value in vars(networks.Shape()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def say(start: float, text: str) -> None:
    """One line with the seconds since the start."""
    print(f"[{time.time() - start:6.1f} s] {text}", flush=True)


def base_tokenizer(folder: Path) -> Any:
    """MiniLM's `tokenizers.Tokenizer`, without padding and truncation."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def base_embeddings(folder: Path) -> Tensor:
    """MiniLM's token embeddings, [30522, 384]."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        table: Tensor = file.get_tensor("embeddings.word_embeddings.weight")
    return table.float()


def soft(sentences: list[data.Sentence]) -> Tensor:
    """Soft targets of the ratings."""
    return torch.sigmoid(STEEPNESS * torch.tensor([s.rating for s in sentences]))


def teach(args: argparse.Namespace, parts: dict[str, list[data.Sentence]], start: float) -> dict[str, Any]:
    """Train the teachers and let them label the rated training sentences and the new texts; kept in WORK.

    Returns:
        texts, the rated ones first, and logits [N], the mean over the teachers.
    """
    kept = args.work / "labels.pt"
    if kept.is_file():
        return dict(torch.load(kept, weights_only=True))
    device, tokenizer = torch.device(args.device), base_tokenizer(args.base)
    near = augment.neighbours(base_embeddings(args.base), tokenizer.get_vocab())
    pool = augment.texts(augment.stock(parts["train"], near), args.pool, args.seed, os.cpu_count() or 1)
    texts = [*(s.text for s in parts["train"]), *pool]
    say(start, f"{len(pool)} new texts, such as {pool[1:4]}")
    rated = fit.encode([s.text for s in parts["train"]], tokenizer, device)
    dev = fit.encode([s.text for s in parts["dev"]], tokenizer, device)
    everything = fit.encode(texts, tokenizer, device)
    say(start, "texts are encoded")
    total, on_dev = torch.zeros(len(texts)), torch.zeros(len(parts["dev"]))
    for i in range(args.teachers):
        torch.manual_seed(1000 * args.seed + i)
        rate = RATES[i % len(RATES)]
        teacher = networks.Teacher(args.base).to(device)
        loss = fit.teacher_loss(teacher, rated, soft(parts["train"]).to(device), special=103)
        fit.train(
            teacher,
            torch.arange(len(parts["train"])),
            rated,
            loss,
            epochs=args.teacher_epochs,
            batch=64,
            rate=rate,
            seed=i,
        )
        of_dev = fit.predict(teacher, dev).cpu()
        on_dev += of_dev
        say(start, measure.line(f"teacher {i}, rate {rate}, dev", measure.report(parts["dev"], of_dev)))
        total += fit.predict(teacher, everything).cpu()
    say(start, measure.line("mean of teachers, dev", measure.report(parts["dev"], on_dev / args.teachers)))
    labels = {"texts": texts, "logits": total / args.teachers}
    args.work.mkdir(parents=True, exist_ok=True)
    torch.save(labels, kept)
    return labels


def learn(args: argparse.Namespace, parts: dict[str, list[data.Sentence]], start: float) -> tuple[Any, Any]:
    """Train the student; returns it with its tokenizer."""
    device, base = torch.device(args.device), base_tokenizer(args.base)
    pieces = vocabulary.choose_pieces(parts["train"], base, args.pieces)
    sizes = {name: getattr(args, name) for name in vars(networks.Shape())}
    shape = networks.Shape(**(sizes | {"pieces": len(pieces)}))
    table = None
    if not args.random_start:
        known = base.get_vocab()
        table = vocabulary.narrow(base_embeddings(args.base)[[known[p] for p in pieces]], shape.width)
    texts, targets = [s.text for s in parts["train"]], soft(parts["train"])
    rated = len(texts)
    if not args.ratings_only:
        labels = teach(args, parts, start)
        told = labels["logits"].sigmoid()
        told[:rated] = args.truth * targets + (1 - args.truth) * told[:rated]
        texts, targets = labels["texts"], told
    source = torch.cat([torch.arange(rated).repeat(args.repeat), torch.arange(rated, len(texts))])
    encoded = fit.encode(texts, vocabulary.build_tokenizer(pieces, shape.length).backend_tokenizer, device)
    say(start, f"student {shape} on {len(source)} texts")
    torch.manual_seed(args.seed)
    student = networks.new_student(shape, table, args.dropout).to(device)
    loss = fit.student_loss(student, targets.to(device), encoded, args.hide, shape.length)
    how = {"epochs": args.epochs, "batch": args.batch, "rate": args.rate, "seed": args.seed}
    fit.train(student, source, encoded, loss, **how, tell=lambda text: say(start, text))
    return student.float().cpu().eval(), vocabulary.build_tokenizer(pieces, shape.length)


def judge(model: Any, tokenizer: Any, sentences: list[data.Sentence]) -> Tensor:
    """Log odds of each sentence, on the CPU in float32."""
    texts = fit.encode([s.text for s in sentences], tokenizer.backend_tokenizer, torch.device("cpu"), 512)
    return fit.predict(model, texts, 256)


def main() -> None:
    """Run it all."""
    args, start = arguments(), time.time()
    parts = data.split(data.read(args.data), seed=0)
    parts["train"] = parts["train"][: args.limit]
    say(start, ", ".join(f"{name} {len(part)}" for name, part in parts.items()))
    if args.out is None:
        teach(args, parts, start)
        return
    model, tokenizer = learn(args, parts, start)
    clear = [s for s in parts["dev"] if s.clear]
    temperature = measure.fit_temperature(
        judge(model, tokenizer, clear), torch.tensor([s.rating > 0 for s in clear])
    )
    ship.fold_temperature(model, temperature)
    size = ship.save(model, tokenizer, args.out)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(args.out, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    figures = {
        part: measure.report(parts[part], judge(model, tokenizer, parts[part]))
        for part in (("dev", "test") if args.test else ("dev",))
    }
    settings = {
        k: str(v) if isinstance(v, Path) else v
        for k, v in vars(args).items()
        if k not in ("data", "base", "work", "out")
    }
    told = {"bytes": size, "temperature": temperature, "settings": settings, "figures": figures}
    (args.out / "figures.json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    for part, found in figures.items():
        say(start, measure.line(f"{args.out.name}, {part}", found))


if __name__ == "__main__":
    main()
