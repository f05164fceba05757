"""The file formats of bags, each read into `Bag`s; nothing is unpickled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from probe.bags.bag import Array, Bag, Bags, in_memory
from probe.errors import InputError

FORMATS = ".h5, .hdf5 (CLAM, TRIDENT), .pt, .npz, .npy, .csv, .csv.gz"
LABELS = "labels.csv"
_NAMES = ("name", "slide_id", "bag", "slide", "filename")
_ALIASES = {"features": ("features", "feats", "x"), "coords": ("coords", "coordinates")}


def read_folder(folder: Path) -> Bags:
    """Every bag file of a folder, with the labels of its `labels.csv`; files are read when asked for.

    Raises:
        InputError: no bag, two files of one name, or labels that do not fit.
    """
    files = sorted(f for f in folder.iterdir() if _suffix(f) in _READERS and f.name != LABELS)
    if not files:
        raise InputError(f"{folder}: no file of bags in it; expected {FORMATS}")
    names = [_stem(f) for f in files]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"{folder}: two files of bags are called {twice!r}; keep one")
    table = folder / LABELS
    if not table.is_file():
        return in_memory([bag for file in files for bag in read_file(file)])
    given = _labels(table)
    absent = [name for name in names if name not in given]
    if absent:
        raise InputError(f"{table}: no label for {len(absent)} bags, {', '.join(absent[:3])} first")
    if len(given) > len(names):
        warnings.warn(
            f"{table} names {len(given) - len(names)} bags without a file", RuntimeWarning, stacklevel=3
        )
    classes = sorted({given[name] for name in names})
    labels = [classes.index(given[name]) for name in names]

    def loader(file: Path, name: str, label: int) -> Callable[[], Bag]:
        return lambda: _one(file, name, label)

    loaders = [loader(f, n, y) for f, n, y in zip(files, names, labels, strict=True)]
    return Bags(names, labels, classes, loaders)


def read_file(path: Path) -> Bags:
    """The bags of one file.

    Raises:
        InputError: another format, or a file that cannot be read.
    """
    reader = _READERS.get(_suffix(path))
    if reader is None:
        raise InputError(f"{path}: not a format of bags; expected {FORMATS}")
    try:
        return reader(path)
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as {_suffix(path)}: {text}") from error


def _one(path: Path, name: str, label: int) -> Bag:
    bags = read_file(path)
    if len(bags) != 1:
        raise InputError(f"{path}: holds {len(bags)} bags; beside a {LABELS} each file is one bag")
    bag = bags[0]
    return Bag(name, bag.features, label, bag.coords, bag.patch_size, bag.annotation)


def _labels(table: Path) -> dict[str, str]:
    import pandas as pd

    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    column = next((n for n in _NAMES if n in rows.columns), None)
    if column is None or "label" not in rows.columns:
        raise InputError(
            f"{table}: its columns are {', '.join(rows.columns)}; expected name (or slide_id) and label"
        )
    return dict(zip((_stem(Path(n)) for n in rows[column]), rows["label"], strict=True))


def _h5(path: Path) -> Bags:
    import h5py

    with h5py.File(path, "r") as file:
        parts = {n: np.asarray(file[n]) for n in file if isinstance(file[n], h5py.Dataset)}
        attrs = dict(file["coords"].attrs) if "coords" in file else {}
        label = file.attrs.get("label")
    return in_memory([_bag(path, parts, label, _patch_size(attrs))])


def _patch_size(attrs: dict[str, Any]) -> float | None:
    """In pixels of full resolution: TRIDENT says so itself, CLAM gives size and level."""
    if "patch_size_level0" in attrs:
        return float(attrs["patch_size_level0"])
    if "patch_size" in attrs and "downsample" in attrs:
        return float(attrs["patch_size"]) * float(np.ravel(attrs["downsample"])[0])
    return None


def _pt(path: Path) -> Bags:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path}: holds more than tensors, and nothing is unpickled here; save the features alone: "
            "torch.save({'features': x, 'coords': c}, path)"
        ) from error
    if isinstance(content, torch.Tensor):
        content = {"features": content}
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: holds a {type(content).__name__}, expected a tensor or a dict with 'features'"
        )
    parts = {str(k): v.float().numpy() for k, v in content.items() if isinstance(v, torch.Tensor)}
    scalars = {str(k): v for k, v in content.items() if isinstance(v, int | float)}
    return in_memory([_bag(path, parts, scalars.get("label"), scalars.get("patch_size"))])


def _npz(path: Path) -> Bags:
    with np.load(path, allow_pickle=False) as file:
        parts = {name: file[name] for name in file.files}
    if {"instances", "bag", "label"} <= set(parts):
        return _many(parts["instances"], parts["bag"], parts["label"], None)
    size = parts.get("patch_size")
    return in_memory([_bag(path, parts, parts.get("label"), None if size is None else float(size))])


def _npy(path: Path) -> Bags:
    return in_memory([_bag(path, {"features": np.load(path, allow_pickle=False)}, None, None)])


def _csv(path: Path) -> Bags:
    import pandas as pd

    head = pd.read_csv(path, header=None, nrows=1)
    try:
        head.iloc[0].astype(float)
    except ValueError:
        return _csv_with_header(path, pd.read_csv(path))
    if head.shape[1] < 3:
        raise InputError(f"{path}: {head.shape[1]} columns and no header; expected label, bag, features")
    rows = pd.read_csv(path, header=None)
    names, index = np.unique(rows[1].to_numpy(), return_inverse=True)
    label = [_same(path, names[i], rows[0][index == i].to_numpy()) for i in range(len(names))]
    return _many(rows.iloc[:, 2:].to_numpy(), index, np.array(label), [str(n) for n in names])


def _csv_with_header(path: Path, rows: Any) -> Bags:
    features = [c for c in rows.columns if c not in {"bag", "label", "x", "y", "annotation", "patch_size"}]
    bags = []
    for name, part in rows.groupby("bag", sort=True) if "bag" in rows else [(_stem(path), rows)]:
        parts = {"features": part[features].to_numpy(dtype=np.float32)}
        if {"x", "y"} <= set(rows.columns):
            parts["coords"] = part[["x", "y"]].to_numpy()
        if "annotation" in rows:
            parts["annotation"] = part["annotation"].to_numpy()
        label = _same(path, name, part["label"].to_numpy()) if "label" in rows else None
        size = float(part["patch_size"].iloc[0]) if "patch_size" in rows else None
        bags.append(_bag(path, parts, label, size, str(name)))
    return in_memory(bags)


def _same(path: Path, name: Any, labels: Array) -> float:
    if len(set(labels.tolist())) > 1:
        raise InputError(f"{path}: bag {name} has several labels, {sorted(set(labels.tolist()))}")
    return float(labels[0])


def _many(instances: Array, bag: Array, label: Array, names: list[str] | None) -> Bags:
    """Bags from rows with the number of their bag."""
    numbers = np.unique(bag)
    if len(numbers) != len(label):
        raise InputError(f"{len(numbers)} bags have rows, {len(label)} have labels; expected as many")
    width = len(str(len(numbers)))
    called = names or [f"bag {int(n):0{width}d}" for n in numbers]
    rows = zip(called, numbers, label, strict=True)
    return in_memory([_bag(None, {"features": instances[bag == n]}, y, None, name) for name, n, y in rows])


def _bag(path: Path | None, parts: dict[str, Array], label: Any, size: float | None, name: str = "") -> Bag:
    import torch

    name = name or _stem(path or Path("bag"))
    found = {key: next((parts[a] for a in names if a in parts), None) for key, names in _ALIASES.items()}
    features = found["features"]
    if features is None:
        raise InputError(f"{path}: holds {', '.join(parts) or 'nothing'}; expected an array called features")
    coords, notes = found["coords"], parts.get("annotation")
    features, coords = (
        None if a is None else a[0] if a.ndim == 3 and len(a) == 1 else a for a in (features, coords)
    )
    number = None if label is None else float(np.ravel(label)[0])
    if number is not None and (number != int(number) or number < 0):
        raise InputError(f"{name}: its label is {number:g}, expected a class 0, 1, …")
    return Bag(
        name,
        torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)),
        None if number is None else int(number),
        None if coords is None else np.asarray(coords, dtype=np.float64),
        size,
        None if notes is None else np.asarray(notes).astype(np.int64),
    )


def _suffix(path: Path) -> str:
    suffixes = path.suffixes[-2:]
    return "".join(suffixes).lower() if suffixes[-1:] == [".gz"] else path.suffix.lower()


def _stem(path: Path) -> str:
    """The name without the suffix of a format of bags (a slide's own dots stay)."""
    suffix = _suffix(path)
    return path.name[: -len(suffix)] if suffix in _READERS else path.name


_READERS: dict[str, Callable[[Path], Bags]] = {
    ".h5": _h5,
    ".hdf5": _h5,
    ".pt": _pt,
    ".npz": _npz,
    ".npy": _npy,
    ".csv": _csv,
    ".csv.gz": _csv,
}
