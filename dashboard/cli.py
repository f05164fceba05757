"""The command `probe`. This module loads typer alone; each command imports what it needs when it runs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from probe.dashboard.bench.options import Request
from probe.dashboard.calibrate_options import Search
from probe.dashboard.capture_request import Capture
from probe.dashboard.explain_request import Explain
from probe.dashboard.failure import guarded, say, show_own_warnings
from probe.dashboard.mil_cli import mil_app
from probe.dashboard.options import with_options_of
from probe.dashboard.scanpath_options import Scanpath

app = typer.Typer(
    name="probe",
    help="See what attention does inside real models: exact, at any length, in words and figures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its help costs 0.2 s of imports
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
app.add_typer(models_app, name="models")
app.add_typer(mil_app, name="mil")

_state: dict[str, Any] = {"debug": False, "arguments": []}

Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output and nothing else.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Html = Annotated[Path | None, typer.Option(help="Write a report that opens offline.", metavar="PATH")]
Model = Annotated[str, typer.Option(help="A name of `probe models`, a folder, or a hub id.")]


def _version(wanted: bool) -> None:
    if wanted:
        import probe

        typer.echo(f"attention-probe {probe.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and all warnings.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback acts before any command
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    _state["debug"] = debug
    show_own_warnings(debug=debug)


def explain(**asked: Any) -> int:
    """Say which tokens, or which areas of a picture, a model's answer rests on.

    In words, in colours, and with a test of whether the model really depends on them.
    """
    from probe.dashboard.explain_image import is_picture
    from probe.dashboard.explain_options import command_line
    from probe.dashboard.inputs import is_many

    request, line = Explain(**asked), command_line(_state["arguments"])
    many = is_many(request.source)
    request.check(many=many, picture=not many and is_picture(request.source))
    where = (request.source, request.model, request.device, request.parameters)
    if many:
        from probe.dashboard.explain_many import explain_many

        return explain_many(
            *where, words=request.words, folder=request.folder, resume=request.resume,
            on_error=request.on_error, as_json=request.json, command=line,
        )  # fmt: skip
    from probe.dashboard.explain_command import explain as command

    return command(
        *where, words=request.words, places=request.places, compare=request.compare,
        calibration=request.calibration, command=line,
    )  # fmt: skip


@app.command()
def evaluate(
    source: Annotated[
        Path, typer.Argument(help="A folder, a .jsonl file, or a text a line.", metavar="TEXTS")
    ],
    model: Model = "sentiment",
    methods: Annotated[str | None, typer.Option(help="Joined by commas; left open: all.")] = None,
    baselines: Annotated[
        str | None, typer.Option(help="Joined by commas: auto, mask, pad, mean, zero.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Draw so many of the texts.")] = None,
    sanity: Annotated[int | None, typer.Option(help="Texts for the checks with random weights.")] = None,
    n_steps: Annotated[int | None, typer.Option(help="Points on the path of integrated gradients.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Inputs in one forward pass.")] = None,
    html: Html = None,
    json: Json = False,
    device: Device = "auto",
) -> int:
    """Measure how faithful saliency methods are.

    On a set of texts, beside random scores, with confidence intervals.
    """
    from probe.dashboard.evaluate_command import evaluate as command
    from probe.dashboard.explain_options import command_line

    settings: dict[str, Any] = {
        "methods": None if methods is None else [m.strip() for m in methods.split(",") if m.strip()],
        "baselines": None if baselines is None else [b.strip() for b in baselines.split(",") if b.strip()],
        "sanity": sanity,
        "n_steps": n_steps,
        "seed": seed,
        "batch_size": batch_size,
    }
    line = command_line(_state["arguments"])
    return command(source, model, device, settings, count=count, html=html, as_json=json, command=line)


def capture(**asked: Any) -> int:
    """Record exact statistics of attention.

    The model runs once, with its own backend; the record carries its own validity report.
    """
    request = Capture(**asked)
    request.check()
    if request.jsonl is None:
        from probe.dashboard.capture_command import capture as command

        return command(request)
    from probe.dashboard.corpus_command import corpus

    return corpus(
        request.model, request.jsonl, request.out, request.stats, layers=request.layers, batch=request.batch,
        keep_records=request.keep_records, resume=request.resume, on_error=request.on_error,
        device=request.device, as_json=request.json, calibration=request.calibration,
    )  # fmt: skip


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def run(
    context: typer.Context,
    explainer: Annotated[
        str | None, typer.Argument(help="An explainer that reads a record, or runs on a picture.")
    ] = None,
    record: Annotated[Path | None, typer.Argument(help="Folder of the record, or the picture.")] = None,
    html: Html = None,
    json: Json = False,
    listing: Annotated[
        bool, typer.Option("--list", help="List all explainers with their parameters.")
    ] = False,
    helped: Annotated[
        bool, typer.Option("--help", "-h", help="Show this message; of an explainer, its options.")
    ] = False,
) -> int:
    """Run an explainer over a record.

    Its parameters are options: probe run sinks r.zarr --epsilon 0.4. `probe run sinks --help` lists them.
    """
    from probe.dashboard import run_command

    if helped and explainer is None:
        typer.echo(context.get_help())
        return 0
    if listing or helped:
        return run_command.list_explainers(explainer, json)
    if explainer is None or record is None:
        raise typer.BadParameter(
            "expected an explainer and a record; `probe run --list` shows the explainers"
        )
    return run_command.run(explainer, record, context.args, html, json)


@app.command()
def gaze(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the OSIE data: fixations.mat and stimuli/.", metavar="FOLDER"),
    ] = None,
    model: Model = "efficientnet-lite0",
    limit: Annotated[int | None, typer.Option(help="Only so many pictures.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Score a network's maps against people's gaze.

    Relevance, its blur and its SR map beside the attention of a ViT, a centre prior and other people, with intervals.
    """
    from probe.dashboard.gaze_command import gaze as command

    return command(data, model, limit, device, json)


@models_app.callback()
def models(context: typer.Context, json: Json = False) -> int:
    """List models, or install one."""
    if context.invoked_subcommand is not None:
        return 0
    from probe.dashboard.models_command import show_models

    return show_models(json)


@models_app.command("install")
def install(name: Annotated[str, typer.Argument(help="As `probe models` shows it.")]) -> int:
    """Fetch a model and keep it for later."""
    from probe.dashboard.models_command import install_model

    return install_model(name)


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option(help="Say what can be captured of this model, and what not.")
    ] = None,
    attempt: Annotated[bool, typer.Option("--try", help="With --model: prove it on one tiny input.")] = False,
    json: Json = False,
) -> int:
    """Show what works on this machine, or with a model."""
    from probe.dashboard.doctor import show

    return show(json, model, attempt)


@app.command("open")
def open_(
    folder: Annotated[Path, typer.Argument(help="Where the records are, or one record.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8050,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    expose: Annotated[bool, typer.Option("--expose", help="Let other machines in, with a token.")] = False,
) -> int:
    """Open the explorer: records in the browser."""
    from probe.dashboard.explorer import open_explorer

    return open_explorer(folder, port=port, host=host, expose=expose)


def bench(**asked: Any) -> int:
    """Measure the speed of exact statistics.

    Beside the forward passes of others, in one run; each result is compared with float64 first, and a wrong one ends the run.
    """
    from probe.dashboard.bench.command import bench as command

    return command(Request(**asked))


def calibrate(**asked: Any) -> int:
    """Search the heads whose later sinks are worth shrinking for a task (ACT).

    The heads are searched on some items and tested on the others, against random heads; the answer may be that nothing helps.
    """
    from probe.dashboard.calibrate_command import calibrate as command

    return command(Search(**asked))


def scanpath(**asked: Any) -> int:
    """Predict where people would look next.

    An ordered path over the objects of a picture, in search of one of them or freely; or how well that meets people.
    """
    from probe.dashboard.scanpath_command import scanpath as command

    request = Scanpath(**asked)
    request.check()
    return command(request)


for _request, _command in (
    (Scanpath, scanpath),
    (Explain, explain),
    (Capture, capture),
    (Search, calibrate),
    (Request, bench),
):
    app.command()(with_options_of(_request, _command))


def run_line(arguments: list[str]) -> int:
    """Run one command line.

    Args:
        arguments: What follows the program's name.

    Returns:
        The exit code (see `failure.guarded`); nothing is raised.
    """
    _state.update(debug=False, arguments=arguments)
    return guarded(
        lambda: app(args=arguments, prog_name="probe", standalone_mode=False), debug=lambda: _state["debug"]
    )


def _terminated(number: int, _frame: object) -> None:
    say("terminated")
    raise SystemExit(128 + number)


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _terminated)
    code = run_line(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
