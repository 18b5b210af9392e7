"""Templates: no value can break out of its language, and every template is installed."""
import ast
import configparser
import html.parser
import json
import pathlib
import shlex
import subprocess

import jinja2
import pytest
import yaml

from pipeline import templates
from pipeline.templates import code, markdown, render

ROOT = pathlib.Path(__file__).parents[1]
HOSTILE = ["</td><script>alert(1)</script>", "a|b", "`rm -rf`", "$(touch x) $HOME", "it's \"quoted\"", "two\nlines",
           "a: b # c", "{{ 7 * 7 }}{% raw %}", "*bold* _em_ [l](u) ~~s~~", "no", "1e3", "é \u2028 \x85 😀", "\\", "",
           "-x"]
FOLDERS = sorted(path for room in ("launch", "pipeline") for path in (ROOT / room).rglob("templates") if path.is_dir())


@pytest.fixture
def rendered(monkeypatch):
    """Function of a template's ending, its text and values: what becomes of it."""
    def render_text(ending, text, **values):
        monkeypatch.setattr(jinja2, "PackageLoader", lambda package: jinja2.DictLoader({f"t.{ending}": text}))
        templates._environment.cache_clear()
        return render("any", f"t.{ending}", **values)

    yield render_text
    templates._environment.cache_clear()


class Text(html.parser.HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.values = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.values += [value for _, value in attributes]

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("value", HOSTILE)
def test_values_are_escaped_in_every_language(rendered, value):
    page = Text(rendered("html", '<p title="{{ v }}">{{ v }}</p>', v=value))
    assert (page.tags, page.values, page.text) == (["p"], [value], value)
    assert yaml.safe_load(rendered("yaml", "a: {{ v }}\nb: {c: {{ v }}}\nd: {{ l }}\n", v=value, l=[value, 3])) == {
        "a": value, "b": {"c": value}, "d": [value, 3]}
    script = rendered("sh", "printf '%s|' {{ v }} {{ l }}", v=value, l=[value, "x"])
    assert subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout.decode() == (
        f"{value}|{value}|x|")
    assert ast.literal_eval(rendered("py", "[{{ v }}, {{ l }}]", v=value, l=[value])) == [value, [value]]
    assert json.loads(rendered("html", "{{ v | tojson }}", v=value)) == value
    assert "<" not in rendered("html", "{{ v | tojson }}", v=value)


@pytest.mark.parametrize("value, text", [
    ("a|b", r"a\|b"), ("<b>&amp;", r"\<b\>\&amp;"), ("`x`", r"\`x\`"), ("x\n# y", r"x \# y"), ("2*3*4", r"2\*3\*4"),
    ("mixed_float16", "mixed_float16"), ("_x_ __init__", r"\_x\_ \_\_init\_\_"), ("[a](b)", r"\[a\](b)"),
    ("\\|", r"\\\|"), ("~~s~~ $x$", r"\~\~s\~\~ \$x\$"), (1.5, "1.5")])
def test_markdown_is_escaped(rendered, value, text):
    assert rendered("md", "| {{ v }} |", v=value) == f"| {text} |" == f"| {markdown(value)} |"


@pytest.mark.parametrize("value, text", [("a_b", "`a_b`"), ("a`b", "``a`b``"), ("`a``b", "``` `a``b ```"),
                                         ("two\nlines", "`two lines`")])
def test_code_is_fenced_by_more_backticks_than_it_contains(rendered, value, text):
    assert rendered("md", "{{ v | code }}", v=value) == text == code(value)


def test_escaped_text_is_not_escaped_again(rendered):
    text = "{% macro cell(v) %}<td>{{ v }}</td>{% endmacro %}{{ cell(v) }}{{ [v] | join(',') }}"
    assert rendered("html", text, v="<") == "<td>&lt;</td>&lt;"
    assert rendered("sh", "{% macro word(v) %}-x {{ v }}{% endmacro %}{{ word(v) }}", v="a b") == (
        f"-x {shlex.quote('a b')}")


def test_missing_value_is_an_error(rendered):
    with pytest.raises(jinja2.UndefinedError):
        rendered("html", "{{ missing }}")


def test_every_folder_of_templates_is_installed_with_its_package():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    installed = settings["options.package_data"]
    assert {".".join(folder.parent.relative_to(ROOT).parts) for folder in FOLDERS} == {
        package for package, patterns in installed.items() if patterns == "templates/*"}
    for folder in FOLDERS:
        assert all(path.is_file() for path in folder.iterdir())  # The pattern has no folders within.


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_every_template_has_a_language_and_is_used(folder):
    everything = "".join(path.read_text(encoding="utf-8") for room in ("launch", "pipeline")
                         for pattern in ("*.py", "*.html", "*.md") for path in (ROOT / room).rglob(pattern))
    for path in folder.iterdir():
        assert path.name.removesuffix(".jinja").rpartition(".")[2] in templates.LANGUAGES
        assert f'"{path.name}"' in everything or f'"{path.stem}": ' in everything, path
