"""The options of `probe mil`; what the commands do is in `mil_command`, imported when one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

mil_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Attention in multiple-instance learning: train, explain, diagnose.",
)

Data = Annotated[
    Path,
    typer.Argument(
        help="A folder of bags with a labels.csv, or a file of bags (.h5, .pt, .npz, .csv).", metavar="DATA"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output and nothing else.")]
Html = Annotated[Path | None, typer.Option(help="Write a page that opens offline.", metavar="PATH")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
ModelPath = Annotated[
    Path, typer.Option(help="What `probe mil train` wrote: its folder, or the .safetensors file.")
]


@mil_app.command()
def train(
    data: Data,
    method: Annotated[
        str, typer.Option(help="abmil, mba (branches), stkim (masking), acmil (both).")
    ] = "acmil",
    out: Annotated[Path, typer.Option(help="Folder for the model, the history and metrics.json.")] = Path(
        "runs/mil"
    ),
    folds: Annotated[int | None, typer.Option(help="Cross-validate; else one split 60 : 20 : 20.")] = None,
    epochs: Annotated[int, typer.Option(help="At most so many.")] = 50,
    lr: Annotated[float, typer.Option(help="Of AdamW, falling along half a cosine.")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-5,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without a better one.")] = 15,
    monitor: Annotated[
        str, typer.Option(help="What the validation bags decide by: f1+auc, or loss.")
    ] = "f1+auc",
    batch: Annotated[int, typer.Option(help="Bags a step.")] = 1,
    hidden: Annotated[
        int | None, typer.Option(help="Width inside; default: by the width of the features.")
    ] = None,
    branches: Annotated[int, typer.Option(help="Branches of attention.")] = 5,
    top_k: Annotated[
        int, typer.Option(help="Masking: so many of the strongest instances are candidates.")
    ] = 10,
    drop: Annotated[float, typer.Option(help="Masking: the share of them that is hidden, 0 to 1.")] = 0.6,
    reading: Annotated[
        str, typer.Option(help="Masking: exact (a fixed count) or independent (each by chance).")
    ] = "exact",
    seed: Annotated[int, typer.Option(help="Of split, weights, order and masking.")] = 0,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was interrupted.")
    ] = False,
    json: Json = False,
) -> int:
    """Train an attention-MIL model and test it on bags it has not seen.

    The epoch is chosen on validation bags alone; the test bags are looked at once, at the end.
    """
    from probe.dashboard.mil_command import train as command

    plan = {
        "method": method,
        "epochs": epochs,
        "lr": lr,
        "weight_decay": weight_decay,
        "patience": patience,
        "monitor": monitor,
        "batch": batch,
        "hidden": hidden,
        "branches": branches,
        "top_k": top_k,
        "drop": drop,
        "reading": reading,
        "seed": seed,
        "device": device,
    }
    return command(data, out, folds, plan, resume=resume, as_json=json)


@mil_app.command()
def explain(
    data: Data,
    model: ModelPath,
    bag: Annotated[str, typer.Option(help="Name or number of the bag, where the file holds several.")] = "0",
    slide: Annotated[Path | None, typer.Option(help="The picture that the patches were cut from.")] = None,
    threshold: Annotated[float, typer.Option(help="Regions: patches above so many even shares.")] = 1.0,
    patch_size: Annotated[
        float | None, typer.Option(help="In pixels of full resolution, if the bag does not say.")
    ] = None,
    html: Html = None,
    geojson: Annotated[
        Path | None, typer.Option(help="Write regions and patches (QuPath reads it).", metavar="PATH")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Write raw and percentile map as a picture.", metavar="PATH")
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Show what the model looks at in one bag.

    With coordinates of the patches: where on the slide, as a linked page (UMAP and slide), GeoJSON, or PNG.
    """
    from probe.dashboard.mil_command import explain as command

    files = {"html": html, "geojson": geojson, "png": png}
    overlay = {
        "threshold": threshold,
        "patch_size": patch_size,
        "picture": None if slide is None else str(slide),
    }
    return command(data, model, bag, overlay, files, device=device, as_json=json)


@mil_app.command()
def concentration(
    data: Annotated[Path, typer.Argument(help="Bags, or a record of bags.", metavar="DATA|RECORD")],
    model: Annotated[Path | None, typer.Option(help="Needed for bags: what `probe mil train` wrote.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Keep the record of attention here.", metavar="RECORD")
    ] = None,
    html: Html = None,
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Say whether a handful of instances carries all the attention, over all bags."""
    from probe.dashboard.mil_command import concentration as command

    return command(data, model, out, html, device=device, as_json=json)
