"""The configuration of a run as a page of TensorBoard's tab Text."""
import dataclasses

from pipeline.config import GROUPS
from pipeline.quantities import counted


def configuration_page(config, source, plan, variables, evaluated=None):
    """Describes a run in Markdown: its data, model and length, and every option, those that were changed in bold.

    Args:
      config: ExperimentConfig.
      source: Source.
      plan: Plan.
      variables: number of trained values of the model.
      evaluated: which weights the evaluations are of, in words, where they are not those as trained.
    """
    shape = "×".join(map(str, source.image_shape))
    parts = [(name, split.num_examples) for name, split in (
        ("train", source.train), ("validation", source.validation), ("test", source.test)) if split]
    facts = [("data", f"{source.name}: {counted(source.num_classes, 'class', 'classes')}, {shape} pixels, "
              + ", ".join(f"{count:,} {name}" for name, count in parts)),
             ("model", f"{config.model.model}: {counted(variables, 'parameter')}"),
             *([("evaluations", f"of the {evaluated}")] if evaluated else []),
             ("length", f"{counted(plan.total_steps, 'step')} of {counted(plan.batch_size, 'example')}, "
              f"{counted(float(f'{plan.epochs:.4g}'), 'epoch')}")]
    lines = ["\n".join(f"- **{name}**: {fact}" for name, fact in facts), "What differs from the default is **bold**."]
    for name, group in zip(GROUPS, config.groups(), strict=True):
        lines += [f"### {name}", table(("option", "value", "default"), [
            _row(field, getattr(group, field.name)) for field in dataclasses.fields(group)])]
    return "\n\n".join(lines) + "\n"


def _row(field, value):
    shown, default = shown_value(value), shown_value(field.default)
    changed = value != field.default
    return (f"**{field.name}**" if changed else field.name, f"**{shown}**" if changed else shown, default)


def shown_value(value):
    """Returns the value of an option as text: lists with commas, nothing as a dash, numbers as one types them."""
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.10g}"
    return "–" if value in (None, "") else str(value)


def table(head, rows):
    """Returns a table in Markdown; what would end a cell is written as itself."""
    def line(cells):
        return "| " + " | ".join(str(cell).replace("|", "&#124;").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])
