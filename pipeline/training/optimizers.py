"""The table of optimizers. Standard library only: the command line lists it."""
import dataclasses

from pipeline.registry import Registry


@dataclasses.dataclass(frozen=True)
class OptimizerRow:
    """One optimizer.

    Attributes:
      factory: "module:class" of a keras.optimizers.Optimizer.
      options: {argument of the class: option of OptimizerConfig}.
      fused: name in pipeline.internals.keras_internals of its fused update, or None.
      fused_if: option that must not be 0 for the fused update to apply, or None.
    """

    factory: str
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    fused: str | None = None
    fused_if: str | None = None


OPTIMIZERS = Registry("optimizer", {
    "sgd": OptimizerRow("keras.optimizers:SGD", {"momentum": "momentum", "nesterov": "nesterov"},
                        "FusedMomentum", "momentum"),
    "adam": OptimizerRow("keras.optimizers:Adam", fused="FusedAdam"),
    "adamw": OptimizerRow("keras.optimizers:AdamW", fused="FusedAdam"),
    "lamb": OptimizerRow("keras.optimizers:Lamb"),
    "lion": OptimizerRow("keras.optimizers:Lion"),
})
