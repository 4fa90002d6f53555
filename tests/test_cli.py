"""The command line: what is typed is what is done, and every end has its exit code."""

import contextlib
import errno
import shlex
import subprocess
import sys

import click
import pytest
from helpers import tomodask, works

from tomodask.cli import main
from tomodask.cli import volumes as volume_commands
from tomodask.errors import InputError

COMMANDS = (
    "info", "convert", "density", "simulate", "reconstruct", "match", "train", "segment",
    "pick", "score", "extract", "align", "average", "fsc", "refine", "average2d", "pretrain",
    "embed", "subdivide", "explain", "run", "demo",
)  # fmt: skip
GROUPS = {"classify": "pretrain"}  # and the command that each follows; see test_cli_classify
HERE_ALONE = ("info", "density", "train", "score", "fsc", "pretrain")  # run where it was called


def every_command():
    context = click.Context(main, info_name="tomodask")
    return [(name, main.get_command(context, name), context) for name in COMMANDS]


def test_help_lists_the_commands_and_is_quick():
    """No heavy import stands between a user and --help."""
    code = (
        "import sys\nfrom tomodask.cli import main\n"
        "try: main(['align', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'dask', 'numpy', 'xarray', 'zarr', 'pandas', 'distributed', 'numba', 'scipy'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "heavy: []"
    text = works("--help")
    wanted = list(COMMANDS)
    for group, before in GROUPS.items():
        wanted.insert(wanted.index(before) + 1, group)
    listed = text.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if line] == wanted
    assert "..." not in text.partition("Commands:")[2]
    assert works("--version").startswith("tomodask, version ")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example_that_can_be_typed(name):
    ((_, _, context),) = [one for one in every_command() if one[0] == name]
    lines = works(name, "--help").splitlines()
    start = lines.index("  Example:") + 1
    examples = [line.strip() for line in lines[start : lines.index("", start)]]
    assert examples
    for example in examples:
        words = shlex.split(example)
        # Those after the first may show what comes next.
        assert words[0] == "tomodask"
        assert words[1] == name or example != examples[0]
        command = main.get_command(context, words[1])
        words = words[2 : words.index(">") if ">" in words else None]
        with contextlib.suppress(click.exceptions.Exit):  # of an option that prints and ends
            command.make_context(command.name, words, parent=context)  # raises what click would say


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_tells_its_version(name):
    assert works(name, "--version") == works("--version")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in HERE_ALONE])
def test_commands_that_compute_can_be_told_where(name):
    ((_, command, _),) = [one for one in every_command() if one[0] == name]
    options = {word for option in command.params for word in option.opts}
    assert {"--scheduler", "--workers", "--memory", "--config", "-o", "--output"} <= options


def test_run_has_every_parameter_of_the_function():
    """The report prints a command line made of the function's parameters; it must be one."""
    import inspect

    from tomodask.project import run

    ((_, command, _),) = [one for one in every_command() if one[0] == "run"]
    options = {option.name for option in command.params if option.expose_value}
    parameters = set(inspect.signature(run).parameters) - {"command", "truth"}
    assert parameters - {"resample_template"} == options - {"resample"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "tomodask: No such command 'nope'."),
        (["align", "a.mrc"], "tomodask align: Missing option '--reference'."),
        (["extract", "a", "b", "--box", "x", "-o", "c.zarr"], "tomodask extract: Invalid value"),
        (["convert", "a.mrc"], "tomodask convert: Name the output once, as OUT or with -o."),
        (["pick", "--tresh", "1"], "tomodask pick: No such option"),
        (["demo", "-o", "d", "--memory", "1GB"], "tomodask demo: demo takes --scheduler"),
    ],
)
def test_wrong_words_end_with_2_and_one_line(words, message):
    code, out, err = tomodask(*words)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert "--help`." in err


@pytest.fixture
def raising(monkeypatch):
    """Let a command raise what is asked for."""

    def arrange(error):
        def command(**_):
            raise error

        monkeypatch.setattr(volume_commands.info, "callback", command)
        return tomodask("info", "x")

    return arrange


def disk_full():
    error = RuntimeError("a library's own words")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/data/out.zarr")
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("box must be even,\n  got 3"), "tomodask: box must be even, got 3\n"),
        (disk_full(), "tomodask: /data/out.zarr: the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "tomodask: the file grows beyond"),
        (FileNotFoundError(2, "no", "a.mrc"), "tomodask: a.mrc: no such file or folder; check"),
        (PermissionError(13, "no", "a.mrc"), "tomodask: a.mrc: access is not permitted; change"),
        (MemoryError(), "tomodask: not enough memory (MemoryError); give each worker more with"),
    ],
)
def test_what_a_user_can_mend_ends_with_2_and_one_line(raising, error, message):
    code, out, err = raising(error)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_an_own_fault_ends_with_1_and_keeps_the_traceback(raising, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = raising(KeyError("lost"))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    (log,) = tmp_path.glob("tomodask-error-*.log")
    assert str(log) in err
    assert "KeyError: 'lost'" in log.read_text()


def test_ctrl_c_ends_with_130(raising):
    code, _, err = raising(KeyboardInterrupt())
    assert code == 130
    assert err.lstrip().startswith("tomodask: stopped; what was finished is kept")


@pytest.mark.parametrize("name", [("classify", "predict"), ("explain",), ("convert",), ("pick",)])
def test_help_says_which_threads_work_where_nothing_is_asked_for(name):
    told = " ".join(works(*name, "--help").split())
    assert "[default: threads of this process, one a core; with --workers that many" in told
    assert "synchronous (this process, one task after the other)" in told
