"""Text from Jinja2 templates: pages, Markdown, manifests and scripts. Every value is escaped for the text's language.

Templates lie in the folder `templates` of the package that renders them; those of pipeline.pages are shared. The ending
of a template's name decides how its values are escaped; a value of type Markup is inserted as it is.
"""
import functools
import json
import pprint
import re
import shlex

from markupsafe import Markup, escape

from pipeline.quantities import counted, plural

SHARED = "pipeline.pages"
# An underscore within a word is no emphasis in CommonMark.
_MARKDOWN = re.compile(r"[\\|*`\[\]<>#~&$]|(?<![^\W_])_|_(?![^\W_])")

# What YAML takes for the end of a line or refuses, though JSON does not; lone surrogates stand for undecodable bytes.
_NO_TEXT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


def markdown(value):
    """Returns text in which nothing is Markdown, HTML, or the end of a table's cell; on one line."""
    return Markup(_MARKDOWN.sub(r"\\\g<0>", " ".join(str(value).split())))


def code(value):
    """Returns Markdown that shows text as code, on one line; in a table's cell a `|` in it would end the cell."""
    text = " ".join(str(value).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def to_json(value):
    """Returns a value as JSON on one line, which YAML contains."""
    text = json.dumps(value, ensure_ascii=False)
    return Markup(_NO_TEXT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def shell(value):
    """Returns text as one word of a shell, a list as several."""
    return Markup(shlex.join(map(str, value)) if isinstance(value, (list, tuple)) else shlex.quote(str(value)))


def python(value):
    """Returns a value as a Python literal."""
    return Markup(pprint.pformat(value, sort_dicts=False))


LANGUAGES = {"html": escape, "css": escape, "js": escape, "md": markdown, "yaml": to_json, "sh": shell, "py": python}


@functools.cache
def _environment(package, language):
    """Returns the jinja2.Environment of a package's templates in one of LANGUAGES."""
    import jinja2  # It takes longer to load than `launch --help` takes, which passes here.

    escaped = LANGUAGES[language]
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader(SHARED)]),
        # With autoescape Jinja2 inserts what is Markup as it is, and `finalize` makes everything else Markup.
        autoescape=True, finalize=lambda value: value if isinstance(value, Markup) else escaped(value),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    made.filters.update(code=code, json=to_json, form=format, counted=counted, plural=plural)
    return made


def render(package: str, name: str, /, **values) -> str:
    """Returns the text of a template.

    Args:
      package: dotted name of the package in whose folder `templates` it lies.
      name: of the file, such as "report.html" or "driver.py.jinja".
      values: what the template uses.

    Raises:
      jinja2.UndefinedError: the template uses a value that is not given.
    """
    language = name.removesuffix(".jinja").rpartition(".")[2]
    return _environment(package, language).get_template(name).render(values)
