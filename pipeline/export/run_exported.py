"""Loads an exported model as a stranger would and says what it says: probabilities, and how long it takes.

A script of its own that imports nothing of the project, for a process without any state of training:

    python -I judge.py --runtime=tensorflow --model=saved_model/1 --images=images.npy --output=found.npz

It reads uint8 images [N, H, W, C] and writes `probabilities` float32 [N, classes], `load_seconds`, `threads`, `version`
(of the runtime) and, for each of --batch_sizes, `latency_<size>`: milliseconds of each call. Everything is computed on
the CPU, so that all forms are compared on the same device. On failure: exit code 1, and one line on standard error.
"""
import argparse
import importlib
import json
import os
import sys
import threading
import time

BATCH = 64  # Images at once where it is not the time that matters: memory for a split does not grow with it.
WARM_CALLS, FEWEST_CALLS, MOST_CALLS = 3, 20, 100_000
POLL_SECONDS = 0.5
# What each runtime is to do without: an import of it fails.
WITHOUT = {"tensorflow": ("pipeline",), "keras": (), "litert": ("pipeline", "tensorflow", "keras"),
           "onnxruntime": ("pipeline", "tensorflow", "keras")}


def literal(folder):
    """Returns another path of a folder: TensorFlow takes brackets and backslashes for a pattern, and finds no files."""
    opened = f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"  # Until this process ends.
    return opened if os.path.isdir(opened) else folder


def open_tensorflow(options):
    """Opens a SavedModel; returns (prepare, compute): uint8 images to input, input to float32 probabilities."""
    import numpy as np
    import tensorflow as tf
    loaded = tf.saved_model.load(literal(options.model))
    function = loaded.signatures[options.signature]  # Holds no reference to what it is of.
    (name, spec), = function.structured_input_signature[1].items()

    def prepare(images):
        if spec.dtype == tf.string:  # Files of pictures, without loss.
            return tf.constant([tf.io.encode_png(image).numpy() for image in images])
        return tf.constant(images if spec.dtype == tf.uint8 else np.float32(images) / np.float32(255))

    def compute(batch, _keep=loaded):
        return function(**{name: batch})["probabilities"].numpy()

    return prepare, compute, tf.__version__


def open_keras(options):
    """Opens a .keras file, or makes a model by what was exported with its weights; as `open_tensorflow`."""
    import keras
    import numpy as np
    if options.maker:
        with open(options.metadata, encoding="utf-8") as file:
            metadata = json.load(file)
        module, function = options.maker.split(":")
        model = getattr(importlib.import_module(module), function)(options.model, metadata)
    else:
        model = keras.saving.load_model(options.model, compile=False, safe_mode=True)
    model.compile(jit_compile=False)
    return lambda images: np.float32(images) / np.float32(255), model.predict_on_batch, keras.__version__


def open_litert(options):
    """Opens a TFLite model with the interpreter of LiteRT; as `open_tensorflow`."""
    import ai_edge_litert
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(model_path=options.model, num_threads=options.threads)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    allocated = None

    def prepare(images):
        scale, zero = taken["quantization"]
        if taken["dtype"] == np.float32:
            return np.float32(images) / np.float32(255)
        limits = np.iinfo(taken["dtype"])
        return np.clip(np.rint(images / 255 / scale) + zero, limits.min, limits.max).astype(taken["dtype"])

    def compute(batch):
        nonlocal allocated
        if batch.shape != allocated:
            interpreter.resize_tensor_input(taken["index"], batch.shape)
            interpreter.allocate_tensors()
            allocated = batch.shape
        interpreter.set_tensor(taken["index"], batch)
        interpreter.invoke()
        found, (scale, zero) = interpreter.get_tensor(given["index"]), given["quantization"]
        return found if found.dtype == np.float32 else np.float32(scale) * (found.astype(np.float32) - zero)

    return prepare, compute, ai_edge_litert.__version__


def open_onnxruntime(options):
    """Opens an ONNX model; as `open_tensorflow`."""
    import numpy as np
    import onnxruntime
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return (lambda images: np.float32(images) / np.float32(255),
            lambda batch: session.run(["probabilities"], {name: batch})[0], onnxruntime.__version__)


RUNTIMES = {"tensorflow": open_tensorflow, "keras": open_keras, "litert": open_litert,
            "onnxruntime": open_onnxruntime}


def probabilities(prepare, compute, images):
    """Returns float32 [N, classes] for uint8 [N, H, W, C] images, a batch at a time."""
    import numpy as np
    return np.concatenate([np.asarray(compute(prepare(images[first:first + BATCH])), np.float32)
                           for first in range(0, len(images), BATCH)])


def latencies(compute, batch, seconds, clock=time.perf_counter):
    """Measures calls one after another.

    Args:
      compute: function of a batch.
      batch: its input, prepared.
      seconds: how long to measure; at least FEWEST_CALLS calls.
      clock: returns seconds.

    Returns:
      List of milliseconds, one a call, the first WARM_CALLS left out: they trace, compile and allocate.
    """
    for _ in range(WARM_CALLS):
        compute(batch)
    found, end = [], clock() + seconds
    while len(found) < FEWEST_CALLS or clock() < end and len(found) < MOST_CALLS:
        start = clock()
        compute(batch)
        found.append(1000 * (clock() - start))
    return found


def repeated(images, size):
    """Returns `size` images [size, H, W, C], beginning again where there are fewer."""
    import numpy as np
    return images[np.arange(size) % len(images)]


def judge(options):
    """Loads, computes, measures and writes; see the top of the file."""
    import numpy as np
    images = np.load(options.images, mmap_mode="r")
    start = time.perf_counter()
    prepare, compute, version = RUNTIMES[options.runtime](options)
    load_seconds = time.perf_counter() - start
    found = {"probabilities": probabilities(prepare, compute, images), "load_seconds": load_seconds,
             "threads": options.threads, "version": version}
    for size in options.batch_sizes:
        found[f"latency_{size}"] = latencies(compute, prepare(repeated(images, size)), options.seconds)
    np.savez(options.output, **found)


def end_with(parent):
    """Ends this process soon after the one that waits for it is gone, however that ended."""
    def watch():
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments):
    """Judges one model; returns the exit code."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("model", "images", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--runtime", required=True, choices=RUNTIMES)
    parser.add_argument("--signature", default="serving_default", help="of a SavedModel")
    parser.add_argument("--metadata", help="metadata.json that was exported with weights")
    parser.add_argument("--maker", help="module:function of path and metadata that makes a keras model")
    parser.add_argument("--batch_sizes", type=lambda text: [int(size) for size in text.split(",") if size], default=[])
    parser.add_argument("--seconds", type=float, default=1.0, help="to measure each batch size for")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--path", action="append", default=[], help="folder to import from, after all others")
    parser.add_argument("--import", action="append", default=[], dest="imports", help="module to import first")
    parser.add_argument("--extension", action="append", default=[], help="as --extension of mirrorline, after these")
    parser.add_argument("--parent", type=int, help="process to end with")
    options = parser.parse_args(arguments)
    if options.parent:
        end_with(options.parent)
    for name in [name for name in os.environ if name.startswith("KERAS_")]:
        del os.environ[name]
    # Keras finds no file of a user's there, and matplotlib, which it imports, needs no module of a notebook's.
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow",
                      KERAS_HOME=os.devnull, MPLBACKEND="Agg")
    sys.modules.update(dict.fromkeys(WITHOUT[options.runtime]))
    sys.path += [path for path in options.path if path not in sys.path]
    try:
        for name in options.imports:
            importlib.import_module(name)
        if options.extension:
            importlib.import_module("pipeline.extension").load(tuple(options.extension))
        judge(options)
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
