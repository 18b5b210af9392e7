"""What srun does to the tasks of a step, without Slurm: starts them with its variables, labels what they write, and
takes all away when one fails.

    python -m tests.launch.cluster.stand_in_srun --ntasks=N [options] COMMAND...
"""
import os
import signal
import subprocess
import sys
import threading


def main(arguments):
    options = [a for a in arguments if a.startswith("--")]
    at = next(i for i, a in enumerate(arguments) if not a.startswith("--"))
    tasks = int(next(o for o in options if o.startswith("--ntasks=")).partition("=")[2])
    step = os.environ["MIRRORLINE_ATTEMPT"]  # One step an attempt, numbered from 0 as Slurm does.
    running, codes, lock = [], {}, threading.Lock()

    def say(text):
        with lock:
            print(text, flush=True)

    def stop(*_):
        for task in running:
            task.kill()

    def follow(rank, task):
        for line in task.stdout:
            say(f"{rank}: {line.rstrip()}")
        codes[rank] = task.wait()
        if codes[rank]:
            say(f"srun: error: n{rank}: task {rank}: " + (
                "Killed" if codes[rank] < 0 else f"Exited with exit code {codes[rank]}"))
            stop()

    signal.signal(signal.SIGTERM, stop)
    for rank in range(tasks):
        variables = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": str(tasks), "SLURM_STEP_ID": step,
                     "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_PROCID": str(rank)}
        running.append(subprocess.Popen(arguments[at:], env={**os.environ, **variables}, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    threads = [threading.Thread(target=follow, args=pair) for pair in enumerate(running)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max((128 - code if code < 0 else code) for code in codes.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
