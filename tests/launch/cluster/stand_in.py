"""A worker without TensorFlow: steps with its peers over real sockets, saves, and fails where its settings ask.

As a trainer does, it takes its peers from TF_CONFIG, continues from the latest checkpoint, exits with 76 where a peer
is lost, and with 75 where any of the workers was asked to stop. It computes a chain of hashes: a run that loses or
repeats a step ends with another value.

    python -m tests.launch.cluster.stand_in WORKDIR '{"steps": 20, "do": [[attempt, rank, step, what], ...]}'
"""
import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

SAVE_EVERY, STEP_SECONDS = 5, 0.01
PATIENCE = 30.0  # Seconds for a peer's answer; longer than a busy machine needs.


class Peers:
    """The others, through the chief: a step is done when all have confirmed it."""

    def __init__(self, addresses, rank, patience):
        self.rank, self.links, self.patience = rank, [], patience
        host, port = addresses[0].rsplit(":", 1)
        try:
            if rank == 0 and len(addresses) > 1:
                with socket.create_server((host, int(port))) as server:
                    server.settimeout(2 * patience)
                    self.links = [server.accept()[0] for _ in addresses[1:]]
            elif rank:
                self.links = [self.connect(host, int(port))]
        except OSError:
            lost(f"no answer from {addresses[1 - min(rank, 1)]}")
        for link in self.links:
            link.settimeout(patience)

    def connect(self, host, port):
        deadline = time.monotonic() + 2 * self.patience
        while True:
            try:
                return socket.create_connection((host, port), self.patience)
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def meet(self, word):
        """Returns the largest of all workers' words (bytes of length 1)."""
        try:
            if self.rank:
                self.links[0].sendall(word)
                return self.take(self.links[0])
            largest = max([word, *(self.take(link) for link in self.links)])
            for link in self.links:
                link.sendall(largest)
            return largest
        except OSError:
            lost("a peer does not answer")

    def take(self, link):
        word = link.recv(1)
        if not word:
            raise ConnectionResetError
        return word


def lost(what):
    print(f"mirrorline train: {what}", file=sys.stderr, flush=True)
    os._exit(76)


def act(what):
    """Does what the settings ask of a worker at this point."""
    verb, _, value = what.partition(" ")
    if verb == "exit":
        print("mirrorline train: this is the cause", file=sys.stderr, flush=True)
        os._exit(int(value))
    if verb == "late":  # Its peers lose it before it has reported why.
        os.closerange(3, 256)
        time.sleep(1.0)
        act(f"exit {value}")
    if verb == "raise":
        raise ValueError("the image is truncated")
    if verb == "signal":
        os.kill(os.getpid(), int(value))
    if verb == "hang":
        time.sleep(1000)
    if verb == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def append(path, record):
    with open(path, "a") as file:
        file.write(json.dumps({**record, "wall_time": time.time()}) + "\n")


def main(workdir, settings):
    workdir, attempt = pathlib.Path(workdir), int(os.environ["MIRRORLINE_ATTEMPT"])
    config = json.loads(os.environ.get("TF_CONFIG", '{"cluster": {"worker": ["none:0"]}, "task": {"index": 0}}'))
    addresses, rank = config["cluster"]["worker"], config["task"]["index"]
    asked = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.append(1) if not asked else os._exit(143))

    def due(step):
        for when, who, at, what in settings["do"]:
            if (when, who, at) == (attempt, rank, step):
                act(what)

    if settings.get("child"):
        subprocess.Popen(["sleep", "1000"])
    print(f"rank {rank} of {addresses} pid {os.getpid()}", flush=True)
    due("start")
    peers = Peers(addresses, rank, settings.get("patience", PATIENCE))
    saved = [json.loads(line)["step"] for line in (workdir / "launches.jsonl").read_text().splitlines()
             if '"saved"' in line] if (workdir / "launches.jsonl").exists() else []
    step = max(saved, default=0)
    value = (workdir / f"checkpoint-{step}").read_text() if step else ""
    if rank == 0:
        metrics = workdir / "metrics.jsonl"
        kept = [line for line in metrics.read_text().splitlines(keepends=True)
                if json.loads(line)["step"] <= step] if metrics.exists() else []
        append(workdir / "launches.jsonl", {"event": "start", "step": step})
        metrics.write_text("".join(kept))
    due("begin")
    while step < settings["steps"]:
        due(step)
        time.sleep(STEP_SECONDS)
        if peers.meet(b"1" if asked else b"0") == b"1":
            return stop(workdir, rank, step, value, settings, asked)
        step, value = step + 1, hashlib.sha256(f"{value}{step}".encode()).hexdigest()
        if rank == 0:
            append(workdir / "metrics.jsonl", {"kind": "train", "step": step})
            print(f"epoch  0.10/1  step {step}/{settings['steps']}  loss 0.5  accuracy 50.00%", flush=True)
            if step % SAVE_EVERY == 0:
                save(workdir, step, value)
    due("end")
    if rank == 0:
        (workdir / "result.json").write_text(value)
    return 0


def save(workdir, step, value):
    (workdir / f"checkpoint-{step}").write_text(value)
    append(workdir / "launches.jsonl", {"event": "saved", "step": step})


def stop(workdir, rank, step, value, settings, asked):
    if settings.get("never_saves"):
        time.sleep(1000)
    if rank == 0:
        time.sleep(settings.get("save_seconds", 0.0))
        save(workdir, step, value)
    elif settings.get("interrupted"):  # By a signal that comes when no handler is left.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        if not asked:
            signal.sigwait({signal.SIGINT})
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.kill(os.getpid(), signal.SIGINT)
    return 75


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
