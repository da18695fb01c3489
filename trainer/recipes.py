"""Recipes: options of trainings whose results are known, by name, and files of options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import UserError, nearest
from .parsing import preset_names, read_toml_or_json

FOLDER = Path(__file__).parent / "presets"


def names() -> list[str]:
    """Return the names of all recipes."""
    return preset_names(FOLDER)


def recipe(name: str) -> Path:
    """Return the file of a recipe. UserError for an unknown name, with the nearest."""
    if name not in names():
        raise UserError(f"--recipe: unknown recipe {name!r}{nearest(name, names())}")
    return FOLDER / f"{name}.toml"


def read_options(file: Path) -> dict[str, Any]:
    """Return the options in a TOML file, or in the config.json of a run, as they stand there.
    UserError for a file that holds something else."""
    kind = "JSON" if file.suffix == ".json" else "TOML"
    content: dict[str, Any] = read_toml_or_json("--config", file, kind)
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected an object of options, got {content!r:.60}")
    for key, value in content.items():
        if isinstance(value, dict):
            raise UserError(
                f"{file}: {key}: expected a value, got a table; keys stand at the top level"
            )
    return content
