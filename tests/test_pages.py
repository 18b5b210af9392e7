"""The pages hold: every block of shell and of Python on them runs as it stands, in the order of the page.

A block that needs what is not here, such as a cluster or Docker, is marked `console` and is for reading.
"""
import importlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from launch import __main__ as command_line
from tests.commands import REPOSITORY, answers, mirrorline, succeed

PAGES = ["data", "tables", "models", "finetuning", "training", "evaluation", "benchmark", "workers", "export"]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path):
    """Returns [(language, text)] of a page, those for reading left out."""
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def commands(text):
    """Returns the arguments of each command of a block of shell, continued lines joined, without `mirrorline`."""
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    assert all(words[0] == "mirrorline" for words in lines if words), f"no test can run this: mark it console\n{text}"
    return [words[1:] for words in lines if words]


@pytest.fixture
def folder(tmp_path):
    """A folder with images as a user has them: flowers/ of two classes and splits, its table, photo.jpg, more/."""
    rng = np.random.default_rng(0)
    for name in ("photo.jpg", "more/1.jpg", "more/2.jpg",
                 *(f"flowers/{split}/{kind}/{i}.jpg" for split in ("train", "test") for kind in ("rose", "tulip")
                   for i in range(4))):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(path)
    (tmp_path / "flowers.csv").write_text("image,species,split\n" + "".join(
        f"{path.relative_to(tmp_path)},{path.parts[-2]},{path.parts[-3]}\n" for path in tmp_path.glob("flowers/*/*/*")))
    return tmp_path


@pytest.mark.acceptance
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(folder, page):
    found = blocks(REPOSITORY / "docs" / f"{page}.md")
    assert found, "a page has an example that runs"
    for number, (language, text) in enumerate(found):
        if language == "sh":
            for code, _, errors in answers(commands(text), folder):
                assert code == 0, f"{text}\n{errors[-800:]}"
        else:
            (folder / f"block_{number}.py").write_text(text, encoding="utf-8")
            done = mirrorline(cwd=folder, module=f"block_{number}")
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_understood(folder, monkeypatch, capsys, page):
    """Its flags are parsed and checked as ever; what it would do is left out."""
    monkeypatch.chdir(folder)
    found = [arguments for language, text in blocks(REPOSITORY / "docs" / f"{page}.md") if language == "sh"
             for arguments in commands(text)]
    assert found
    for arguments in found:
        command = importlib.import_module(f"launch.commands.{arguments[0]}")
        monkeypatch.setattr(command, "run", lambda *_: 0)
        assert command_line.main(arguments) == 0, (arguments, capsys.readouterr().err)


@pytest.mark.acceptance
def test_the_commands_of_the_readme_run_on_a_folder_of_images(folder):
    text = next(text for _, text in blocks(REPOSITORY / "README.md") if "folder:flowers" in text)
    for arguments in commands(text):
        succeed(*arguments, cwd=folder)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page.name}" for page in (REPOSITORY / "docs").glob("*.md"))])
def test_every_link_of_a_page_leads_somewhere(page):
    path = REPOSITORY / page
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)?(?:#[^)]*)?\)", prose):
        assert not link or "://" in link or (path.parent / link).exists(), link
