"""TensorFlow's private interfaces exist: tests are named after what an upgrade would remove."""
import ast
import inspect

import tensorflow as tf

from pipeline.internals import tensorflow_internals as internals


def test_convert_variables_to_constants_v2_freezes_a_graph():
    variable = tf.Variable([1.0, 2.0])
    function = tf.function(lambda x: x * variable).get_concrete_function(tf.TensorSpec([2], tf.float32))
    assert not any("ReadVariableOp" in op.type for op in internals.freeze_graph(function).graph.get_operations())


def test_checkpoints_hold_a_trackable_object_graph(tmp_path):
    path = tf.train.Checkpoint(value=tf.Variable(1.0)).write(str(tmp_path / "ckpt"))
    graph = internals.object_graph(tf.train.load_checkpoint(path).get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    assert [child.local_name for child in graph.nodes[0].children] == ["value"]


def test_graph_get_function_finds_what_an_operation_calls():
    inner = tf.function(lambda x: x + 1.0)
    graph = tf.function(lambda x: inner(x)).get_concrete_function(tf.TensorSpec([], tf.float32)).graph
    call = next(op for op in graph.get_operations() if "PartitionedCall" in op.type)
    assert internals.called_graph(graph, call.node_def.attr["f"].func.name) is not None
    assert internals.called_graph(graph, "no such function") is None


def test_async_checkpointer_impl_keeps_the_error_of_a_save(tmp_path):
    checkpoint = tf.train.Checkpoint(value=tf.Variable(1.0))
    (tmp_path / "file").write_text("no folder")
    checkpoint.save(str(tmp_path / "good" / "ckpt"), options=tf.train.CheckpointOptions(enable_async=True))
    checkpoint.sync()
    assert internals.take_writer_error(checkpoint) is None
    checkpoint._async_checkpointer_impl._async_error = OSError("disk full")
    assert str(internals.take_writer_error(checkpoint)) == "disk full"
    assert internals.take_writer_error(checkpoint) is None


def test_copy_to_cpu_copies_one_by_one_or_by_a_traced_function(tmp_path):
    checkpoint = tf.train.Checkpoint(value=tf.Variable(0.0))
    for number, traced in enumerate((False, False, True, True)):
        checkpoint.value.assign(number)
        path = checkpoint.save(str(tmp_path / "ckpt"), options=tf.train.CheckpointOptions(enable_async=True))
        checkpoint.value.assign(-1.0)  # The copy is what is written.
        checkpoint.sync()
        assert tf.train.load_variable(path, "value/.ATTRIBUTES/VARIABLE_VALUE") == number
        internals.trace_copies(checkpoint, traced)
        assert hasattr(checkpoint._async_checkpointer_impl._copy_to_cpu, "python_function") == traced


def test_extended_cross_device_ops_of_a_strategy(strategy):
    assert isinstance(internals.cross_device_ops(strategy(2)), tf.distribute.CrossDeviceOps)


def test_initialize_local_devices_is_replaced_temporarily():
    from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended as extended
    before = extended._initialize_local_devices
    with internals.logical_cpu_replicas(2):
        assert extended._initialize_local_devices(None, None, "/job:worker") == (
            ("/job:worker/device:CPU:0", "/job:worker/device:CPU:1"), "CPU")
    assert extended._initialize_local_devices is before


def test_pywrap_enable_collective_ops_is_replaced_temporarily():
    from tensorflow.python import pywrap_tfe
    before = pywrap_tfe.TFE_EnableCollectiveOps
    with internals.connecting_without_gil():
        assert pywrap_tfe.TFE_EnableCollectiveOps is not before
    assert pywrap_tfe.TFE_EnableCollectiveOps is before


def test_schema_and_converter_error_of_tflite():
    assert internals.tflite_schema().BuiltinOperator.CONV_2D == 3
    assert issubclass(internals.tflite_converter_error(), Exception)


def test_private_modules_are_imported_only_where_they_are_used():
    top = ast.parse(inspect.getsource(internals)).body
    names = [node.module or "" for node in top if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.startswith("tensorflow")]


def test_xplane_of_the_profiler():
    assert list(internals.read_trace(b"").planes) == []
