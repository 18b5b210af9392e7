"""Other processes: how they end is what they meant, and none outlives the proof."""
import os
import signal
import subprocess
import sys

import pytest

from pipeline.errors import RunFailure, UsageError
from pipeline.processes import Processes


def python(processes, text):
    return processes.start("-c", text)


@pytest.mark.parametrize("text, error, line", [
    ("import sys; print('mirrorline train: no such thing', file=sys.stderr); sys.exit(2)", UsageError,
     "no such thing"),
    ("import sys; print('first'); print('all are damaged', file=sys.stderr); sys.exit(1)", RunFailure,
     "all are damaged"),
    ("import os; os.kill(os.getpid(), 9)", RunFailure, "a process ended with -9 and without a message"),
    ("import time; time.sleep(3600)", RunFailure, "a process did not end within 2 s"),
])
def test_an_end_that_is_not_good_is_an_error_with_its_line(text, error, line):
    limit = 2 if "sleep" in text else 600
    with Processes(timeout=limit) as processes, pytest.raises(error) as raised:
        processes.finish(python(processes, text))
    assert str(raised.value) == line


def test_a_defect_shows_its_traceback(capfd):
    with Processes(timeout=600) as processes, pytest.raises(RunFailure, match="ZeroDivisionError"):
        processes.finish(python(processes, "1 / 0"))
    assert "Traceback" in capfd.readouterr().err


def test_a_process_is_killed_when_the_time_has_come(tmp_path):
    path = tmp_path / "begun"
    with Processes(timeout=600) as processes:
        process = python(processes, f"import time; open({str(path)!r}, 'w').close(); time.sleep(3600)")
        processes.kill_when(process, path.exists)
        assert process.returncode == -signal.SIGKILL


def test_a_process_that_ends_too_soon_is_not_taken_for_killed():
    with Processes(timeout=600) as processes, pytest.raises(RunFailure, match="before it could be killed"):
        processes.kill_when(python(processes, "pass"), lambda: False)
    with Processes(timeout=600) as processes, pytest.raises(UsageError, match="wrong"):
        processes.kill_when(python(processes, "import sys; print('wrong', file=sys.stderr); sys.exit(2)"),
                            lambda: False)


def test_what_still_runs_at_the_end_is_killed():
    with pytest.raises(KeyboardInterrupt), Processes(timeout=600) as processes:
        process = python(processes, "import time; time.sleep(3600)")
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(RunFailure):
        python(processes, "pass")


def test_modules_of_the_working_directory_are_not_taken_for_ours(tmp_path):
    """As when the installed command is run where a folder happens to be called launch."""
    (tmp_path / "launch.py").write_text("raise SystemExit('not ours')")
    text = ("import sys\nfrom pipeline.processes import Processes\n"
            "with Processes(60) as processes:\n    processes.finish(processes.start('-m', 'launch', '--version'))\n")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(text)
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=600,
                          env={**os.environ, "PYTHONPATH": root})
    assert (done.returncode, done.stderr) == (0, "")
