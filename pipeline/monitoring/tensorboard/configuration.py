"""The configuration of a run as a page of TensorBoard's tab Text."""
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.config import GROUPS, ExperimentConfig, defaults
from pipeline.quantities import counted


def configuration_page(config: ExperimentConfig, source: Any, plan: Any, parameters: int,
                       evaluated: str | None = None) -> str:
    """Describes a run in Markdown: its data (a Source), model and length, and every option, changed ones in bold.

    `evaluated` names the evaluated weights where they are not the trained ones.
    """
    shape = "×".join(map(str, source.image_shape))
    parts = [(name, split.num_examples) for name, split in (
        ("train", source.train), ("validation", source.validation), ("test", source.test)) if split]
    facts = [("data", f"{source.name}: {counted(source.num_classes, 'class', 'classes')}, {shape} pixels, "
              + ", ".join(f"{count:,} {name}" for name, count in parts)),
             ("model", f"{config.model.model}: {counted(parameters, 'parameter')}"),
             *([("evaluations", f"of the {evaluated}")] if evaluated else []),
             ("length", f"{counted(plan.total_steps, 'step')} of {counted(plan.batch_size, 'example')}, "
              f"{counted(float(f'{plan.epochs:.4g}'), 'epoch')}")]
    lines = ["\n".join(f"- **{name}**: {fact}" for name, fact in facts), "What differs from the default is **bold**."]
    usual = defaults()
    for name, group in zip(GROUPS, config.groups(), strict=True):
        lines += [f"### {name}", table(("option", "value", "default"), [
            _row(field.name, getattr(group, field.name), usual[field.name]) for field in dataclasses.fields(group)])]
    return "\n\n".join(lines) + "\n"


def _row(name: str, value: Any, default: Any) -> tuple[str, str, str]:
    if value == default:
        return name, value_text(value), value_text(default)
    return f"**{name}**", f"**{value_text(value)}**", value_text(default)


def value_text(value: Any) -> str:
    """Returns the value of an option as text: lists with commas, None and "" as a dash, numbers as one types them."""
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.10g}"
    return "–" if value in (None, "") else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown; characters that would end a cell are escaped."""
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "&#124;").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])
