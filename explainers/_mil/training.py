"""A small and honest trainer: seeds, early stopping on validation bags alone, resume to the same bits, no test set in sight."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe.bags import Bags
from probe.errors import InputError, ModelError
from probe.explainers._mil import checkpoint
from probe.explainers._mil.losses import acmil_loss
from probe.explainers._mil.metrics import Array, evaluate
from probe.explainers._mil.modules import ACMIL, METHODS, build

Progress = Callable[[int, int, str], None]
MONITORS = ("f1+auc", "loss")


@dataclass(frozen=True)
class Plan:
    """How to train; the defaults are those of the released ACMIL code, but for early stopping and standardised features.

    Attributes:
        method: "abmil", "mba", "stkim" or "acmil".
        epochs: at most so many.
        lr: of AdamW, falling to 0 along half a cosine over all epochs.
        weight_decay: of AdamW.
        patience: stop after so many epochs without a better one on the validation bags.
        monitor: what makes an epoch better there: "f1+auc" (macro-F1 + AUC, ties by loss, as published), or "loss".
        batch: bags a step.
        standardize: subtract the training bags' mean from each feature and divide by their standard deviation.
        hidden, gate, branches, top_k, drop, reading: of `ACMIL`.
        seed: of initial weights, order of bags, and masking.
        device: "auto" (CUDA if there is one), "cpu", "cuda", …
    """

    method: str = "acmil"
    epochs: int = 50
    lr: float = 1e-4
    weight_decay: float = 1e-5
    patience: int = 15
    monitor: str = "f1+auc"
    batch: int = 1
    standardize: bool = True
    hidden: int | None = None
    gate: int = 128
    branches: int = 5
    top_k: int = 10
    drop: float = 0.6
    reading: str = "exact"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in METHODS or self.monitor not in MONITORS:
            raise InputError(
                f"got method {self.method!r} and monitor {self.monitor!r}; expected one of {METHODS} and one of {MONITORS}"
            )
        if min(self.epochs, self.patience, self.batch) < 1 or not self.lr > 0 or self.weight_decay < 0:
            raise InputError(
                "epochs, patience and batch must be at least 1, lr above 0, weight_decay not below 0"
            )


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained model and how it came about.

    Attributes:
        model: of the best epoch, in eval mode on its device.
        history: an entry for each epoch: epoch, lr, training losses, and the validation measures.
        best: number of the best epoch, from 1.
    """

    model: ACMIL
    history: list[dict[str, float]]
    best: int


def fit(
    train: Bags,
    validation: Bags,
    plan: Plan,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Fitted:
    """Train on some bags and keep the epoch that is best on others.

    All that is random in an epoch follows from the seed and the number of the epoch, so that a training that was
    interrupted and resumed ends with the same bits as one that was not. The caller's random state is left alone.

    Args:
        train: bags with labels.
        validation: other bags, for choosing the epoch; keep those for testing out of both.
        plan: how.
        folder: where `model.safetensors` (the best) and `last.safetensors` (to go on) are written; None keeps nothing.
        resume: go on with what is in the folder, if anything is; a finished training is only read.
        progress: called with (epochs done, epochs, a word on the last one).

    Returns:
        The best model and the history.

    Raises:
        InputError: bags without labels, of different widths, or a folder with another training.
        ModelError: the loss is no longer finite.
    """
    labels = train.known_labels()
    validation_labels = validation.known_labels()
    place = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if plan.device == "auto" else plan.device
    )
    with torch.random.fork_rng():
        run = _Run(train, labels, plan, place, None if folder is None else Path(folder))
        if resume:
            run.restore()
        elif folder is not None and (Path(folder) / checkpoint.LAST).exists():
            raise InputError(
                f"{folder} holds a training already: go on with resume, or choose another folder"
            )
        while not run.ended:
            losses = run.epoch()
            _, probabilities = predict(run.model, validation)
            run.close(losses, evaluate(validation_labels, probabilities))
            if progress is not None:
                progress(len(run.history), plan.epochs, f"epoch {len(run.history)} loss {losses['loss']:.3f}")
    run.model.load_state_dict(run.best_weights)
    return Fitted(run.model.eval(), run.history, run.best)


def predict(model: ACMIL, bags: Bags) -> tuple[list[str], Array]:
    """Class probabilities of bags, without masking.

    Args:
        model: its mode is restored afterwards.
        bags: read one by one.

    Returns:
        Names of the bags, and probabilities [B, C], float64.
    """
    was, place, names, rows = model.training, model.score.weight.device, [], []
    model.eval()
    try:
        with torch.no_grad():
            for bag in bags:
                names.append(bag.name)
                rows.append(model(bag.features.to(place)).logits[0].double().softmax(0).cpu().numpy())
    finally:
        model.train(was)
    return names, np.stack(rows)


class _Run:
    """The state of one training."""

    def __init__(
        self, train: Bags, labels: Array, plan: Plan, place: torch.device, folder: Path | None
    ) -> None:
        self.train, self.labels, self.plan, self.place, self.folder = train, labels, plan, place, folder
        self.classes = max(len(train.classes), int(labels.max()) + 1)
        mean, scale = _moments(train)
        torch.manual_seed(plan.seed)
        names = ("hidden", "gate", "branches", "top_k", "drop", "reading")
        settings = {name: getattr(plan, name) for name in names}
        self.model = build(plan.method, len(mean), classes=self.classes, **settings)
        if plan.standardize:
            self.model.standardize(mean, scale)
        self.model.to(place)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay, fused=True
        )
        self.history: list[dict[str, float]] = []
        self.best, self.best_value = 0, (-math.inf, -math.inf)
        self.best_weights: dict[str, Tensor] = {}

    @property
    def ended(self) -> bool:
        done = len(self.history)
        return done >= self.plan.epochs or (done > 0 and done - self.best >= self.plan.patience)

    def epoch(self) -> dict[str, float]:
        """Show every training bag once; mean losses over the bags."""
        number = len(self.history)
        torch.manual_seed(self.plan.seed * 1_000_003 + number + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr * 0.5 * (1 + math.cos(math.pi * number / self.plan.epochs))
        self.model.train()
        sums: dict[str, float] = {}
        order = torch.randperm(len(self.train)).split(self.plan.batch)
        for step in order:
            parts = [self.train[int(i)].features for i in step]
            offsets = torch.tensor([0, *np.cumsum([len(p) for p in parts])[:-1].tolist()])
            target = torch.from_numpy(self.labels[step.numpy()]).to(self.place)
            loss, terms = acmil_loss(self.model(torch.cat(parts).to(self.place), offsets), target)
            if not bool(loss.isfinite()):
                raise ModelError(
                    f"the loss is {float(loss)} in epoch {number + 1}: try a smaller lr than {self.plan.lr:g}"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * len(step)
        return {name: value / len(self.train) for name, value in sums.items()}

    def close(self, losses: dict[str, float], measures: dict[str, float]) -> None:
        """Enter an epoch into the history, keep it if it is the best, and write both to the folder."""
        number = len(self.history) + 1
        entry = {"epoch": float(number), "lr": self.optimizer.param_groups[0]["lr"], **losses}
        self.history.append(entry | {f"validation_{name}": value for name, value in measures.items()})
        quality = measures["macro_f1"] + measures["auc"] if self.plan.monitor == "f1+auc" else 0.0
        value = (quality, -measures["log_loss"])
        if value > self.best_value:
            self.best, self.best_value = number, value
            self.best_weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        if self.folder is not None:
            self._write()

    def _write(self) -> None:
        facts = {
            **self._identity(),
            "history": self.history,
            "best": self.best,
            "best_value": self.best_value,
        }
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best_weights.items()}
        tensors |= {f"optimizer.{k}": v for k, v in checkpoint.optimizer_tensors(self.optimizer).items()}
        if self.folder is not None:
            checkpoint.write(self.folder / checkpoint.LAST, tensors, facts)
            if self.best == len(self.history):
                beside = {
                    "settings": self.model.settings,
                    "method": self.plan.method,
                    "classes": self.train.classes,
                }
                checkpoint.write(self.folder / checkpoint.MODEL, self.best_weights, {**beside, **facts})

    def restore(self) -> None:
        """Take up what the folder holds, if anything.

        Raises:
            InputError: it holds a training of other bags or another plan.
        """
        path = None if self.folder is None else self.folder / checkpoint.LAST
        if path is None or not path.is_file():
            return
        tensors, facts = checkpoint.read(path)
        mine = self._identity()
        different = [name for name in mine if facts.get(name) != mine[name]]
        if different:
            raise InputError(
                f"{path} is of another training (other {', '.join(different)}): choose another folder"
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self.model.load_state_dict(parts["model"])
        checkpoint.restore_optimizer(self.optimizer, parts["optimizer"])
        self.history, self.best = facts["history"], facts["best"]
        self.best_value = (facts["best_value"][0], facts["best_value"][1])
        self.best_weights = {name: value.to(self.place) for name, value in parts["best"].items()}

    def _identity(self) -> dict[str, Any]:
        plan = {k: v for k, v in asdict(self.plan).items() if k != "device"}
        return {"plan": plan, "bags": self.train.names, "labels": self.labels.tolist()}


def _moments(bags: Bags) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over all instances, [D] each; bags are read one by one."""
    count, total, square = 0, torch.zeros(0), torch.zeros(0)
    for bag in bags:
        x = bag.features.double()
        if count and x.shape[1] != len(total):
            raise InputError(f"{bag.name}: has {x.shape[1]} features, the bags before it have {len(total)}")
        total = x.sum(0) if not count else total + x.sum(0)
        square = x.square().sum(0) if not count else square + x.square().sum(0)
        count += len(x)
    mean = total / count
    return mean.float(), (square / count - mean.square()).clamp_min(0).sqrt().float()
