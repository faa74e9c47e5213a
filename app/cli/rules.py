"""Which drawer a picture goes into, by rules that a person can edit."""

import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.artifact import DrawerGroup, Share
from app.cli.results import Row
from app.errors import WardrobeError
from app.inference.decision import Decision

DEFAULT_RULES = """\
# Which folder under --into a picture goes to. Rules are tried from the top; the first whose conditions all fit is
# taken. A picture that no rule fits stays where it is.
#
#   decision         "sorted", "review" (a person should look) or "not_a_garment"
#   group            "tops", "bottoms", "dresses", "outerwear", "footwear", "headwear", "bags" or "other"
#   label            a class of the model, for instance "t-shirt"
#   min_probability  of the label, 0 to 1
#   folder           where to; {group}, {label} and {decision} stand for the picture's own. "" leaves it where it is.
#
# A condition takes one word, or several of which one must fit: label = ["shirt", "longsleeve"].

[[rule]]
decision = "not_a_garment"
folder = "not a garment"

[[rule]] # the label is only the best guess: look through these
decision = "review"
folder = "review"

[[rule]] # "{group}/{label}" keeps the shirts and the t-shirts of the tops apart
folder = "{group}"
"""
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
KNOWN_PLACEHOLDERS = ("group", "label", "decision")


class RulesError(WardrobeError):
    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is no rules file: {reason}. 'wardrobe rules' prints one to start from.")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _below(folder: str) -> str:
    path = PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts or "\\" in folder or "\0" in folder:
        raise ValueError("a folder must lie under --into: no leading '/', no '..', no backslash")
    for name in PLACEHOLDER.findall(folder):
        if name not in KNOWN_PLACEHOLDERS:
            raise ValueError(f"{{{name}}} is unknown; there are {{group}}, {{label}} and {{decision}}")
    return folder


def _as_name(value: str) -> str:
    """A label may be "T-shirt/top", which is no folder in a folder; a stranger's service may say ".."."""
    return re.sub(r"[/\\\0]", "-", value).strip(". ") or "-"


class Rule(BaseModel):
    """Conditions and a folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    decision: Annotated[list[Decision] | None, BeforeValidator(_listed)] = None
    group: Annotated[list[DrawerGroup] | None, BeforeValidator(_listed)] = None
    label: Annotated[list[str] | None, BeforeValidator(_listed)] = None
    min_probability: Share = 0
    folder: Annotated[str, AfterValidator(_below)]

    def fits(self, row: Row) -> bool:
        return (
            (self.decision is None or row.decision in self.decision)
            and (self.group is None or row.group in self.group)
            and (self.label is None or row.label in self.label)
            and (row.probability or 0) >= self.min_probability
        )

    def folder_of(self, row: Row) -> str:
        values = {"group": row.group, "label": row.label, "decision": row.decision}
        folder = PLACEHOLDER.sub(lambda found: _as_name(values[found[1]]), self.folder)
        return str(PurePosixPath(folder)) if folder else ""


class Rules(BaseModel):
    """All rules, in the order in which they are tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: list[Rule] = Field(min_length=1)

    def folder_of(self, row: Row) -> str:
        """Where a classified picture goes, relative to the drawers; empty: nowhere."""
        return next((rule.folder_of(row) for rule in self.rule if rule.fits(row)), "")


def read_rules(path: Path | None) -> Rules:
    """The rules of a file, or the default ones.

    Raises:
        RulesError: what is wrong, and where.
    """
    if path is None:
        return Rules.model_validate(tomllib.loads(DEFAULT_RULES))
    try:
        return Rules.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RulesError(path, str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
        raise RulesError(path, f"{place}: {first['msg'].removeprefix('Value error, ')}") from error
