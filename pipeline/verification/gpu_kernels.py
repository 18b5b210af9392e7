"""TensorFlow's registry of kernels: which operations a GPU computes, from which memory, and which XLA compiles for it.

A TensorFlow that is built for CUDA registers the kernels of GPUs on every machine, also on one without any.
"""
import dataclasses
import functools
from typing import Any

import tensorflow as tf

from pipeline.internals.tensorflow_internals import registered_kernels

GPU, XLA_GPU = ("GPU", "DEFAULT"), ("XLA_GPU_JIT",)  # Types of device, best first; DEFAULT: of any device.
REFERENCE = 100  # Numbers of types above it are references to those below.


@dataclasses.dataclass(frozen=True)
class Memory:
    """Which inputs and outputs of a kernel on a GPU are in host memory: a flag for each tensor."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]


def has_registry() -> bool:
    """Tells whether this TensorFlow knows the kernels of GPUs: one that is built for CPUs alone does not."""
    return bool(_kernels("MatMul", ("GPU",)))


def gpu_kernel(op: tf.Operation) -> Memory | None:
    """Returns the memory that the GPU kernel of an operation uses; None where none fits its types."""
    kernel = _fitting(op.type, _types(op), GPU)
    if kernel is None:
        return None
    definition, on_host = op.op_def, set(kernel.host_memory_arg)

    def flags(arguments):
        return tuple(argument.name in on_host for argument in arguments for _ in range(_count(op, argument)))

    return Memory(flags(definition.input_arg), flags(definition.output_arg))


def compiles_for_gpus(op: tf.Operation) -> bool:
    """Tells whether XLA compiles an operation of these types for GPUs."""
    _fill_xla_registry()
    return _fitting(op.type, _types(op), XLA_GPU) is not None


@functools.cache
def _fill_xla_registry() -> None:
    """Lets XLA list its kernels, which it does at the first compilation of a process."""
    tf.function(lambda x: x + 1.0, jit_compile=True, autograph=False)(tf.zeros([1]))


@functools.cache
def _kernels(operation: str, devices: tuple[str, ...]) -> list[Any]:
    """Returns the KernelDefs of an operation for types of device, best first."""
    found = [k for k in registered_kernels(operation) if k.device_type in devices and not k.label]
    return sorted(found, key=lambda k: (devices.index(k.device_type), -k.priority))


@functools.cache
def _fitting(operation: str, types: tuple[tuple[str, tuple[int, ...]], ...], devices: tuple[str, ...]) -> Any:
    """Returns the KernelDef for types, (attribute, its types by number) each, or None."""
    given = dict(types)
    for kernel in _kernels(operation, devices):
        allowed = {c.name: set(c.allowed_values.list.type) for c in kernel.constraint if c.allowed_values.list.type}
        if all({t % REFERENCE for t in given.get(name, ())} <= some for name, some in allowed.items()):
            return kernel
    return None


def _types(op):
    """Returns the types of an operation, as `_fitting` takes them."""
    found = []
    for attribute in op.op_def.attr:
        if attribute.type in ("type", "list(type)"):
            value = op.get_attr(attribute.name)
            listed = value if isinstance(value, list) else [value]
            found.append((attribute.name, tuple(dtype.as_datatype_enum for dtype in listed)))
    return tuple(found)


def _count(op, argument):
    """Returns how many tensors an argument of an operation's definition stands for."""
    if argument.number_attr:
        return op.get_attr(argument.number_attr)
    return len(op.get_attr(argument.type_list_attr)) if argument.type_list_attr else 1
