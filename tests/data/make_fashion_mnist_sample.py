"""Make tests/data/fashion-mnist-sample: 2,500 pictures of Fashion-MNIST's published training part as four IDX files.

    python -m tests.data.make_fashion_mnist_sample

needs the real data set (see training/data.py for where it is looked for) and writes the same bytes every time.
"""

import gzip
from pathlib import Path

import torch

from training.data import FASHION_MNIST_SHA256, Dataset, load_fashion_mnist

FOLDER = Path(__file__).parent / "fashion-mnist-sample"
NUM_TRAIN_PER_CLASS = 200
NUM_TEST_PER_CLASS = 50  # other pictures of the training part: the real test part is for final figures only


def main() -> None:
    published = load_fashion_mnist(num_validation=0).train  # in the published order
    train, test = sample(published, 0, NUM_TRAIN_PER_CLASS), sample(published, NUM_TRAIN_PER_CLASS, NUM_TEST_PER_CLASS)
    contents = [idx(train.images), idx(train.labels), idx(test.images), idx(test.labels)]
    FOLDER.mkdir(exist_ok=True)
    for name, content in zip(FASHION_MNIST_SHA256, contents, strict=True):
        (FOLDER / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))


def sample(dataset: Dataset, first: int, num_per_class: int) -> Dataset:
    """`num_per_class` pictures of every class, from the class's `first` on, in the data set's order."""
    of_class = [(dataset.labels == label).nonzero().flatten() for label in dataset.labels.unique()]
    chosen = torch.cat([indices[first : first + num_per_class] for indices in of_class])
    return dataset.subset(chosen.sort().values)


def idx(values: torch.Tensor) -> bytes:
    """An IDX file of unsigned bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.to(torch.uint8).numpy().tobytes()


if __name__ == "__main__":
    main()
