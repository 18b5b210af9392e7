"""The elements that pages are made of. What is called `inside` is HTML; everything else is text and is escaped."""
import html
import pathlib
import string


def escape(text):
    """Returns text, or what can be made text, as HTML that shows it."""
    return html.escape(str(text))


def tag(name, inside="", kind="", **attributes):
    """Returns an element around HTML.

    Args:
      name: of the element.
      inside: HTML.
      kind: its class, "" for none.
      attributes: text; an underscore stands for a hyphen (aria_label), one at the end is left out (for_).
    """
    given = {**({"class": kind} if kind else {}), **attributes}
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in given.items())
    return f"<{name}{written}>{inside}</{name}>"


def items(lines):
    """Returns a list of lines of text."""
    return tag("ul", "".join(tag("li", escape(line)) for line in lines))


def box(lines, title, kind="box", listed=None):
    """Returns a box of lines of text under a title, "" without lines.

    Args:
      lines: of text.
      title: text.
      kind: class of the box.
      listed: how many lines stand there, the rest unfolds; None for all.
    """
    if not lines:
        return ""
    first, more = (lines, []) if listed is None or len(lines) <= listed + 2 else (lines[:listed], lines[listed:])
    unfolded = tag("details", tag("summary", f"{len(more)} more") + items(more)) if more else ""
    return tag("div", tag("b", escape(title)) + items(first) + unfolded, kind)


def cards(entries):
    """Returns cards of (name, figure, detail), text each; "" without any."""
    return tag("div", "".join(tag("div", tag("span", escape(name), "soft") + tag("b", escape(value))
                                  + tag("span", escape(detail)), "card") for name, value, detail in entries),
               "cards") if entries else ""


def table(head, rows, foot="", kind="", **attributes):
    """Returns a table that scrolls inside its own box.

    Args:
      head: the cells of its head, HTML.
      rows: HTML of each row of its body.
      foot: rows below it, HTML.
      kind: class of the table.
      attributes: of the box, see `tag`.
    """
    body = "\n".join(rows)
    inside = f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>" + (tag("tfoot", foot) if foot else "")
    return tag("div", tag("table", inside, kind), "scroll", **attributes)


def definitions(pairs):
    """Returns a list of terms, text, and what is said of each, HTML."""
    return tag("dl", "".join(tag("dt", escape(name)) + tag("dd", inside) for name, inside in pairs))


def fill(template, **parts):
    """Returns a page.

    Args:
      template: path of its frame, with $theme for the look that all pages share and $name for each part.
      parts: HTML of each part.
    """
    theme = pathlib.Path(__file__).with_name("theme.css").read_text(encoding="utf-8").rstrip()
    return string.Template(pathlib.Path(template).read_text(encoding="utf-8")).substitute(theme=theme, **parts)
