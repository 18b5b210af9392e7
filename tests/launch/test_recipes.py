"""mirrorline recipes: what each installed recipe says of itself."""
import os

import recipes
from tests.commands import answers


def test_the_command_lists_every_recipe_with_its_figures(tmp_path):
    (code, text, _), = answers([["recipes"]], cwd=tmp_path)
    *lines, place = text.splitlines()
    assert code == 0 and max(map(len, lines)) <= 100 and place == os.path.dirname(recipes.__file__)
    shown = " ".join(text.split())
    for name in recipes.names():
        recipe = recipes.read(name)
        assert f"{recipe.name} {recipe.summary} data" in shown
        assert all(f"{figure} {getattr(recipe, figure)}" in shown for figure in recipes.FIGURES)
    assert "digits The default run" in shown and "data yours model yours result" in shown
