"""A Vision Transformer and a Wide ResNet out of Keras's own layers, by its functional API, as its users write them."""
import keras
import numpy as np

EPSILON = 1.001e-5
DEPTH, CHANNELS, HEADS = 12, 192, 3  # Of ViT-Ti.


def sines(height: int, width: int, channels: int) -> np.ndarray:
    """Returns the fixed positions of arXiv:2205.01580, float32 [height * width, channels]."""
    rows, columns = np.mgrid[:height, :width].reshape(2, -1, 1).astype(float)
    omega = 1 / 10_000 ** (np.arange(channels // 4) / (channels // 4 - 1))
    return np.concatenate([np.sin(columns * omega), np.cos(columns * omega), np.sin(rows * omega),
                           np.cos(rows * omega)], axis=1).astype(np.float32)


def attention(x: keras.KerasTensor) -> keras.KerasTensor:
    """Maps [batch, tokens, channels] to the same shape: queries, keys and values from one dense layer."""
    tokens, depth = x.shape[1], CHANNELS // HEADS
    mixed = keras.layers.Reshape((tokens, 3, HEADS, depth))(keras.layers.Dense(3 * CHANNELS)(x))
    query, key, value = (mixed[:, :, i] for i in range(3))
    weights = keras.ops.softmax(keras.ops.einsum("bqhd,bkhd->bhqk", query, key) / depth**0.5)
    x = keras.layers.Reshape((tokens, CHANNELS))(keras.ops.einsum("bhqk,bkhd->bqhd", weights, value))
    return keras.layers.Dense(CHANNELS)(x)


def vit_ti16(image_shape: tuple[int, int, int], num_classes: int, patch_size: int = 16) -> keras.Model:
    """Returns ViT-Ti for images (height, width, channels) in -1 to 1."""
    images = keras.Input(image_shape)
    x = keras.layers.Conv2D(CHANNELS, patch_size, strides=patch_size)(images)
    _, height, width, _ = x.shape
    x = keras.layers.Reshape((height * width, CHANNELS))(x) + sines(height, width, CHANNELS)
    for _ in range(DEPTH):
        x = x + attention(keras.layers.LayerNormalization(epsilon=1e-6)(x))
        inner = keras.layers.Dense(4 * CHANNELS, activation="gelu")(keras.layers.LayerNormalization(epsilon=1e-6)(x))
        x = x + keras.layers.Dense(CHANNELS)(inner)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(images, keras.layers.Dense(num_classes)(x))


def wrn16_8(image_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """Returns WRN-16-8 for images (height, width, channels) in 0 to 1."""
    images = keras.Input(image_shape)
    x = _convolution(16)(images)
    for stage, filters in enumerate((128, 256, 512)):
        for block in range(2):
            strides = 2 if stage and not block else 1
            active = _active(x)
            path = _convolution(filters)(_active(_convolution(filters, strides)(active)))
            x = path + (x if block else _convolution(filters, strides, 1)(active))
    x = keras.layers.GlobalAveragePooling2D()(_active(x))
    return keras.Model(images, keras.layers.Dense(num_classes)(x))


def _convolution(filters, strides=1, kernel_size=3):
    return keras.layers.Conv2D(filters, kernel_size, strides=strides, padding="same", use_bias=False,
                               kernel_initializer="he_normal")


def _active(x):
    return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9, epsilon=EPSILON)(x))
