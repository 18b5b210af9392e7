"""Reading single image files from Python, with the pixels that streams decode inside the graph."""
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.data import resizing
from pipeline.data.decode import UnreadableImage, read_image
from pipeline.data.encoded_header import Header
from pipeline.data.encoded_images import decode_one
from pipeline.data.image_header import read_header
from pipeline.data.image_index import PILLOW
from pipeline.errors import UsageError
from pipeline.preprocessing import EARLIER, Preprocessing

NO_BOX = (-1, -1, -1, -1)


class ImageReader:
    """Reads image files one at a time; safe to call from several threads."""

    def __init__(self, preprocessing: Preprocessing):
        """
        Args:
          preprocessing: size, channels and method.

        Raises:
          UsageError: images of another number of channels than 1 or 3.
        """
        height, width, channels = preprocessing.image_shape
        if channels not in (1, 3):
            raise UsageError("image files have 1 or 3 channels, and images of this model are "
                             f"{height}x{width}x{channels}")
        self.preprocessing = preprocessing

    def read(self, path: str, header: Sequence[int] | None = None, box: Sequence[int] = NO_BOX) -> np.ndarray:
        """Returns the image of a file: uint8 [H, W, C].

        Args:
          path: of the file.
          header: (decoder, height, width, orientation) that it had when its data set was loaded; default: it is read.
          box: (top, left, height, width), the part that becomes the image; default: that of the preprocessing.

        Raises:
          UnreadableImage: no image, truncated, or of another size than its header was.
        """
        height, width, channels = self.preprocessing.image_shape
        if self.preprocessing.version == EARLIER:
            return read_image(path, channels, (height, width))
        if header is None:
            found = read_header(path)
            header = found.decoder, found.height, found.width, found.orientation
        if tuple(header[1:3]) == (height, width) and self.preprocessing.policy != "crop" and tuple(box) == NO_BOX:
            image = read_image(path, channels)  # The same pixels, without the operations that resize: small files.
            _check_size(image.shape, header)
            return image
        if header[0] == PILLOW:
            content, pixels = b"", read_image(path, 3)
            _check_size(pixels.shape, header)
        else:
            content, pixels = _content(path), np.zeros([1, 1, 3], np.uint8)
        try:
            return self._graph(content, np.array(header, np.int32), np.array(box, np.int32), pixels).numpy()
        except tf.errors.OpError as error:
            _check_size(read_image(path, 3).shape, header)
            raise UnreadableImage("it cannot be decoded; save it again") from error

    @functools.cached_property
    def _graph(self):
        """A function of (content, header, box, Pillow's pixels) to the image, on the CPU."""
        @tf.autograph.experimental.do_not_convert
        def image(content, header, box, pixels):
            found = Header(*tf.unstack(header))
            part = tf.where(box[0] < 0, resizing.box_of(found.height, found.width, self.preprocessing), box)
            return decode_one(content, self.preprocessing, found, part, lambda: pixels)

        def on_cpu(*arguments):
            with tf.device("CPU:0"):
                return image(*arguments)

        return tf.function(on_cpu, autograph=False, input_signature=[
            tf.TensorSpec([], tf.string), tf.TensorSpec([4], tf.int32), tf.TensorSpec([4], tf.int32),
            tf.TensorSpec([None, None, 3], tf.uint8)])


def _content(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UnreadableImage((error.strerror or str(error)).lower(), lost=True) from error


def _check_size(shape, header):
    """Raises UnreadableImage where a file is of another size than when its data set was loaded."""
    if tuple(shape[:2]) != tuple(header[1:3]):
        raise UnreadableImage(f"it is {shape[0]}x{shape[1]} (height x width) now and was {header[1]}x{header[2]} when "
                              "the data were loaded")
