"""The parts of the page that show examples: mistakes, hits that were nearly none."""
from pipeline.pages.images import image_tag
from pipeline.pages.markup import escape, tag


def mistakes(report, pictures):
    """Returns the mistakes of which the model is surest."""
    if not report["mistakes"]:
        return tag("p", "There are none: every example is judged rightly.")
    words = "Labels that are wrong come to light here, and what the model has not learned."
    return tag("p", words, "soft") + gallery(report["mistakes"], pictures, lambda one: [
        _said("wrong", "said", one["predicted"], one["confidence"]),
        _said("", "is", one["true"], one["true_probability"])])


def unsure_hits(report, pictures):
    """Returns the hits of which the model is least sure."""
    if not report["unsure_hits"]:
        return tag("p", "There are none: no example is judged rightly.")
    return tag("p", "Judged rightly, and only just.", "soft") + gallery(
        report["unsure_hits"], pictures, lambda one: [_said("good", "said", one["predicted"], one["confidence"])])


def gallery(examples, pictures, captions):
    """Returns pictures with captions.

    Args:
      examples: [{"index", "true", ...}].
      pictures: {index: uint8 [H, W, C]}.
      captions: function of an example to lines of HTML.
    """
    return tag("div", "".join(_shown(one, pictures, captions) for one in examples), "gallery")


def _shown(one, pictures, captions):
    index = one["index"]
    image = image_tag(pictures[index], f"example {index:,}, a {one['true']}") if index in pictures else ""
    lines = [*captions(one), tag("span", escape(one.get("file") or f"example {index:,}"), "soft")]
    return tag("figure", image + tag("figcaption", "".join(lines)))


def _said(kind, word, name, probability):
    share = "" if probability is None else f" {probability:.1%}"
    return tag("span", f"{word} {tag('b', escape(name), kind)}{share}")
