"""Run the command: in this process, or in one of its own with nothing but a pipe at its end."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "The plot is thin, but the acting is a delight."


def environment(**more):
    drop = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM")
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


@pytest.fixture
def probe(capsys, monkeypatch):
    """Run a command line here; gives `code`, `out`, `err`."""
    from probe.dashboard import cli

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments):
        capsys.readouterr()
        code = cli.run_line([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture
def fails(probe):
    """Run a command line that must end in one clear line; gives that line."""

    def run(*arguments, code=1):
        ended = probe(*arguments)
        assert ended.code == code, ended
        assert ended.out == ""
        lines = ended.err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    return run


def command(*arguments):
    return [sys.executable, "-m", "probe.dashboard.cli", *map(str, arguments)]


@pytest.fixture
def separate():
    """Run a command line in a process of its own, its output piped."""

    def run(*arguments, stdin=None, preexec_fn=None, **env):
        return subprocess.run(
            command(*arguments),
            input=stdin,
            capture_output=True,
            env=environment(**env),
            timeout=300,
            check=False,
            preexec_fn=preexec_fn,
        )

    return run


@pytest.fixture
def in_shell():
    """Run a shell line in which {probe} stands for the command."""

    def run(line, **env):
        line = line.replace("{probe}", shlex.join(command()))
        return subprocess.run(
            ["bash", "-c", line],
            capture_output=True,
            text=True,
            env=environment(**env),
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def on_terminal(in_shell):
    """Run a command line whose output is a terminal."""
    if shutil.which("script") is None:
        pytest.skip("no `script` here to make a terminal")

    def run(*arguments, **env):
        inner = shlex.join(command(*arguments))
        return in_shell(f"script -qec {shlex.quote(inner)} /dev/null", TERM="xterm-256color", **env)

    return run


@pytest.fixture
def started():
    """Start a command line and leave it running."""

    def start(*arguments, **env):
        return subprocess.Popen(
            command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**env),
        )

    return start


@pytest.fixture(scope="session")
def sentiment_folder():
    from probe.models import catalog

    folder = catalog.installed_folder(catalog.find("sentiment"))
    if not (folder / "model.safetensors").is_file():
        pytest.skip("the embedded sentiment model is not in this checkout")
    return folder


@pytest.fixture(scope="session")
def record(tmp_path_factory, sentiment_folder):
    """A real record of the embedded model."""
    import probe as package

    store = tmp_path_factory.mktemp("records") / "r.zarr"
    package.capture(package.load("sentiment"), [SENTENCE, "A dull film."], store=store)
    return store


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory, sentiment_folder):
    """A folder with a causal model of many small layers: capturing it takes seconds."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "slow"
    tokenizer = AutoTokenizer.from_pretrained(sentiment_folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=40,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.model_max_length = 8192
    tokenizer.save_pretrained(folder)
    return folder
