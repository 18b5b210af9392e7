"""A page, read as a browser reads it."""
import html.parser
import re

VOID = {"meta", "br", "link", "img", "input"}
ADDRESSES = ("src", "href", "xlink:href", "data", "action")


class Reader(html.parser.HTMLParser):
    """Collects what a page shows, names and would load; holds that every element is closed.

    Attributes:
      words: pieces of text outside styles and scripts.
      cells: text of each cell of a table's rows.
      plot_labels: aria-label of each <svg> that has one.
      images: attributes of each <img>.
      headings: levels, in order.
      tags: names of all elements.
      scripts: text of each script.
      ids, used: names given, and names referred to.
      loaded: addresses of what is not in the page.
    """

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.cells, self.ids, self.used, self.loaded = [], [], [], [], [], []
        self.plot_labels, self.images, self.headings, self.tags, self.scripts = [], [], [], set(), []
        self.feed(text)
        self.close()
        assert self.open == []
        assert "@import" not in text and not re.search(r"url\((?!#)", text)
        assert len(set(self.ids)) == len(self.ids) and set(self.used) <= set(self.ids)

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        if tag == "svg" and values.get("aria-hidden") != "true":
            self.plot_labels.append(values.get("aria-label"))
        if tag == "img":
            self.images.append(values)
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        if tag == "td":
            self.cells.append("")
        if tag == "script":
            self.scripts.append("")
        if "id" in values:
            self.ids.append(values["id"])
        self.used += re.findall(r"url\(#([^)]+)\)", " ".join(v or "" for v in values.values()))
        for name in ADDRESSES:
            if name in values and not values[name].startswith("data:image/"):
                (self.used if values[name].startswith("#") else self.loaded).append(values[name].lstrip("#"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)
            if "td" in self.open:
                self.cells[-1] += data

    @property
    def text(self):
        """All that is shown, with single spaces."""
        return " ".join(" ".join(self.words).split())
