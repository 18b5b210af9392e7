"""Taking one cure out of the product, in processes of their own: what proves something has to notice."""
import os
import subprocess
import sys

from tests.commands import REPOSITORY, environment

# Runs after the module, in its namespace: whoever imports the name later gets the other one.
SITECUSTOMIZE = """
import importlib.abc, importlib.machinery, sys

class WithoutCure(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != {module!r}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_both(module):
            execute(module)
            exec({body!r}, module.__dict__)

        spec.loader.exec_module = execute_both
        return spec

sys.meta_path.insert(0, WithoutCure())
"""

# What is taken out: (part of the proof that shows it, options, module, what its function becomes).
CURES = {
    "the reduction loses a replica": ("reduction", (), "pipeline.training.reduction", """
whole = reduce_once
def reduce_once(grads, state, sums, num_replicas):
    if num_replicas > 1:
        lost = tf.distribute.get_replica_context().replica_id_in_sync_group == num_replicas - 1
        grads = [tf.where(lost, tf.zeros_like(g), g) for g in grads]
    return whole(grads, state, sums, num_replicas)
"""),
    "every gradient counts as finite": ("infinite", (), "pipeline.training.decision", """
def is_finite(norm, loss):
    return tf.constant(True)
"""),
    "padding counts in an evaluation": ("ragged", (), "pipeline.training.losses", """
def masked(values, weight):
    return values
"""),
    "every replica draws the same dropout": ("replicas", (), "pipeline.models.dropout", """
own_rows = uniform_rows
def uniform_rows(seed, draw_index, layer_index, first_row, rows, width):
    return own_rows(seed, draw_index, layer_index, tf.zeros_like(first_row), rows, width)
"""),
    "a resume begins the stream anew": ("resume", (), "pipeline.data.stream", """
from_step = train_stream
def train_stream(split, layout, seed, start_step, augmentations=()):
    return from_step(split, layout, seed, 0, augmentations)
"""),
    "batch statistics are each replica's own": ("replicas", (), "pipeline.models.normalization", """
def moments_over_replicas(x, num_replicas):
    return tf.nn.moments(x, list(range(x.shape.rank - 1)))
"""),
    "a checkpoint leaves the optimizer out": ("resume", (), "pipeline.training.state", """
def checkpoint(self):
    return tf.train.Checkpoint(model=[v.value for v in self.model.variables], ema=self.ema, **self.counters())
TrainState.checkpoint = checkpoint
"""),
    "gradients are clipped on each replica": ("replicas", ("--clip_norm=0.1",), "pipeline.training.step", """
whole = StepFunctions._accumulate
def clipped(self, *arguments):
    grads, *rest = whole(self, *arguments)
    return clip(grads, tf.linalg.global_norm(grads), self.settings.clip_norm), *rest
StepFunctions._accumulate = clipped
"""),
}


def verify_without(name, folder, *arguments, timeout=300):
    """Runs `mirrorline verify` with a cure of CURES taken out of it and of every process it starts.

    Args:
      name: key of CURES.
      folder: pathlib.Path of an empty directory, where it runs.
      arguments: more flags.

    Returns:
      The completed process with text output.
    """
    part, options, module, body = CURES[name]
    patches = folder / "without_cure"
    patches.mkdir()
    (patches / "sitecustomize.py").write_text(SITECUSTOMIZE.format(module=module, body=body))
    command = [sys.executable, "-m", "launch", "verify", f"--only={part}", *options, *arguments]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, env={**environment(), "PYTHONPATH": os.pathsep.join(
                              [str(patches), str(REPOSITORY)])})
