"""Formats of numbers with their units."""
import re

import numpy as np
import pytest

from pipeline.quantities import clock, counted, number, rate
from tests.test_structure import SOURCES
from tests.test_templates import FOLDERS

# An ending under a condition, or a number and up to two words of which the last ends with s.
IN_TEMPLATES = re.compile(r"""%\}e?s\{%|(form\(","\)|length) \}\} ([a-z]+ )?[a-z]{3,}s\b""")


@pytest.mark.parametrize("count, words, text", [
    (0, ("cell",), "0 cells"), (1, ("cell",), "1 cell"), (2, ("cell",), "2 cells"),
    (1, ("class", "classes"), "1 class"), (10, ("class", "classes"), "10 classes"),
    (1234567, ("image",), "1,234,567 images"), (1.0, ("epoch",), "1 epoch"), (2.5, ("epoch",), "2.5 epochs"),
    (0.02, ("epoch",), "0.02 epochs"), (np.int64(1), ("step",), "1 step"),
    (np.int64(2000000), ("step",), "2,000,000 steps"),
])
def test_count_of_one_is_singular(count, words, text):
    assert counted(count, *words) == text


def test_plurals_are_formatted_by_counted():
    by_hand = re.compile(r"""\{?\s*["'](e?s)["'] (\* \(|if )|\bimages?["'] if """)
    found = [(path, line) for path, text in SOURCES.items() for line in text.splitlines() if by_hand.search(line)]
    assert not found


@pytest.mark.parametrize("line, by_hand", [
    ("{{ n | counted('example') }}", False), ("{{ n | plural('class', 'classes') }}", False),
    ('{% if best %} class="best"{% endif %}', False), ('{{ n | form(",") }} of its parameters', False),
    ('{{ share | form(".1%") }} of the', False),
    ("launch{% if n != 1 %}es{% endif %}", True), ('{{ n | form(",") }} examples of', True),
    ('on {{ (n + 1) | form(",") }} test examples', True), ("{{ names | length }} classes", True),
])
def test_check_detects_a_literal_plural_in_a_template(line, by_hand):
    assert bool(IN_TEMPLATES.search(line)) == by_hand


def test_plurals_of_templates_are_formatted_by_counted():
    found = [(path.name, line) for folder in FOLDERS for path in folder.iterdir()
             for line in path.read_text(encoding="utf-8").splitlines() if IN_TEMPLATES.search(line)]
    assert not found


@pytest.mark.parametrize("speed, text", [
    (1e-3, "0.00100 examples/s"), (0.3, "0.300 examples/s"), (0.04567, "0.0457 examples/s"), (9.994, "9.99 examples/s"),
    (12.34, "12.3 examples/s"), (432.1, "432 examples/s"), (56789.0, "56,789 examples/s"),
    (1e6, "1,000,000 examples/s"),
])
def test_rates_of_any_size(speed, text):
    assert rate(speed) == text
    assert float(number(speed).replace(",", "")) == pytest.approx(speed, rel=5e-3)


@pytest.mark.parametrize("seconds, text", [
    (-1, "00:00"), (0, "00:00"), (59.9, "00:59"), (3599, "59:59"), (3600, "1:00:00"), (86_399, "23:59:59"),
    (86_400, "1 d 00 h"), (90_000 + 86_400, "2 d 01 h"), (99 * 86_400, "99 d 00 h"), (1e9, "11,574 d"),
])
def test_durations_of_any_size(seconds, text):
    assert clock(seconds) == text
