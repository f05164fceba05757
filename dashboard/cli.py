"""The command `probe`. This module loads typer alone; each command imports what it needs when it runs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from probe.dashboard.bench.options import Request
from probe.dashboard.explain_request import Request as ExplainRequest
from probe.dashboard.failure import guarded, say, show_own_warnings

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


def explain(source: str, **asked: Any) -> int:
    """Say which tokens a model's answer rests on.

    In words, in colours, and with a test of whether the model really depends on them.
    """
    from probe.dashboard.explain_request import answer

    return answer(source, ExplainRequest(**asked), _state["arguments"])


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


@app.command()
def capture(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder of the record to write.", metavar="RECORD")],
    text: Annotated[list[str] | None, typer.Option(help="A text; may be repeated, a sample each.")] = None,
    text_file: Annotated[
        list[Path] | None, typer.Option(help="A text file; may be repeated.", metavar="FILE")
    ] = None,
    stats: Annotated[str, typer.Option(help="Statistics, joined by commas.")] = "entropy,received",
    layers: Annotated[
        str | None,
        typer.Option(help="Numbers or patterns of module names, joined by commas."),
    ] = None,
    grid: Annotated[int, typer.Option(help="Cells per side of pooled, the map on a grid.")] = 512,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Heads whose q, k, v are kept for zooming; may be repeated.", metavar="LAYER:HEADS"
        ),
    ] = None,
    keep_bits: Annotated[
        int | None,
        typer.Option(help="Bits of mantissa to store, of 23 (7: off by at most 2⁻⁸).", metavar="N"),
    ] = None,
    generate: Annotated[
        int, typer.Option(help="Let the model go on for so many tokens, and record them too.", metavar="N")
    ] = 0,
    jsonl: Annotated[
        Path | None,
        typer.Option(help="Many inputs, a JSON object a line; --out is a folder then.", metavar="FILE"),
    ] = None,
    batch: Annotated[int, typer.Option(help="With --jsonl: inputs of similar length in one pass.")] = 1,
    keep_records: Annotated[
        bool, typer.Option("--keep-records", help="With --jsonl: keep every input's record.")
    ] = False,
    on_error: Annotated[str, typer.Option(help="With --jsonl: stop or skip.", metavar="stop|skip")] = "stop",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the same capture that was killed.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a record that is there.")] = False,
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Record exact statistics of attention.

    The model runs once, with its own backend; the record carries its own validity report.
    """
    if jsonl is not None:
        if text or text_file or overwrite or keep or generate:
            raise typer.BadParameter(
                "--jsonl goes without --text, --text-file, --keep, --generate and --overwrite"
            )
        from probe.dashboard.corpus_command import corpus

        many: dict[str, Any] = {"batch": batch, "keep_records": keep_records, "on_error": on_error}
        return corpus(
            model, jsonl, out, stats, layers=layers, resume=resume, device=device, as_json=json, **many
        )
    if batch != 1 or keep_records or on_error != "stop":
        raise typer.BadParameter("--batch, --keep-records and --on-error belong to --jsonl")
    from probe.dashboard.capture_command import Options
    from probe.dashboard.capture_command import capture as command

    options = Options(layers, grid, keep or [], keep_bits, generate, resume, overwrite)
    return command(model, text or [], text_file or [], out, stats, options, device=device, as_json=json)


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def run(
    context: typer.Context,
    explainer: Annotated[str | None, typer.Argument(help="An explainer that reads a record.")] = None,
    record: Annotated[Path | None, typer.Argument(help="Folder of the record.")] = None,
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


def bench(**asked: Any) -> int:
    """Measure the speed of exact statistics.

    Beside the forward passes of others, in one run; each result is compared with float64 first, and a wrong one ends the run.
    """
    from probe.dashboard.bench.command import bench as command

    return command(Request(**asked))


def _with_options_of(request: type, command: Callable[..., int], *arguments: Parameter) -> Callable[..., int]:
    """Give a command an option for each field of a dataclass; the fields' metadata are their help and metavar."""
    kinds, options = get_type_hints(request), list(arguments)
    for field in fields(request):
        names = (f"--{field.name}",) if kinds[field.name] is bool else ()
        kind = Annotated[kinds[field.name], typer.Option(*names, **field.metadata)]
        options.append(Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=kind))
    command.__signature__ = Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


_SOURCE = Annotated[
    str,
    typer.Argument(
        help="A text, a text file, - for standard input; for many, a folder or a .jsonl file.",
        metavar="TEXT|FILE|FOLDER|-",
    ),
]
app.command()(
    _with_options_of(ExplainRequest, explain, Parameter("source", Parameter.KEYWORD_ONLY, annotation=_SOURCE))
)
app.command()(_with_options_of(Request, bench))


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
