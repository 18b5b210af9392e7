"""Augmentations: what they do to pixels, and what they depend on."""
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from PIL import Image, ImageOps

from pipeline.augmentation import Augmentation
from pipeline.choices import AUGMENTATIONS
from pipeline.data import augment
from pipeline.data.augment import blur, operations, randaugment
from pipeline.data.augment.mixing import beta
from pipeline.data.stateless_random import example_seeds, fold_in, uniform
from tests.selection import quick

POSITIONS = np.arange(1000, 1032, dtype=np.int64)


def random_images(count=32, side=16, channels=3, seed=0):
    """Returns uint8 [count, side, side, channels]: smooth, in all brightnesses."""
    coarse = np.random.RandomState(seed).randint(0, 256, (count, 4, 4, channels)).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, (side, side)), tf.uint8)


def augmented(images, *texts, positions=POSITIONS, seed=3):
    images, mix = augment.apply(tf.constant(images), tf.constant(positions), seed,
                                tuple(Augmentation.parse(text) for text in texts))
    return images.numpy(), None if mix is None else mix.numpy()


@pytest.mark.parametrize("channels", quick([1, 3], 1))
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_row_depends_on_its_own_image_and_position_alone(name, channels):
    images = random_images(channels=channels)
    whole, mix = augmented(images, name)
    if name == "grayscale" and channels == 1:
        np.testing.assert_array_equal(whole, images)
        return
    assert (augmented(images, name, seed=4)[0] != whole).any()
    assert (augmented(images, name, positions=POSITIONS + 32)[0] != whole).any()
    assert whole.shape == images.shape and whole.dtype == np.uint8
    assert (whole != images.numpy()).any(axis=(1, 2, 3)).sum() >= 8
    part, part_mix = augmented(images[6:10], name, positions=POSITIONS[6:10])
    np.testing.assert_array_equal(part, whole[6:10])
    compute = tf.function(lambda x, p: augment.apply(x, p, 3, (Augmentation(name, None),)), autograph=False)
    compiled = compute(images, POSITIONS)
    np.testing.assert_array_equal(compiled[0], whole)
    if mix is not None:
        np.testing.assert_array_equal(part_mix, mix[6:10])


def test_the_same_augmentation_twice_draws_twice():
    twice = {tuple(np.argwhere(image[..., 0] == 255)[0]) if image.max() else None
             for image in augmented(_dots(), "crop:2", "crop:2")[0]}
    assert any(place and abs(place[0] - 8) > 2 for place in twice)  # One draw of two pixels cannot reach so far.
    assert any(place and abs(place[0] - 8) % 2 == 1 for place in twice)  # The same draw twice would be even.


def _dots(count=32):
    dots = np.zeros((count, 17, 17, 1), np.uint8)
    dots[:, 8, 8] = 255
    return dots


def test_flip_mirrors_half_of_the_images():
    images = random_images(400)
    flipped, _ = augmented(images, "flip", positions=np.arange(400))
    mirrored = (flipped == images.numpy()[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (flipped == images.numpy()).all(axis=(1, 2, 3))).all()
    assert 160 < mirrored.sum() < 240


def test_crop_shifts_by_every_whole_number_of_pixels_up_to_its_strength():
    shifted, _ = augmented(_dots(600), "crop:3", positions=np.arange(600))
    places = np.argwhere(shifted[..., 0])[:, 1:] - 8
    assert len(places) == 600 and set(np.unique(shifted)) == {0, 255}
    assert {tuple(p) for p in places} == {(y, x) for y in range(-3, 4) for x in range(-3, 4)}


def test_crop_fills_with_black():
    white, _ = augmented(np.full((32, 16, 16, 3), 255, np.uint8), "crop:4")
    assert set(np.unique(white)) == {0, 255}
    assert (white == 0).any(axis=(1, 2, 3)).sum() > 20


def test_rotate_turns_by_up_to_its_strength_about_the_centre():
    images = np.zeros((300, 41, 41, 1), np.uint8)
    images[:, 20, 35:38] = 255
    turned, _ = augmented(images, "rotate:30", positions=np.arange(300))
    weights = turned[..., 0].astype(float)
    ys, xs = (np.einsum("nyx,nyx->n", weights, grid[None] + 0 * weights) / weights.sum((1, 2))
              for grid in np.mgrid[:41, :41] - 20)
    angles = np.degrees(np.arctan2(ys, xs))
    assert 25 < angles.max() < 30.5 and -30.5 < angles.min() < -25
    np.testing.assert_allclose(np.hypot(ys, xs), 16, atol=0.3)


def test_rotate_keeps_the_brightness_of_flat_images():
    flat, _ = augmented(np.full((32, 16, 16, 3), 101, np.uint8), "rotate:20")
    np.testing.assert_array_equal(flat[:, 6:10, 6:10], 101)


def test_color_stays_within_its_strength():
    grey = np.full((500, 4, 4, 1), 100, np.uint8)
    changed, _ = augmented(grey, "color:0.3", positions=np.arange(500))
    assert 69 <= changed.min() < 75 and 125 < changed.max() <= 131  # A flat image has no contrast: brightness alone.
    assert len(np.unique(changed)) > 40


def test_color_changes_saturation_of_colours_but_not_of_greys():
    red = np.zeros((200, 2, 2, 3), np.uint8)
    red[..., 0] = 120
    changed = augmented(red, "color:0.5", positions=np.arange(200))[0].astype(int)
    assert (changed[:, 0, 0, 1] > 3).sum() > 50  # Less saturated: the other channels rise.
    grey = np.repeat(random_images(200, channels=1).numpy(), 3, axis=-1)
    changed = augmented(grey, "color:0.5", positions=np.arange(200))[0].astype(int)
    assert np.ptp(changed, axis=-1).max() <= 1


def test_cutout_blackens_a_square_of_its_size():
    holes = augmented(np.full((300, 16, 16, 1), 9, np.uint8), "cutout:6", positions=np.arange(300))[0] == 0
    areas = holes.sum(axis=(1, 2, 3))
    assert areas.max() == 36 and (areas == 36).sum() > 90 and areas.min() >= 9
    rows, columns = holes.any(axis=(2, 3)).sum(1), holes.any(axis=(1, 3)).sum(1)
    np.testing.assert_array_equal(rows * columns, areas)


def test_mixup_adds_neighbours_in_the_shares_it_returns():
    images = random_images(400)
    mixed, mix = augmented(images, "mixup", positions=np.arange(400))
    own = images.numpy().astype(np.float64)
    partner = own.reshape(200, 2, *own.shape[1:])[:, ::-1].reshape(own.shape)
    weight = mix[:, None, None, None]
    np.testing.assert_allclose(mixed, own * weight + partner * (1 - weight), atol=0.51)
    np.testing.assert_array_equal(mix[::2], mix[1::2])
    assert 0.4 < mix.mean() < 0.6 and ((mix < 0.1) | (mix > 0.9)).mean() > 0.6


def test_cutmix_swaps_a_box_of_the_share_it_returns():
    images = np.zeros((400, 16, 16, 1), np.uint8)
    images[::2], images[1::2] = 10, 20
    mixed, mix = augmented(images, "cutmix", positions=np.arange(400))
    swapped = mixed != images
    assert set(np.unique(mixed)) == {10, 20}
    np.testing.assert_allclose(1 - swapped.mean(axis=(1, 2, 3)), mix, atol=1e-6)
    np.testing.assert_array_equal(swapped[::2], swapped[1::2])
    rows, columns = swapped.any(axis=(2, 3)).sum(1), swapped.any(axis=(1, 3)).sum(1)
    np.testing.assert_array_equal(rows * columns, swapped.sum(axis=(1, 2, 3)))
    assert (mix < 0.5).any() and (mix > 0.9).any()


def test_of_two_that_mix_each_pair_gets_one_with_its_own_strength():
    images = random_images(400)
    positions = np.arange(400)
    mixed, mix = augmented(images, "mixup:100", "cutmix", positions=positions)
    own = images.numpy().astype(np.float64)
    partner = own.reshape(200, 2, *own.shape[1:])[:, ::-1].reshape(own.shape)
    blended = own * mix[:, None, None, None] + partner * (1 - mix[:, None, None, None])
    added = np.abs(mixed - blended).max(axis=(1, 2, 3)) <= 0.51
    swapped = ((mixed == own) | (mixed == partner)).all(axis=(1, 2, 3))
    assert (added | swapped).all() and 0.4 < swapped.mean() < 0.6
    np.testing.assert_array_equal(swapped[::2], swapped[1::2])
    np.testing.assert_array_equal(mix[::2], mix[1::2])
    only_added = added & ~swapped
    assert np.abs(mix[only_added] - 0.5).max() < 0.2 < mix[swapped].std()  # Beta(100, 100), and uniform in area.
    np.testing.assert_allclose(1 - (mixed != own).any(-1).mean((1, 2))[swapped], mix[swapped], atol=0.05)
    part = augmented(images[10:14], "mixup:100", "cutmix", positions=positions[10:14])
    np.testing.assert_array_equal(part[0], mixed[10:14])
    np.testing.assert_array_equal(part[1], mix[10:14])


def test_erasing_overwrites_a_rectangle_with_noise():
    images = np.full((300, 24, 20, 3), 77, np.uint8)
    erased, _ = augmented(images, "erasing:1", positions=np.arange(300))
    changed = (erased != 77).any(axis=-1)
    rows, columns = changed.any(axis=2), changed.any(axis=1)
    filled = rows[:, :, None] & columns[:, None]
    assert (changed != filled).sum() < 3  # One in 2^24 pixels gets the colour that it had.
    assert 0.015 < filled.mean((1, 2)).min() and filled.mean((1, 2)).max() < 0.36 and filled.any((1, 2)).all()
    values = erased[filled]
    counts = np.histogram(values, 16, (0, 256))[0]
    assert np.abs(counts / values.size - 1 / 16).max() < 0.002
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.02
    assert len({image.tobytes() for image in erased}) == 300
    assert 110 < (augmented(images, "erasing:0.4", positions=np.arange(300))[0] != 77).any((1, 2, 3)).sum() < 130


def test_grayscale_keeps_the_grey_of_colours():
    images = random_images(200)
    found = augmented(images, "grayscale:0.3", positions=np.arange(200))[0].astype(int)
    grey = np.asarray([np.asarray(Image.fromarray(image).convert("L")) for image in images.numpy()]).astype(int)
    drawn = (found == found[..., :1]).all(axis=(1, 2, 3))
    assert 45 < drawn.sum() < 75
    assert np.abs(found[drawn][..., 0] - grey[drawn]).max() <= 1
    np.testing.assert_array_equal(found[~drawn], images.numpy()[~drawn])


@pytest.mark.parametrize("shape", [(224, 224, 3), (32, 40, 1)])
def test_blur_is_a_gaussian(shape):
    images = np.random.RandomState(0).randint(0, 256, (8, *shape)).astype(np.uint8)
    blurred, _ = augmented(images, "blur:1", positions=np.arange(8))
    seeds = fold_in(example_seeds(3, np.arange(8)), 0)
    radius = shape[0] // 10 // 2
    for image, sigma, found in zip(images, blur.draw_sigmas(seeds).numpy(), blurred, strict=True):
        expected = scipy.ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="mirror", radius=radius)
        assert np.abs(found - expected).max() < 1.2, sigma


def test_blur_keeps_flat_images():
    flat = np.full((16, 60, 60, 3), 201, np.uint8)
    np.testing.assert_array_equal(augmented(flat, "blur:1", positions=np.arange(16))[0], flat)


@pytest.mark.parametrize("concentration", [0.2, 1.0, 4.0])
def test_beta_has_its_mean_and_variance(concentration):
    draws = beta(example_seeds(0, np.arange(40_000)), 0, concentration).numpy()
    assert abs(draws.mean() - 0.5) < 0.01
    assert abs(draws.var() - 1 / (4 * (2 * concentration + 1))) < 0.004
    assert draws.min() >= 0 and draws.max() <= 1


def test_uniform_draws_are_uniform_and_independent():
    seeds = example_seeds(0, np.arange(20_000))
    draws = np.stack([uniform(seeds, d).numpy() for d in range(4)] + [uniform(example_seeds(1, np.arange(20_000)), 0)])
    assert draws.min() >= 0 and draws.max() < 1
    assert np.abs(draws.mean(1) - 0.5).max() < 0.01
    for row in draws:
        counts = np.histogram(row, 20, (0, 1))[0]
        assert ((counts - 1000)**2 / 1000).sum() < 43.8  # Chi-square with 19 degrees of freedom, p = 0.001.
    between = np.corrcoef(draws) - np.eye(5)
    neighbours = [np.corrcoef(row[1:], row[:-1])[0, 1] for row in draws]
    assert max(np.abs(between).max(), np.abs(neighbours).max()) < 0.03
    assert len(np.unique(example_seeds(0, np.arange(20_000)).numpy(), axis=0)) == 20_000
    far = example_seeds(0, np.array([5, 5 + 2**32])).numpy()
    assert (far[0] != far[1]).all()


def operate(images, names, level, sign):
    """Applies the operations with these names, one an image, at a level of RandAugment."""
    chosen = tf.constant([operations.OPERATIONS.index(name) for name in names])
    return operations.operate(images, chosen, randaugment.magnitudes(level, sign, images.shape)).numpy()


def test_randaugment_operations_agree_with_pillow():
    images = random_images(6, side=12)
    pillow = [Image.fromarray(image) for image in images.numpy()]

    def operated(name, level=0.5):
        return operate(images, [name] * 6, level, tf.ones([6])).astype(int)

    def close(name, function, tolerance=0):
        expected = np.stack([np.asarray(function(image)).astype(int) for image in pillow])
        assert np.abs(operated(name) - expected).max() <= tolerance

    close("identity", lambda image: image)
    close("equalize", ImageOps.equalize)
    close("autocontrast", ImageOps.autocontrast, 1)
    close("solarize", lambda image: ImageOps.solarize(image, 128))
    close("posterize", lambda image: ImageOps.posterize(image, 6))
    from PIL import ImageEnhance
    close("brightness", lambda image: ImageEnhance.Brightness(image).enhance(1.45), 1)
    close("contrast", lambda image: ImageEnhance.Contrast(image).enhance(1.45), 1)
    close("saturation", lambda image: ImageEnhance.Color(image).enhance(1.45), 2)
    close("sharpness", lambda image: ImageEnhance.Sharpness(image).enhance(1.45), 2)


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_randaugment_moves_both_ways_and_leaves_the_others_alone(name):
    images = random_images(3)
    moved = operate(images, [name, name, "identity"], 0.9, tf.constant([1.0, -1.0, 1.0]))
    same = operate(images, [name, name, "identity"], 0.9, tf.constant([-1.0, 1.0, 1.0]))
    assert all((moved[i] != images[i].numpy()).any() and (moved[i] != same[i]).any() for i in (0, 1))
    np.testing.assert_array_equal(moved[2], images[2])


def test_randaugment_draws_every_operation():
    for chosen, _ in randaugment.draw_operations(example_seeds(0, np.arange(3000))):
        assert set(chosen.numpy()) == set(range(14))
    weak, _ = augmented(random_images(), "randaugment:0.5")
    strong, _ = augmented(random_images(), "randaugment:9")
    original = random_images().numpy().astype(float)
    assert np.abs(strong - original).mean() > np.abs(weak - original).mean()
