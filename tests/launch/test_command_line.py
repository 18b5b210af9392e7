"""The command as it is typed: what it prints where, its exit codes, and how soon it answers."""
import os
import re
import subprocess
import sys

import pytest

import launch
from launch import __main__ as command_line
from pipeline import silence
from pipeline.errors import RunFailure, UsageError
from pipeline.verification.installation import OK, PROBLEM, WARNING
from tests.selection import quick

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(launch.__file__)))


def mirrorline(*arguments, **options):
    """Runs `python -m launch ARGUMENTS` in a process of its own, as a user would: without settings of the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "GRPC_"))}
    environment.update(PYTHONPATH=ROOT, COLUMNS="80", **options.pop("env", {}))
    return subprocess.run([sys.executable, "-m", "launch", *arguments], capture_output=True, encoding="utf-8",
                          env=environment, timeout=600, **options)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_without_a_command_it_lists_the_commands(arguments):
    done = mirrorline(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^  (\w+) {2,}\S.{10,}$", done.stdout, re.MULTILINE)
    assert listed == ["train", "recipes", "evaluate", "predict", "export", "tensorboard", "find", "sweep",
                      "benchmark", "verify", "launch", "doctor", "inspect"]


def test_version():
    assert mirrorline("--version").stdout == f"mirrorline {launch.__version__}\n"


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_help_says_how_the_command_is_used(command):
    """That it answers at once is what test_structure holds: nothing heavy is imported for it."""
    done = mirrorline(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: mirrorline {command} ")


def test_help_command_is_the_command_s_help():
    assert mirrorline("help", "doctor").stdout == mirrorline("doctor", "--workdir=x", "--help").stdout


# What is typed, the line on standard error; each exits with 2 and prints nothing else.
WRONG = {
    "command": (["trian"], "mirrorline: unknown command 'trian': did you mean 'train'? known: benchmark, doctor, "
                           "evaluate, export, find, help, inspect, launch, predict, recipes, sweep, tensorboard, "
                           "train, verify, version"),
    "help of a wrong command": (["help", "docter"], "mirrorline: unknown command 'docter': did you mean 'doctor'?"),
    "flag before the command": (["--epochs=3", "train"], "mirrorline: the command comes first, then its flags; found "
                                                         "'--epochs=3'; commands: benchmark, doctor, evaluate, "
                                                         "export, find, inspect, launch, predict, recipes, "
                                                         "sweep, tensorboard, train, verify"),
    "flag": (["train", "--epoch=3"], "mirrorline train: unknown flag '--epoch': did you mean --epochs?"),
    "flag of another command": (["tensorboard", "--epochs=3"], "mirrorline tensorboard: unknown flag '--epochs': "),
    "stray argument": (["train", "mnist"], "mirrorline train: unexpected argument 'mnist'"),
    "type": (["train", "--epochs=abc"], "mirrorline train: --epochs must be a number > 0 (epochs); found 'abc'"),
    "negative epochs": (["train", "--epochs=-1"], "mirrorline train: --epochs must be > 0 epochs; found -1"),
    "two lengths": (["train", "--epochs=5", "--steps=3"], "mirrorline train: --epochs=5 and --steps=3 both set the "
                                                          "length: give one"),
    "empty batch": (["train", "--batch_size=0"], "mirrorline train: --batch_size must be >= 1 examples; found 0"),
    "augmentation": (["train", "--augment=flp"], "mirrorline train: unknown augmentation 'flp': did you mean 'flip'?"),
    "precision": (["train", "--precision=float23"], "mirrorline train: unknown --precision 'float23': did you mean "
                                                    "'float32'?"),
    "optimizer": (["train", "--optimizer=adm"], "mirrorline train: unknown --optimizer 'adm': did you mean 'adam'?"),
    "flag file": (["train", "--flagfile=no.flags"], "mirrorline train: --flagfile=no.flags: there is no such file; "
                                                    "recipes: cifar10-mini_inception.flags, digits.flags, "),
}


@pytest.mark.parametrize("arguments, line", WRONG.values(), ids=WRONG)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, line, tmp_path):
    done = mirrorline(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_help_into_a_closed_pipe_ends_without_a_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([sys.executable, "-m", "launch", "train", "--help"], stdout=writer,
                             stderr=subprocess.PIPE, cwd=ROOT, text=True, timeout=600)
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, "")


class Command:
    """A command that ends with the exit code that a flag gives."""

    SUMMARY, GROUPS = "end with a given exit code", ("runtime",)

    def __init__(self, end):
        self.end = end

    def define(self, flag_values):
        pass

    def run(self, config, flag_values):
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


@pytest.mark.parametrize("end, code, line", [
    (0, 0, ""),
    (75, 75, ""),
    (UsageError("no such thing;\nfound none"), 2, "mirrorline train: no such thing; found none\n"),
    (RunFailure("all checkpoints are corrupt"), 1, "mirrorline train: all checkpoints are corrupt\n"),
    (KeyboardInterrupt(), 130, "mirrorline train: interrupted\n"),
    (ModuleNotFoundError("No module named 'tensorflow'"), 1, "mirrorline train: TensorFlow cannot be loaded "
     "(No module named 'tensorflow'); run 'mirrorline doctor' to see what is missing\n"),
])
def test_how_a_command_ends_is_the_exit_code(end, code, line, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "launch.commands.train", Command(end))
    monkeypatch.setattr(silence, "quiet", lambda verbosity: None)
    assert command_line.main(["train"]) == code
    assert capfd.readouterr().err == line


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules, "launch.commands.train", Command(ZeroDivisionError("a defect")))
    monkeypatch.setattr(silence, "quiet", lambda verbosity: None)
    with pytest.raises(ZeroDivisionError):
        command_line.main(["train"])


NOISE = {"TF_CPP_VMODULE": "op_kernel=1"}  # On every machine, whatever its processor is.


@pytest.mark.parametrize("verbosity, noisy", quick([("normal", False), ("debug", True)]))
def test_tensorflow_is_silent_unless_asked(verbosity, noisy, tmp_path):
    """In make test tests/test_keras_import.py has a training from nothing that is silent.

    The doctor imports TensorFlow, looks for GPUs, and reduces over two logical CPUs: the noisiest there is.
    """
    done = mirrorline("doctor", "--replicas=2", f"--verbosity={verbosity}", f"--workdir={tmp_path}/run", env=NOISE)
    assert (" op_kernel.cc:" in done.stderr) == noisy and (done.stderr == "") == (not noisy)
    assert done.returncode == 0, done.stdout
    names = {line[8:22].strip() for line in done.stdout.splitlines() if line[:8].strip() in (OK, WARNING, PROBLEM)}
    assert names >= {"Python", "packages", "CPU", "memory", "TensorFlow", "reduction", "data sets", "workdir", "disk"}
    assert not (tmp_path / "run").exists()


def test_only_log_lines_of_tensorflow_are_held_back(capfd):
    with silence.held_back_stderr():
        os.write(2, b"I0000 00:00:1795230419.701376 4525 port.cc:153] oneDNN custom operations are on.\n"
                    b"symbol lookup error: libstdc++.so.6: version not found\n"
                    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n")
    assert capfd.readouterr().err == "symbol lookup error: libstdc++.so.6: version not found\n"


def test_what_an_import_writes_before_it_fails_is_shown(capfd):
    with pytest.raises(ImportError), silence.held_back_stderr():
        os.write(2, b"libfoo.so: cannot open shared object file\n")
        raise ImportError("libfoo")
    assert capfd.readouterr().err == "libfoo.so: cannot open shared object file\n"
