"""Presets: TOML files with options of FitConfig. Each opens with what it is, the command, and what it reached."""

import tomllib
from pathlib import Path
from typing import Any

from training.config import ConfigError

FOLDER = Path(__file__).parent


def load_preset(name: str) -> dict[str, Any]:
    """The options in the preset of that name, or in the file at that path.

    Raises:
        ConfigError: there is none, or it is not TOML.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(preset.stem for preset in FOLDER.glob("*.toml")))
        raise ConfigError(f"There is no preset {name}. Give a TOML file, or one of: {known}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
