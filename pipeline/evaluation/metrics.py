"""Figures from exact sums over examples, never means of batch means."""


def figures_from_sums(sums):
    """Turns the sums of an evaluation into figures.

    Args:
      sums: [3] float64: sum of losses in nats, number of hits, number of examples (> 0).

    Returns:
      {"loss": mean loss, "accuracy": share of hits in [0, 1], "examples": int}.
    """
    loss, correct, examples = (float(v) for v in sums)
    return {"loss": loss / examples, "accuracy": correct / examples, "examples": round(examples)}


def is_better(metric, value, best):
    """Tells whether an evaluation beats the best so far.

    Args:
      metric: "accuracy" (more is better) or "loss" (less is better).
      value: the new value.
      best: the best so far, NaN for none.
    """
    if value != value:
        return False
    if best != best:
        return True
    return value > best if metric == "accuracy" else value < best
