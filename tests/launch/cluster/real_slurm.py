"""A real Slurm on this machine: a controller and two nodes, n1 and n2, for as long as a test needs them.

Needs root, and Debian's packages, which it installs: slurmctld, slurmd, slurm-client, slurm-wlm-basic-plugins, munge.
"""
import contextlib
import glob
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

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
    """Installs what is missing."""
    if shutil.which("slurmctld-wlm") and shutil.which("slurmd-wlm") and shutil.which("munged"):
        return
    # Debian starts daemons as it installs them, where there is something that starts daemons; these are not wanted.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update", "-q"), ("install", "-q", "-y", "--no-install-recommends", *PACKAGES)):
        subprocess.run(["apt-get", *command], check=True, env=environment, stdout=subprocess.DEVNULL)


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
            undo.callback(self._end)
            self._names = HOSTS.read_text()
            HOSTS.write_text(self._names.rstrip("\n") + f"\n127.0.0.1 {' '.join(NODES)}\n")
            self._write()
            self._munge()
            self._start("slurmctld-wlm", "-D")
            for node in NODES:
                self._start("slurmd-wlm", "-D", "-N", node)
            self._until(lambda: self.command("sinfo", "-h", "-o", "%D %T") == "2 idle\n")
            undo.pop_all()
        return self

    def __exit__(self, *exception):
        for job in self.command("squeue", "-h", "-o", "%A").split():
            self.command("scancel", "--signal=KILL", "--full", job)
            self.command("scancel", job)
        with contextlib.suppress(AssertionError):
            self._until(lambda: not self.command("squeue", "-h").strip())
        self._end()

    def _write(self):
        for name in ("state", *NODES):
            (self.folder / name).mkdir()
        cores = os.cpu_count()
        nodes = "\n".join(f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={free_port()} "
                          f"CPUs={cores} State=UNKNOWN" for node in NODES)
        plugins = glob.glob("/usr/lib/*/slurm-wlm")[0]
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
                                                stderr=log, start_new_session=True))
        log.close()

    def _until(self, condition, seconds=READY_SECONDS):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "daemons.log").read_text()[-2000:]
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
        HOSTS.write_text(self._names)

    def command(self, *command, cwd=None, text=None):
        """Runs a command of Slurm's; returns what it writes."""
        done = subprocess.run(command, env=self.environment, cwd=cwd, input=text, text=True, capture_output=True,
                              check=False)
        return done.stdout

    def job(self, number):
        """Returns {name: value} of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.command("scontrol", "show", "job", str(number))))

    def until_state(self, number, states, seconds):
        """Waits until a job is in one of the states; returns what is known of it."""
        deadline = time.monotonic() + seconds
        while (job := self.job(number)).get("JobState") not in states:
            assert time.monotonic() < deadline, job
            time.sleep(0.2)
        return job
