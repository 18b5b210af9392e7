"""Which rows of a matrix are in `make test`, and which in `make acceptance` alone (marked so: pytest -m acceptance)."""
import pytest


def quick(rows, *numbers):
    """Returns the rows of a parametrize, of which those with these numbers are in `make test`.

    Args:
      rows: list of tuples with a value for each name; of values where there is one name and they are no tuples.
      numbers: positions in it.
    """
    marks = [() if i in numbers else pytest.mark.acceptance for i in range(len(rows))]
    return [pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=mark)
            for row, mark in zip(rows, marks, strict=True)]
