"""What a form needs beside the package itself, and how it is installed."""
import importlib.util

from pipeline.errors import UsageError

PACKAGES = {"onnx": ("tf2onnx", "onnx", "onnxruntime"), "tflite": ("ai_edge_litert",)}


def check_extra(form):
    """Raises UsageError where packages are missing that write a Form, or prove it."""
    missing = [name for name in PACKAGES.get(form.extra, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"form {form.name} needs {', '.join(missing)}, which {'are' if missing[1:] else 'is'} not "
                         f"installed: pip install 'mirrorline[{form.extra}]'")
