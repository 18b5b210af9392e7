"""Renders Jinja2 templates of pages, Markdown, manifests and scripts, with all values escaped for the language.

Templates are in the folder `templates` of the package that renders them; those of pipeline.pages are shared. The suffix
of a template's name selects how values are escaped; Markup is inserted unchanged.
"""
import functools
import json
import pprint
import re
import shlex
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape

from pipeline.quantities import counted, plural

SHARED = "pipeline.pages"
# An underscore within a word is not emphasis in CommonMark.
_MARKDOWN = re.compile(r"[\\|*`\[\]<>#~&$]|(?<![^\W_])_|_(?![^\W_])")

# Line ends and characters that YAML refuses, though JSON does not; lone surrogates stand for undecodable bytes.
_NO_TEXT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


def markdown(value: Any) -> Markup:
    """Escapes Markdown, HTML and the end of a table cell; on one line."""
    return Markup(_MARKDOWN.sub(r"\\\g<0>", " ".join(str(value).split())))


def code(value: Any) -> Markup:
    """Returns text as Markdown code, on one line; a `|` in it would end a table cell."""
    text = " ".join(str(value).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def to_json(value: Any) -> Markup:
    """Returns a value as JSON on one line, which is also YAML."""
    text = json.dumps(value, ensure_ascii=False)
    return Markup(_NO_TEXT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def shell(value: Any) -> Markup:
    """Quotes text as one word of a shell, a list as several."""
    return Markup(shlex.join(map(str, value)) if isinstance(value, (list, tuple)) else shlex.quote(str(value)))


def python(value: Any) -> Markup:
    """Returns a value as a Python literal."""
    return Markup(pprint.pformat(value, sort_dicts=False))


LANGUAGES: dict[str, Callable[[Any], Markup]] = {
    "html": escape, "css": escape, "js": escape, "md": markdown, "yaml": to_json, "sh": shell, "py": python}


@functools.cache
def _environment(package: str, language: str) -> Any:
    """Returns the jinja2.Environment of a package's templates in one of LANGUAGES."""
    import jinja2  # It takes longer to load than `launch --help`, which imports this module.

    escaped = LANGUAGES[language]
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader(SHARED)]),
        # With autoescape Jinja2 inserts Markup unchanged, and `finalize` makes everything else Markup.
        autoescape=True, finalize=lambda value: value if isinstance(value, Markup) else escaped(value),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    made.filters.update(code=code, json=to_json, form=format, counted=counted, plural=plural)
    return made


def render_markdown(text: str, /, **values) -> Markup:
    """Returns Markdown from the text of a template, for another template to insert as it is."""
    return Markup(_environment(SHARED, "md").from_string(text).render(values))


def render(package: str, name: str, /, **values: Any) -> str:
    """Returns the text of a template.

    Args:
      package: dotted name of the package whose folder `templates` has it.
      name: of the file, such as "report.html" or "driver.py.jinja".
      values: variables of the template.

    Raises:
      jinja2.UndefinedError: a variable of the template is missing.
    """
    language = name.removesuffix(".jinja").rpartition(".")[2]
    return _environment(package, language).get_template(name).render(values)
