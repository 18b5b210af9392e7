"""A real Slurm on this machine: a controller and two nodes, n1 and n2, for as long as a test needs them.

Needs root and, where they are missing, Debian's packages, which it installs: slurmctld, slurmd, slurm-client,
slurm-wlm-basic-plugins, munge. It adds its nodes to /etc/hosts and takes them away again.
"""
import contextlib
import fcntl
import glob
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from pipeline.processes import end_with

PROGRAMS = ("slurmctld-wlm", "slurmd-wlm", "munged", "sbatch", "srun", "scancel")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge")
HOSTS, NODES = pathlib.Path("/etc/hosts"), ("n1", "n2")
READY_SECONDS = 60

CONFIGURATION = """
ClusterName=trial
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobRequeue=1
KillWait=20
MinJobAge=3600
SlurmdTimeout=20
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
{nodes}
PartitionName=trial Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def install():
    """Installs what is missing.

    Raises:
      AssertionError: that cannot be done here, in one line.
    """
    assert os.geteuid() == 0, "a real Slurm is started by root alone (slurmd, munged, /etc/hosts): run this as root"
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if not missing:
        return
    wanted = f"Slurm is not installed (no {', '.join(missing)}), and Debian's packages {' '.join(PACKAGES)}"
    assert shutil.which("apt-get"), f"{wanted} cannot be had without apt-get"
    for command in (("update", "-q"), ("install", "-q", "-y", "--no-install-recommends", *PACKAGES)):
        done = subprocess.run(["apt-get", *command], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, text=True,
                              capture_output=True, check=False)
        assert done.returncode == 0, f"{wanted} could not be installed: {done.stderr.strip()[-300:]}"


@contextlib.contextmanager
def alone():
    """Keeps a second Slurm of tests off this machine, which would have nodes of the same names."""
    with open(os.path.join(tempfile.gettempdir(), "mirrorline-slurm.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def named():
    """Lets the nodes' names be known on this machine."""
    line = f"127.0.0.1 {' '.join(NODES)}\n"
    HOSTS.write_text(HOSTS.read_text().rstrip("\n") + f"\n{line}")
    try:
        yield
    finally:
        HOSTS.write_text(HOSTS.read_text().replace(line, "", 1))


def free_port():
    """Returns a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Slurm:
    """A running Slurm; a context manager.

    Attributes:
      environment: variables for its commands.
      folder: of its files.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._processes = []

    def __enter__(self):
        install()
        with contextlib.ExitStack() as undo:
            undo.enter_context(alone())
            undo.enter_context(named())
            undo.callback(self._end)
            self._write()
            self._munge()
            self._start("slurmctld-wlm", "-D")
            for node in NODES:
                self._start("slurmd-wlm", "-D", "-N", node)
            self._until(lambda: self.command("sinfo", "-h", "-o", "%D %T") == "2 idle\n")
            undo.callback(self._cancel)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exception):
        self._undo.close()

    def _cancel(self):
        for job in self.command("squeue", "-h", "-o", "%A").split():
            self.command("scancel", "--signal=KILL", "--full", job)
            self.command("scancel", job)
        with contextlib.suppress(AssertionError):
            self._until(lambda: not self.command("squeue", "-h").strip())

    def _write(self):
        for name in ("state", *NODES):
            (self.folder / name).mkdir()
        cores = os.cpu_count()
        nodes = "\n".join(f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={free_port()} "
                          f"CPUs={cores} State=UNKNOWN" for node in NODES)
        plugins, = glob.glob("/usr/lib/*/slurm-wlm")
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(
            host=f"{socket.gethostname()}(127.0.0.1)", folder=self.folder, controller=free_port(), plugins=plugins,
            nodes=nodes))
        # Only this Slurm and its commands know the key.
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)

    def _munge(self):
        self._start("munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key",
                    f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munge.pid",
                    f"--log-file={self.folder}/munge.log", f"--seed-file={self.folder}/munge.seed")
        self._until((self.folder / "munge.socket").exists)

    def _start(self, *command):
        log = open(self.folder / "daemons.log", "ab")  # noqa: SIM115
        self._processes.append(subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log,
                                                stderr=log, start_new_session=True,
                                                preexec_fn=end_with(os.getpid())))
        log.close()

    def _until(self, condition, seconds=READY_SECONDS):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"Slurm is not ready within {seconds} s: " + "".join(
                log.read_text(errors="replace")[-1000:] for log in sorted(self.folder.glob("*.log")))
            time.sleep(0.1)

    def _end(self):
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def command(self, *command, cwd=None, text=None, succeeds=False):
        """Runs one of Slurm's commands, checks its exit code if asked to, and returns its output."""
        done = subprocess.run(command, env=self.environment, cwd=cwd, input=text, text=True, capture_output=True,
                              check=False)
        assert not (succeeds and done.returncode), f"{command[0]}: {done.stderr.strip()}"
        return done.stdout

    def job(self, number):
        """Returns {name: value} of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.command("scontrol", "show", "job", str(number))))

    def until_state(self, number, states, seconds):
        """Waits until a job is in one of the states; returns what is known of it."""
        deadline = time.monotonic() + seconds
        while (job := self.job(number)).get("JobState") not in states:
            assert time.monotonic() < deadline, f"job {number} is not {' or '.join(states)} within {seconds} s: {job}"
            time.sleep(0.2)
        return job
