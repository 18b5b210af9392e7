"""Examples streamed from files of records, shuffled by blocks."""
import functools
import re
import time
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from pipeline.data import array_records, damage
from pipeline.data.array_cache import cached
from pipeline.data.array_records import ArrayRecords
from pipeline.data.augment.resized_crop import DecodedCrop, boxes
from pipeline.data.encoded_header import Header, read_header
from pipeline.data.order import permute
from pipeline.data.records import RecordTable
from pipeline.data.source import Finish, numbered_batches
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.data.sources.tfds import ExampleFormat

BLOCK = 64  # Consecutive records read together.
GROUP = 16  # Blocks whose records are shuffled together.
_CROPPED_TOGETHER = 64  # Records whose parts are drawn at once: a draw is fifty small operations.
_READ_BUFFER = 262_144
_LONGEST_LOOK = 60.0  # Most seconds for the search for a damaged record.


class Records:
    """Reads a RecordTable.

    An epoch permutes the blocks of BLOCK consecutive records by (seed, epoch), divides the sequence of blocks into
    groups of GROUP, and permutes the records of each group. Every record comes once an epoch; one block is shorter
    where BLOCK does not divide the number of records.
    """

    crops = True  # See source.Reader.

    def __init__(self, table: RecordTable, example_format: "ExampleFormat", cache_dir: str | None = None):
        self.table, self.format, self.cache_dir = table, example_format, cache_dir
        self.count = len(table.offset)
        self.blocks = -(-self.count // BLOCK)
        self.groups = -(-self.blocks // GROUP)
        self._sized: dict[int, Records] = {}  # Kept: a stream refers weakly to what finds damaged records.

    @property
    def calls_python(self) -> bool:
        """See damage.pipelines_call_python."""
        return self.table.is_array_record

    def shuffled(self, seed: int, start_step: int, batch_size: int, finish: Finish, rows: np.ndarray | None = None,
                 crop: DecodedCrop | None = None) -> tf.data.Dataset:
        epoch, place = divmod(start_step * batch_size, self.count)
        group, skip = self._locate(seed, epoch, place)
        read = self._group_reader()

        @tf.autograph.experimental.do_not_convert
        def records(number):
            epoch, group = number // self.groups, number % self.groups
            found = read(permute(self._members(group), self.blocks, seed, epoch))
            size = tf.size(found, tf.int64)
            return tf.gather(found, permute(tf.range(size), size, seed, epoch, group + 1))

        first = epoch * self.groups + group
        numbers = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
        return self._decoded(numbers.map(records, num_parallel_calls=2, deterministic=True), skip, start_step,
                             batch_size, finish, self.format.training, rows, crop, seed)

    def in_order(self, start_batch: int, batch_size: int, finish: Finish) -> tf.data.Dataset:
        group, skip = divmod(start_batch * batch_size, BLOCK * GROUP)
        read = self._group_reader()
        numbers = tf.data.Dataset.range(group, self.groups)
        groups = numbers.map(lambda number: read(self._members(number)), num_parallel_calls=2, deterministic=True)
        return self._decoded(groups, skip, start_batch, batch_size, finish, self.format.evaluation)

    def select(self, index: np.ndarray) -> "Records":
        return Records(self.table.select(index), self.format, self.cache_dir)

    def sized(self, size: int) -> "Records":
        """Returns a reader of the same records whose training images are size x size."""
        if size not in self._sized:
            self._sized[size] = Records(self.table, self.format.sized(size), self.cache_dir)
        return self._sized[size]

    def read_labels(self) -> np.ndarray:
        def make():
            read = self._group_reader()
            numbers = tf.data.Dataset.range(self.groups)
            labels = numbers.map(lambda number: self.format.parse(read(self._members(number)))[1],
                                 num_parallel_calls=2, deterministic=True)
            return {"label": np.concatenate(list(labels.as_numpy_iterator()))}

        key = ("labels", self.format.label_key, self.count, int(self.table.checksum.astype(np.uint64).sum()),
               self.table.files)
        return cached(key, make, self.cache_dir)["label"]

    def _members(self, group):
        """Returns the places of a group's blocks: int64 [at most GROUP]."""
        return tf.range(group * GROUP, tf.minimum((group + 1) * GROUP, self.blocks))

    def _locate(self, seed, epoch, place):
        """Returns (group, skip): the group of an epoch that contains a place, and the number of records before it."""
        blocks = permute(tf.range(self.blocks, dtype=tf.int64), self.blocks, seed, epoch).numpy()
        sizes = np.minimum(BLOCK, self.count - blocks * BLOCK)
        ends = np.cumsum(np.add.reduceat(sizes, np.arange(0, self.blocks, GROUP)))
        group = int(np.searchsorted(ends, place, side="right"))
        return group, int(place - (ends[group - 1] if group else 0))

    def _group_reader(self):
        """Returns a function from block numbers int64 [k] to their records, string [n], in that order."""
        table = self.table
        if table.is_array_record:
            return self._array_record_reader()
        with tf.device("CPU:0"), tf.init_scope():
            files, file = tf.constant(table.files), tf.constant(table.file)
            offset, place = tf.constant(table.offset), tf.constant(table.place)
        gaps = bool(self.count) and int(table.place[-1] - table.place[0]) != self.count - 1

        def block(number):
            start, stop = number * BLOCK, tf.minimum((number + 1) * BLOCK, self.count)
            first, last = file[start], file[stop - 1]
            # A block may span shards; those after the first are read from their beginning.
            offsets = tf.pad(offset[start:start + 1], [[0, last - first]])
            variant = tf.raw_ops.TFRecordDatasetV2(
                filenames=files[first:last + 1], compression_type="", buffer_size=_READ_BUFFER, byte_offsets=offsets)
            dataset = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
            places = place[start:stop] - place[start]
            dataset = dataset.take(places[-1] + 1)
            if gaps:
                wanted = tf.scatter_nd(places[:, None], tf.ones_like(places), places[-1:] + 1) > 0
                dataset = dataset.enumerate().filter(lambda i, record: wanted[i]).map(lambda i, record: record)
            return dataset

        def read(numbers):
            records = tf.data.Dataset.from_tensor_slices(numbers).flat_map(block)
            return records.batch(BLOCK * GROUP).get_single_element()

        return read

    def _array_record_reader(self):
        """Returns what `_group_reader` does, for ArrayRecord files."""
        table, shards = self.table, ArrayRecords(self.table.files)

        def read(numbers):
            index = np.concatenate([np.arange(n * BLOCK, min((n + 1) * BLOCK, self.count)) for n in numbers])
            order = np.argsort(table.file[index], kind="stable")
            records = np.empty(len(index), object)
            try:
                records[order] = shards.read(table.file[index][order], table.offset[index][order])
            except UsageError as error:
                raise damage.report(error) from None
            return records

        return lambda numbers: tf.ensure_shape(tf.numpy_function(read, [numbers], tf.string, stateful=False), [None])

    def _decoded(self, groups, skip, first, batch_size, finish, preprocessing, rows=None, crop=None, seed=0):
        """Turns groups of records into finished batches, skipping the first `skip` records without decoding them.

        Likewise the records that are not among the `rows` of a batch, int64 [n]; None for all.
        """
        places = tf.data.Dataset.range(first * batch_size, np.iinfo(np.int64).max)
        records = tf.data.Dataset.zip(places, groups.prefetch(1).unbatch().skip(skip))
        if rows is not None:
            wanted = tf.constant(np.isin(np.arange(batch_size), rows))
            records, batch_size = records.filter(lambda place, record: wanted[place % len(wanted)]), len(rows)
        damage.watch(self)

        @tf.autograph.experimental.do_not_convert
        def example(place, record):
            return self._example(record, preprocessing)

        @tf.autograph.experimental.do_not_convert
        def cropped(record, header, box, mirrors):
            image, label = self._example(record, preprocessing, Header(*tf.unstack(header)), box)
            return crop.mirror(image, mirrors), label

        if crop is not None:
            boxed = functools.partial(self._boxed, seed, crop)
            records = records.batch(_CROPPED_TOGETHER).map(boxed, num_parallel_calls=2, deterministic=True).unbatch()
        return numbered_batches(records, example if crop is None else cropped, first, batch_size, finish)

    @tf.autograph.experimental.do_not_convert
    def _boxed(self, seed, crop, places, records):
        """Draws the parts of images: places int64 [n] and records string [n] to (records, headers, boxes, mirrors)."""
        encoded, _ = self.format.parse(records)
        headers = tf.map_fn(lambda content: tf.stack(read_header(content)), encoded,
                            fn_output_signature=tf.TensorSpec([4], tf.int32))
        seeds, mirrors = crop.draw(seed, places)
        return records, headers, boxes(headers[:, 1], headers[:, 2], seeds, crop.least_area), mirrors

    def _example(self, record, preprocessing, header=None, box=None):
        """Returns (image uint8 [H, W, C], label int32) of a serialized example."""
        images, labels = self.format.parse(record[None])
        return self.format.decode(images[0], preprocessing, header, box), labels[0]

    def find_damage(self) -> UsageError | None:
        """Returns the error about the first record that cannot be decoded; None if none is found in a minute."""
        @tf.autograph.experimental.do_not_convert
        def example(record):
            return self._example(record, self.format.evaluation)

        began, number = time.monotonic(), 0
        try:
            for _ in record_dataset(*self.table.files).map(example, num_parallel_calls=2, deterministic=True):
                number += 1
                if time.monotonic() - began > _LONGEST_LOOK:
                    return None
        except tf.errors.OpError as error:
            number, file = self._place_in_file(number)
            return UsageError(f"cannot decode record {number} of {file}: {first_line(error)}; prepare the data set "
                              "again")
        return None

    def _place_in_file(self, number):
        """Returns (number in its file, file) of a record by its number in all files."""
        for file in self.table.files:
            place = 0
            try:
                for _ in record_dataset(file):
                    if place == number:
                        return place, file
                    place += 1
            except tf.errors.OpError:  # It cannot even be read.
                return place, file
            number -= place
        return number, self.table.files[-1]


def record_dataset(*files: str) -> tf.data.Dataset:
    """Returns the records of files in order, string scalars."""
    if not array_records.is_array_record(files[0]):
        return tf.data.TFRecordDataset(files)
    return functools.reduce(tf.data.Dataset.concatenate, map(array_records.dataset, files))


def first_line(error: tf.errors.OpError) -> str:
    """Returns the first line of the message of an error of TensorFlow, without the names of operations."""
    where = r"^(\{\{function_node \S+\}\}\s*|Error in user-defined function passed to .*? with iterator: \S+: )*"
    return re.sub(where, "", error.message).splitlines()[0]
