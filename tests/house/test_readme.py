"""The README is a promise: each command, each block of Python and each shown output is run and compared."""

import ast
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tokenize
import urllib.request
from pathlib import Path

import pytest
from house import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.S | re.M)
MODEL = "smollm2"
WRITES = ("--out", "--html")
RECURSIVE = (
    "test",
    "test-gpu",
    "fast",
    "check",
    "bench",
)  # these run tests, or need a GPU: looked at, not run
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
INSTALLED = [f"--old-file={ROOT / '.venv' / '.installed'}"]  # no set-up in the middle of a test


def shell_lines(blocks):
    """Each command of the shell blocks, without its comment."""
    return [
        shlex.join(shlex.split(line, comments=True))
        for language, block in blocks
        if language == "bash"
        for line in block.splitlines()
        if shlex.split(line, comments=True)
    ]


LINES = shell_lines(BLOCKS)


def kind(line):
    """What is done with a command: "run", "run with the language model", "run on a GPU", "serve" or "look at"."""
    words = shlex.split(line)
    if words[0] == "make" and len(words) == 2 and words[1] in TARGETS:  # `make tests` would find the folder
        return "look at" if words[1] in RECURSIVE else "run"
    if words[0] == "probe" and len(words) > 1:
        if any("cuda" in word for word in words):
            return "run on a GPU"
        if words[1] == "open":
            return "serve"
        return "run with the language model" if needs_model(line) else "run"
    raise AssertionError(f"README has a command of no known kind: {line!r}; teach tests/house/test_readme.py")


def written(line):
    """Files that a command makes."""
    words = shlex.split(line)
    return {words[i + 1] for i, word in enumerate(words) if word in WRITES}


def before(line):
    """Earlier commands that make a file which this one reads, and those that they need."""
    words = set(shlex.split(line)) - written(line)
    earlier = LINES[: LINES.index(line)] if line in LINES else []
    found = [one for one in earlier if written(one) & words]
    return [*(far for one in found for far in before(one)), *found]


def needs_model(line):
    return MODEL in shlex.split(line) or any(needs_model(one) for one in before(line))


def marked(line):
    marks = {
        "run with the language model": [pytest.mark.real, pytest.mark.slow],
        "run on a GPU": [pytest.mark.gpu],
    }
    try:
        return pytest.param(line, marks=marks.get(kind(line), []))
    except AssertionError:
        return line  # its own test says so


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with the files of the checkout that the commands name."""
    folder = tmp_path_factory.mktemp("readme")
    for name in {word for line in LINES for word in shlex.split(line)[1:]}:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def run(workspace):
    """Run a command as printed, `make` in the checkout and `probe` in the workspace; gives what it prints."""
    scripts = Path(sys.executable).parent
    env = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    env = {name: value for name, value in env.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "COLUMNS")}
    done = {}

    def once(line):
        if line in done:
            return done[line]
        for needed in before(line):
            once(needed)
        if kind(line) == "serve":
            done[line] = served(line, workspace, env)
            return done[line]
        made = line.startswith("make ")
        if not (ROOT / ".venv" / "bin" if made else scripts).joinpath("probe").exists():
            pytest.skip("no environment with the command `probe`: make setup")
        shown = line.replace("make", shlex.join(["make", *INSTALLED]), 1) if made else line
        ended = subprocess.run(
            ["bash", "-c", shown], cwd=ROOT if made else workspace, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{line}\n{ended.stdout}"
        for name in written(line):
            assert (workspace / name).exists(), f"{line} made no {name}"
        done[line] = ended.stdout
        return ended.stdout

    return once


def served(line, folder, env):
    """The first page of a server, which is then interrupted."""
    with subprocess.Popen(
        [*shlex.split(line), "--port", "0"], cwd=folder, env=env, text=True, stderr=subprocess.PIPE
    ) as server:
        url = re.search(r"http://[^ ]+", server.stderr.readline())[0]
        with urllib.request.urlopen(url, timeout=60) as answer:
            page = answer.read().decode()
        server.send_signal(signal.SIGINT)
        try:
            assert "explorer ended" in server.communicate(timeout=60)[1]
        finally:
            server.kill()
        assert server.returncode == 0
    return page


@pytest.mark.parametrize("line", LINES)
def test_every_command_is_of_a_known_kind(line):
    kind(line)


@pytest.mark.parametrize("line", ["curl x", "pip install x", "make test demo", "make tests", "make", "probe"])
def test_other_commands_are_noticed(line):
    with pytest.raises(AssertionError, match="of no known kind"):
        kind(line)


def test_every_block_is_of_a_known_kind():
    assert LINES
    for language, block in BLOCKS:
        assert language in ("bash", "python", "text", ""), f"a block of an unknown language: {language}"
        if language == "":
            commands = [
                line for line in block.splitlines() if re.match(r"[$>]? ?(probe|make|pip|python)\b", line)
            ]
            commands = [line for line in commands if "←" not in line]
            assert commands == [], "a block without a language is a drawing, not commands"
    assert sum(language == "text" for language, _ in BLOCKS) == len(shown_outputs())


@pytest.mark.parametrize("line", [marked(line) for line in LINES])
def test_a_command_does_what_it_says(line, run):
    if kind(line) == "run with the language model":
        from probe.models import catalog

        if not catalog.is_installed(catalog.find(MODEL)):
            pytest.skip(f"{MODEL} is not installed: probe models install {MODEL}")
    if kind(line) == "look at":
        target(line.split()[1])
    else:
        assert run(line).strip()


def target(name):
    """A target of the Makefile, seen through make itself."""
    assert name in TARGETS
    ended = subprocess.run(
        ["make", "--no-print-directory", "-n", *INSTALLED, name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip(), f"make {name} does nothing"


def shown_outputs():
    """(command, output) for each block that follows "`command` prints …:"."""
    found = re.finditer(
        r"^`((?:probe|make) [^`]+)` prints[^\n]*:\n\n```text\n(.*?)^```$", README, re.S | re.M
    )
    return [match.groups() for match in found]


def assert_shown(shown, printed):
    """Each stretch between "…" lines stands in the output, in this order, whatever the line breaks."""
    rest = " ".join(printed.split())
    for part in re.split(r"^…$", shown, flags=re.M):
        wanted = " ".join(part.split())
        assert wanted in rest, f"README shows what is not printed:\n{wanted}\n\nprinted:\n{printed}"
        rest = rest.split(wanted, 1)[1]


@pytest.mark.parametrize(("command", "shown"), shown_outputs())
def test_a_shown_output_is_what_is_printed(command, shown, run):
    assert_shown(shown, run(command))


def test_a_stale_output_is_noticed():
    assert_shown("a 0.79\n…\nb  2\n", "a\n0.79\nmore\nb 2\n")
    for stale in ("a 0.78\n…\nb 2", "b 2\n…\na 0.79"):
        with pytest.raises(AssertionError, match="README shows what is not printed"):
            assert_shown(stale, "a\n0.79\nmore\nb 2\n")


def comments(code):
    """Comment of each line that has one."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_a_block_of_python_runs_and_prints_what_its_comments_show(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = {}

    def keep(*values):
        printed[sys._getframe(1).f_lineno] = " ".join(map(str, values))

    exec(compile(code, "README.md", "exec"), {"__name__": "readme", "print": keep})
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    prints = {node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"}
    assert set(printed) == prints
    assert all(printed.values())
    shown = {line: comment for line, comment in comments(code).items() if line in printed}
    assert {line: agrees(comment, printed[line]) for line, comment in shown.items()} == dict.fromkeys(
        shown, True
    )


def agrees(comment, printed):
    """A comment beside `print` is what is printed, and perhaps a remark behind a colon."""
    return comment == printed or comment.startswith(f"{printed}: ")


PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.S | re.M)
INLINE = [
    " ".join(code.split())
    for paragraph in PROSE.split("\n\n")
    for code in re.findall(r"`([^`]+)`", paragraph)
]


def inline(start):
    return sorted({code for code in INLINE if code.startswith(start)})


@pytest.mark.parametrize("code", inline("make "))
def test_a_target_in_the_text_exists(code):
    target(code.split()[1])


@pytest.mark.parametrize("code", inline("probe "))
def test_a_command_in_the_text_exists(code):
    from probe.dashboard import cli

    words = code.split()[1:]
    names = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert words[0] in names | {group.name for group in cli.app.registered_groups}


@pytest.mark.parametrize("code", inline("probe."))
def test_an_expression_in_the_text_runs(code, monkeypatch, tmp_path):
    """A call is made, with a model of your own; a bare name is found."""
    from importlib import import_module

    import readme_objects

    import probe

    if "(" not in code:
        module, _, name = code.rpartition(".")
        assert hasattr(import_module(module), name) or import_module(code)
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    result = eval(code, {"probe": probe, **readme_objects.for_call(code)})
    tree = result[0] if isinstance(result, tuple) else result
    if "validity" in getattr(tree, "children", ()):
        assert tree["validity"].attrs["passed"]
    assert tree.sizes or tree.children


@pytest.mark.parametrize("code", inline("pip "))
def test_what_pip_is_told_to_read_is_there(code):
    words = shlex.split(code)
    assert words[:2] == ["pip", "install"]
    assert (ROOT / words[words.index("-c") + 1]).is_file()
    assert words[words.index("-e") + 1] == "."
    assert (ROOT / "pyproject.toml").is_file()


def test_links_and_files_in_the_text_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    files = [code for code in INLINE if re.fullmatch(r"[\w./-]+\.(md|txt|toml|py)|[\w-]+/", code)]
    assert links
    assert files
    assert [name for name in (*links, *files) if not (ROOT / name).exists()] == []
