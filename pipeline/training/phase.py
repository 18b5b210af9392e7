"""What changes within a run at a number of steps: what is frozen, and the size of images."""
import dataclasses

from pipeline.models.freezing import Frozen


@dataclasses.dataclass(frozen=True)
class RunPhase:
    """Steps that one trace of the step computes.

    Attributes:
      frozen: what they do not train.
      image_size: height and width of their images; None without --image_sizes.
    """

    frozen: Frozen
    image_size: int | None = None

    def change(self, last: "RunPhase | None", step: int) -> str:
        """Returns a line for each difference to the phase before, which ended after `step` steps; "" without one."""
        found = []
        if last and last.frozen is not self.frozen:
            found.append(f"frozen  after step {step}: {self.frozen.text()}")
        if last and last.image_size != self.image_size:
            found.append(f"images  after step {step}: {self.image_size}x{self.image_size}")
        return "\n".join(found)
