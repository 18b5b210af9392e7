"""Speed of augmentations: python -m benchmarks.augmentations [--against=CHECKOUT] [--rounds=15] [--augment=flip+crop].

Images/s of training streams of random images in memory, at 224x224x3 in batches of 64 and at 32x32x3 in batches of 256,
one batch at a time and as many at a time as a training computes. With --against, another checkout is measured in the
same rounds, in turns, each in a process of its own; a ratio is the median over the rounds of neighbouring blocks, with
its 95% bootstrap interval. Prints a table in Markdown.
"""
import argparse
import os
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.processes import REPOSITORY, Process, Turns, in_order
from benchmarks.ratios import PAIRS, median_ratio
from benchmarks.table import head, row

LISTS = ("flip+crop", "color", "randaugment")
SIZES = ((224, 224, 3, 64), (32, 32, 3, 256))  # Height, width, channels, batch size.
HERE, OTHER = "this checkout", "the other"
WORKER = str(pathlib.Path(__file__).with_name("augmentation_worker.py"))


def cells(lists: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (name of a row of the table, command of benchmarks.augmentation_worker)."""
    for height, width, channels, batch_size in SIZES:
        for text in lists:
            for alone in (True, False):
                yield (f"`{text.replace('+', ',')}`, {height}x{width}x{channels}, "
                       f"{'one batch at a time' if alone else 'as in training'}",
                       {"shape": [height, width, channels], "batch_size": batch_size, "augment": text.split("+"),
                        "one_at_a_time": alone})


def measure(lists: Sequence[str], rounds: int, seconds: float, against: str | None
            ) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Returns {row: {checkout: what the worker answered in each round}}."""
    folders = {HERE: REPOSITORY, **({OTHER: pathlib.Path(against).resolve()} if against else {})}
    processes = {name: Process(name, {"seconds": seconds}, (WORKER,), folder) for name, folder in folders.items()}
    turns, found = Turns(processes), {}
    try:
        for number in range(rounds):
            for name, command in cells(lists):
                for checkout in in_order(folders, number):
                    answer = turns.ask(checkout, "augment", **command)
                    found.setdefault(name, {}).setdefault(checkout, []).append(answer)
            print(f"round {number + 1} of {rounds}", flush=True)
    finally:
        for process in processes.values():
            process.__exit__()
    return found


def table(found: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> list[str]:
    """Returns the lines of the table of what `measure` returned."""
    both = all(OTHER in answers for answers in found.values())
    lines = head(["", "images/s", "images/CPU second", *(["before, images/s", "ratio", "same bits"] * both)])
    for name, answers in found.items():
        def values(checkout, unit, answers=answers):
            return [answer[unit] for answer in answers[checkout]]
        texts = [f"{statistics.median(values(HERE, unit)):,.0f}" for unit in ("images/s", "images/CPU second")]
        if both:
            ratio = median_ratio(values(HERE, "images/s"), values(OTHER, "images/s"))
            texts += [f"{statistics.median(values(OTHER, 'images/s')):,.0f}",
                      f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
                      "yes" if set(values(HERE, "digest")) == set(values(OTHER, "digest")) else "no"]
        lines.append(row([name, *texts]))
    return lines


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", metavar="CHECKOUT", help="folder of another checkout")
    parser.add_argument("--rounds", type=int, default=PAIRS)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a block")
    parser.add_argument("--augment", default=",".join(LISTS), help="lists of augmentations: + in a list, comma between")
    arguments = parser.parse_args()
    found = measure(arguments.augment.split(","), arguments.rounds, arguments.seconds, arguments.against)
    print("\n".join(table(found)))
    print(f"\n{arguments.rounds} rounds of {arguments.seconds:g} s, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
