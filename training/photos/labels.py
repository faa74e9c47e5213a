"""Which label of the data becomes which class of the model."""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, get_args

from app.artifact import DrawerGroup
from training.data import DatasetError

DEFAULT_LABELS = Path(__file__).with_name("labels.toml")
SPECIAL_KEYS = ("unlabelled", "negatives", "unknown", "drop")
KEYS = ("classes", "rename", "repeat", "auxiliary", *SPECIAL_KEYS)

# Targets that are no class. Cross-entropy ignores the first two, the garment head learns from their difference; the
# third is never trained on.
UNLABELLED = -1
NOT_A_GARMENT = -2
UNKNOWN = -3


# Drawers of classes that a user names and a map does not: those of the two shipped models, and more of their kind.
WELL_KNOWN: Mapping[DrawerGroup, str] = {
    "tops": "blouse body cardigan hoodie longsleeve polo pullover shirt sweater sweatshirt t-shirt t-shirt/top tee top "
    "undershirt",
    "bottoms": "jeans joggers leggings pants shorts skirt sweatpants trousers",
    "dresses": "dress dresses",
    "outerwear": "blazer coat jacket outerwear outwear parka",
    "footwear": "ankle-boot boots footwear heels loafers sandals shoes slippers sneakers trainers",
    "headwear": "beanie cap hat headwear",
    "bags": "backpack bag handbag",
}


def _bare(name: str) -> str:
    """What is left of a name without case, number, spaces and signs."""
    return "".join(filter(str.isalpha, name.casefold())).rstrip("s")


def same_name(one: str, other: str) -> bool:
    """Whether two labels differ in nothing but case, number, spaces and signs: T-Shirts, tshirt."""
    return one == other or _bare(one) == _bare(other) != ""


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Classes in the order of the network's outputs, the auxiliary ones after those that are answered."""

    classes: Mapping[str, DrawerGroup]
    rename: Mapping[str, str] = field(default_factory=dict)
    repeat: Mapping[str, int] = field(default_factory=dict)
    auxiliary: tuple[str, ...] = ()
    unlabelled: frozenset[str] = frozenset()
    negatives: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each output of the network in training stands for."""
        return (*self.classes, *self.auxiliary)

    @property
    def _special(self) -> frozenset[str]:
        return self.unlabelled | self.negatives | self.unknown | self.drop

    def knows(self, label: str) -> bool:
        return label in self._special or self.rename.get(label, label) in self.outputs

    def is_special(self, label: str) -> bool:
        """Whether its pictures have no class: unlabelled, of no garment, of an unknown class, or dropped."""
        return label in self._special

    def target(self, label: str) -> int | None:
        """Output index, UNLABELLED, NOT_A_GARMENT, UNKNOWN, or None for a label to drop.

        Raises:
            DatasetError: the map does not name this label.
        """
        if label in self.drop:
            return None
        if label in self.negatives:
            return NOT_A_GARMENT
        if label in self.unlabelled:
            return UNLABELLED
        if label in self.unknown:
            return UNKNOWN
        if not self.knows(label):
            known = ", ".join(sorted({*self.outputs, *self.rename, *self._special}))
            raise DatasetError(f"The label map does not know the label {label!r}. It knows: {known}.")
        return self.outputs.index(self.rename.get(label, label))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the checkpoint."""
        return {
            "classes": dict(self.classes),
            "rename": dict(self.rename),
            "repeat": dict(self.repeat),
            "auxiliary": list(self.auxiliary),
            "unlabelled": sorted(self.unlabelled),
            "negatives": sorted(self.negatives),
            "unknown": sorted(self.unknown),
            "drop": sorted(self.drop),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, and what a TOML file holds.

        Raises:
            DatasetError: an unknown key or drawer group, a key of the wrong type, a label with two meanings, or one
                that is no class and would have to be.
        """
        _check_types(values)
        label_map = cls(
            classes=dict(values.get("classes", {})),
            rename=dict(values.get("rename", {})),
            repeat=dict(values.get("repeat", {})),
            auxiliary=tuple(values.get("auxiliary", ())),
            unlabelled=frozenset(values.get("unlabelled", ())),
            negatives=frozenset(values.get("negatives", ())),
            unknown=frozenset(values.get("unknown", ())),
            drop=frozenset(values.get("drop", ())),
        )
        _check_meanings(label_map)
        return label_map

    def for_labels(self, labels: Collection[str]) -> "LabelMap":
        """This map if it has classes; else one in which every label of the data is a class.

        A class whose drawer WELL_KNOWN does not say goes into the drawer `other`.
        """
        if self.classes:
            return self
        drawers = {_bare(name): group for group, known in WELL_KNOWN.items() for name in known.split()}
        names = {self.rename.get(label, label) for label in labels if label not in self._special}
        classes = {name: drawers.get(_bare(name), "other") for name in sorted(names - set(self.auxiliary))}
        return replace(self, classes=classes).narrowed(labels)

    def narrowed(self, labels: Collection[str]) -> "LabelMap":
        """Without the classes, auxiliary ones too, that no label of the data becomes, and without what leads to them.

        They would be answers that the network has never seen a picture of.
        """
        used = {self.rename.get(label, label) for label in labels if label not in self._special}
        kept = replace(
            self,
            classes={name: group for name, group in self.classes.items() if name in used},
            rename={label: name for label, name in self.rename.items() if name in used},
            auxiliary=tuple(name for name in self.auxiliary if name in used),
        )
        return replace(kept, repeat={label: times for label, times in self.repeat.items() if kept.knows(label)})


def _check_types(values: Mapping[str, Any]) -> None:
    """Refuse unknown keys and drawer groups, and values of the wrong type."""
    if unknown := sorted(values.keys() - set(KEYS)):
        raise DatasetError(f"The label map has unknown keys: {', '.join(unknown)}. It may have: {', '.join(KEYS)}.")
    for key in values:
        wanted = dict if key in ("classes", "rename", "repeat") else list | tuple
        if not isinstance(values[key], wanted):
            kind = "a table" if wanted is dict else "a list"
            raise DatasetError(f"In the label map {key} must be {kind}: it is {values[key]!r}.")
        for label in values[key]:
            if not isinstance(label, str):
                raise DatasetError(f"In the label map {key} may hold labels in quotes only: it holds {label!r}.")
    for name, group in values.get("classes", {}).items():
        if group not in get_args(DrawerGroup):
            drawers = ", ".join(get_args(DrawerGroup))
            raise DatasetError(f"The label map puts {name!r} into the drawer {group!r}. There are: {drawers}.")
    for label, times in values.get("repeat", {}).items():
        if not isinstance(times, int) or times < 1:
            raise DatasetError(f"The label map repeats {label!r} {times!r} times. It must be 1 or more.")


def _check_meanings(label_map: LabelMap) -> None:
    """Refuse a label with two meanings, and one that would have to be a class and is none."""
    key_of: dict[str, str] = {}
    for key in SPECIAL_KEYS:
        for label in sorted(getattr(label_map, key)):
            if key_of.setdefault(label, key) != key:
                raise DatasetError(f"The label map has {label!r} in {key_of[label]} and in {key}.")
    if both := sorted(label_map.classes.keys() & set(label_map.auxiliary)):
        raise DatasetError(f"The label map has {both[0]!r} in classes and in auxiliary.")
    if label_map.classes:
        for label, name in label_map.rename.items():
            if name not in label_map.outputs:
                raise DatasetError(
                    f"The label map renames {label!r} to {name!r}, which is no class of it. "
                    f"It has: {', '.join(label_map.outputs)}."
                )
        for label in label_map.repeat:
            if not label_map.knows(label):
                raise DatasetError(f"The label map repeats {label!r}, which stands nowhere else in it.")


def read_label_map(path: Path) -> LabelMap:
    """Read a TOML label map.

    Raises:
        DatasetError: absent, no TOML, or not a label map; it names the file.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"The label map {path} cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"The label map {path} is not TOML: {error}.") from error
    try:
        return LabelMap.from_dict(values)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error


def every_label_a_class() -> LabelMap:
    """The map for class folders: each is a class, but for those that `benchmarks.negatives` writes."""
    default = read_label_map(DEFAULT_LABELS)
    other_styles = frozenset(label for label in default.unlabelled if label.startswith("other-style/"))
    return LabelMap(
        classes={},
        repeat={label: times for label, times in default.repeat.items() if label in other_styles},
        unlabelled=other_styles,
        negatives=default.negatives,
        unknown=default.unknown,
    )
