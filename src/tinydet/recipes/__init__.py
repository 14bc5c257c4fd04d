"""Recipes: one function a table of a paper. A recipe only picks parts; nothing in the library imports one."""

from __future__ import annotations

from tinydet.errors import InputError
from tinydet.recipes import (
    comparison,
    compressed_detection,
    digits,
    kd_ssd,
    quantization_mimic,
    quantization_mimic_rfcn,
)
from tinydet.recipes.recipe import Recipe, RecipeOptions

RECIPES: tuple[Recipe, ...] = (
    digits.RECIPE,
    *quantization_mimic_rfcn.RECIPES,
    *quantization_mimic.RECIPES,
    *compressed_detection.RECIPES,
    *kd_ssd.RECIPES,
    *comparison.RECIPES,
)

__all__ = ["RECIPES", "Recipe", "RecipeOptions", "find_recipe"]


def find_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise InputError(f"no recipe {name!r}; there are: {', '.join(recipe.name for recipe in RECIPES)}")
