"""Fashion-MNIST: found on disk or downloaded, verified by digest, split into train, validation and test.

Xiao, Rasul, Vollgraf: Fashion-MNIST, a novel image dataset for benchmarking machine learning algorithms (2017).
"""

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from app.errors import WardrobeError
from training.config import FitConfig

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DRAWER_GROUPS = (
    "tops",
    "bottoms",
    "tops",
    "dresses",
    "outerwear",
    "footwear",
    "tops",
    "footwear",
    "bags",
    "footwear",
)

DATA_ENVIRONMENT_VARIABLE = "FASHION_MNIST_DIR"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
DOWNLOAD_FOLDER = Path("data")

# SHA-256 of the decompressed files. The .gz digests differ between distributors (Debian re-compresses), these do not.
FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# The digits have the same file names, and have been trained on by mistake often enough to be refused by name.
MNIST_SHA256 = {
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class DatasetError(WardrobeError):
    """The data set is absent, damaged, or another one than it should be."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled images: `images` uint8 (N, 28, 28), light garment on 0; `labels` int64 (N,) in 0..9."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: torch.Tensor) -> "Dataset":
        return Dataset(self.images[indices], self.labels[indices])


@dataclass(frozen=True, slots=True)
class Splits:
    """Train, validation and test part, where they came from, and the SHA-256 of each decompressed file."""

    train: Dataset
    validation: Dataset
    test: Dataset
    source: str
    sha256: dict[str, str]
    rule: str


def load_fashion_mnist(
    folder: Path | None = None,
    *,
    num_validation: int = 5_000,
    seed: int = 0,
    shares: tuple[float, ...] | None = None,
) -> Splits:
    """Find, verify and split Fashion-MNIST. The validation part comes from the 60,000 training pictures.

    With `shares`, of training, validation and test, all 70,000 pictures are split anew. Looks in `folder`, else in
    $FASHION_MNIST_DIR, else in the Debian package's folder, else in ./data, where it is downloaded
    through torchvision if need be.

    Raises:
        DatasetError: a file is absent, unreadable, or not the published one.
    """
    folder, source = _find(folder)
    files = {name: read_file(folder, name) for name in FASHION_MNIST_SHA256}
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name, expected in FASHION_MNIST_SHA256.items():
        if sha256[name] in MNIST_SHA256:
            raise DatasetError(f"{folder / name} is MNIST (handwritten digits), not Fashion-MNIST. Use another folder.")
        if sha256[name] != expected:
            raise DatasetError(
                f"{folder / name} is not the published Fashion-MNIST file: the SHA-256 of its decompressed content is "
                f"{sha256[name]}, expected {expected}. Delete it and fetch it again."
            )
    full = Dataset(parse_idx(files["train-images-idx3-ubyte"]), parse_idx(files["train-labels-idx1-ubyte"]).long())
    test = Dataset(parse_idx(files["t10k-images-idx3-ubyte"]), parse_idx(files["t10k-labels-idx1-ubyte"]).long())
    if shares is not None:
        return split_by_shares(full, test, shares=shares, seed=seed, source=source, sha256=sha256)
    return split(full, test, num_validation=num_validation, seed=seed, source=source, sha256=sha256)


def load_for(config: FitConfig, folder: Path | None = None) -> Splits:
    """What a run trains on: split as it says, with fewer pictures or wrong labels where it is about that.

    Raises:
        DatasetError: as `load_fashion_mnist`, or there are fewer training pictures than asked for.
    """
    seed = config.seed if config.split_seed is None else config.split_seed
    splits = load_fashion_mnist(folder, num_validation=config.num_validation, seed=seed, shares=config.split_shares)
    return degraded(splits, config)


def degraded(splits: Splits, config: FitConfig) -> Splits:
    """Fewer training pictures, or wrong labels; the other parts stay whole."""
    train, rule = splits.train, splits.rule
    if config.num_train is not None:
        if config.num_train > len(train):
            raise DatasetError(f"{config.num_train} training pictures cannot be taken from {len(train)}.")
        train = train.subset(stratified(train.labels, config.num_train, seed=config.seed))
        rule += f"; trained on {len(train)} of the training part, stratified by class"
    if config.wrong_labels:
        train = Dataset(train.images, with_wrong_labels(train.labels, config.wrong_labels, seed=config.seed))
        rule += f"; {config.wrong_labels:.0%} of the training labels replaced by another"
    return replace(splits, train=train, rule=rule)


def stratified(labels: torch.Tensor, num_images: int, *, seed: int) -> torch.Tensor:
    """Indices of `num_images` pictures, the same share of every class, in their order."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = []
    for label in labels.unique():
        of_class = order[labels[order] == label]
        chosen.append(of_class[: round(num_images * len(of_class) / len(labels))])
    return torch.cat(chosen).sort().values


def with_wrong_labels(labels: torch.Tensor, share: float, *, seed: int) -> torch.Tensor:
    """`share` of the labels replaced by another class, each as likely."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    step = torch.randint(1, len(CLASS_NAMES), (len(wrong),), generator=generator)
    return labels.index_copy(0, wrong, (labels[wrong] + step) % len(CLASS_NAMES))


def split_by_shares(
    full: Dataset, test: Dataset, *, shares: tuple[float, ...], seed: int, source: str, sha256: dict[str, str]
) -> Splits:
    """Pool both parts and split them anew into `shares` for training, validation and test, by a seeded shuffle."""
    pooled = Dataset(torch.cat([full.images, test.images]), torch.cat([full.labels, test.labels]))
    num_validation, num_test = round(shares[1] * len(pooled)), round(shares[2] * len(pooled))
    in_test = torch.zeros(len(pooled), dtype=torch.bool)
    in_test[stratified(pooled.labels, num_test, seed=seed)] = True
    splits = split(
        pooled.subset((~in_test).nonzero().flatten()),
        pooled.subset(in_test.nonzero().flatten()),
        num_validation=num_validation,
        seed=seed,
        source=source,
        sha256=sha256,
    )
    rule = f"{'/'.join(f'{share:g}' for share in shares)} of all pictures, stratified by class, seed {seed}"
    return replace(splits, rule=rule)


def split(
    full: Dataset, test: Dataset, *, num_validation: int, seed: int, source: str, sha256: dict[str, str]
) -> Splits:
    """Take `num_validation` pictures from `full`, the same share of every class, by a seeded shuffle."""
    if not 0 <= num_validation < len(full):
        raise DatasetError(f"{num_validation} validation pictures cannot be taken from {len(full)}.")
    in_validation = torch.zeros(len(full), dtype=torch.bool)
    in_validation[stratified(full.labels, num_validation, seed=seed)] = True
    return Splits(
        train=full.subset((~in_validation).nonzero().flatten()),
        validation=full.subset(in_validation.nonzero().flatten()),
        test=test,
        source=source,
        sha256=sha256,
        rule=f"validation is {num_validation} of the training part, stratified by class, seed {seed}; test: published",
    )


def read_file(folder: Path, name: str) -> bytes:
    """The decompressed content of `name` or `name`.gz in `folder`."""
    plain, compressed = folder / name, folder / f"{name}.gz"
    try:
        return plain.read_bytes() if plain.exists() else gzip.decompress(compressed.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"Neither {plain} nor {compressed.name} exists. Give the folder that holds both.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{compressed} cannot be read: {error}. Delete it and fetch it again.") from error


def parse_idx(content: bytes) -> torch.Tensor:
    """An IDX file of unsigned bytes as a uint8 tensor: (N,) for labels, (N, 28, 28) for images."""
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DatasetError("Not an IDX file of unsigned bytes: it should begin with 00 00 08.")
    num_dimensions = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=num_dimensions, offset=4).tolist()
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * num_dimensions)
    if values.size != np.prod(shape):
        raise DatasetError(f"An IDX file of shape {shape} holds {values.size} values: it is cut short.")
    return torch.from_numpy(values.reshape(shape).copy())


def _find(folder: Path | None) -> tuple[Path, str]:
    if folder is not None:
        return folder, f"folder {folder.name}"
    if from_environment := os.environ.get(DATA_ENVIRONMENT_VARIABLE):
        return Path(from_environment), f"${DATA_ENVIRONMENT_VARIABLE}"
    if DEBIAN_FOLDER.is_dir():
        return DEBIAN_FOLDER, "Debian package dataset-fashion-mnist"
    return _download(DOWNLOAD_FOLDER), "torchvision download"


def _download(root: Path) -> Path:
    # Imported here: it takes seconds to load, and most machines have the data already.
    from torchvision.datasets import FashionMNIST  # noqa: PLC0415

    try:
        FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"Fashion-MNIST is not on this machine and could not be downloaded ({reason}). Install the Debian package "
            f"dataset-fashion-mnist, or put the four files into a folder and name it with --data or "
            f"${DATA_ENVIRONMENT_VARIABLE}."
        ) from error
    return root / "FashionMNIST" / "raw"
