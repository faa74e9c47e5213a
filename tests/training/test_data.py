import gzip
import hashlib
import shutil
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST

from training import data
from training.config import FitConfig
from training.data import Dataset, DatasetError, Splits, degraded, load_fashion_mnist, parse_idx, read_file, split

LABELS = "train-labels-idx1-ubyte"


@pytest.fixture
def copy(sample_folder: Path, tmp_path: Path) -> Path:
    """A copy of the sample to damage."""
    return Path(shutil.copytree(sample_folder, tmp_path / "copy"))


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without the data set."""
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "no-debian-package")
    monkeypatch.setattr(data, "DOWNLOAD_FOLDER", tmp_path / "data")


@pytest.fixture
def mirror(tmp_path: Path, sample_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served as torchvision's only mirror, which expects the sample's files of it; empty at first."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    archives = [sample_folder / f"{name}.gz" for name in data.FASHION_MNIST_SHA256]
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in archives]
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_published_files_are_verified_and_split(published: Splits) -> None:
    """The real data set passes its digests and gives 55,000, 5,000 and 10,000 pictures."""
    sizes = [len(part) for part in (published.train, published.validation, published.test)]

    assert sizes == [55_000, 5_000, 10_000]
    assert published.sha256 == data.FASHION_MNIST_SHA256
    assert published.validation.labels.bincount().tolist() == [500] * 10
    assert published.test.labels.bincount().tolist() == [1_000] * 10
    assert published.train.images.shape == (55_000, 28, 28)
    assert published.train.images.dtype == torch.uint8


def test_published_split_is_disjoint(published: Splits) -> None:
    """No validation picture is among the training pictures."""
    train, validation = (
        {bytes(image) for image in part.images.numpy()} for part in (published.train, published.validation)
    )

    assert not train & validation


def test_split_takes_each_picture_once(sample_folder: Path, sample_is_published: None) -> None:
    """Train and validation are disjoint and together everything; the classes keep their shares."""
    everything = load_fashion_mnist(sample_folder, num_validation=0).train
    splits = load_fashion_mnist(sample_folder, num_validation=500)

    assert len(splits.train) == 1_500
    assert splits.validation.labels.bincount().tolist() == [50] * 10
    found = torch.cat([splits.train.images, splits.validation.images]).flatten(1)
    assert sorted(map(bytes, found.numpy())) == sorted(map(bytes, everything.images.flatten(1).numpy()))


def test_seed_decides_the_split(sample: Splits) -> None:
    """The same seed gives the same validation pictures, another seed others."""

    def validation(seed: int) -> torch.Tensor:
        return split(sample.train, sample.test, num_validation=300, seed=seed, source="", sha256={}).validation.images

    assert validation(1).equal(validation(1))
    assert not validation(1).equal(validation(2))


def test_one_changed_byte_is_refused(copy: Path, sample_is_published: None) -> None:
    """A file that is not the published one is named, with both digests."""
    content = bytearray(read_file(copy, LABELS))
    content[-1] ^= 1
    (copy / f"{LABELS}.gz").write_bytes(gzip.compress(bytes(content)))

    with pytest.raises(DatasetError, match=f"{LABELS} is not the published Fashion-MNIST file") as caught:
        load_fashion_mnist(copy)

    assert hashlib.sha256(content).hexdigest() in str(caught.value)
    assert data.FASHION_MNIST_SHA256[LABELS] in str(caught.value)


def test_other_pictures_are_refused(sample_folder: Path) -> None:
    """A well-formed data set is not enough: without the patched digests, the sample itself is refused."""
    with pytest.raises(DatasetError, match="train-images-idx3-ubyte is not the published"):
        load_fashion_mnist(sample_folder)


def test_mnist_is_refused_by_name(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no MNIST in the repository, so the sample's first file stands in for it: its digest joins MNIST's."""
    digest = hashlib.sha256(read_file(copy, "train-images-idx3-ubyte")).hexdigest()
    monkeypatch.setattr(data, "MNIST_SHA256", data.MNIST_SHA256 | {digest})

    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte is MNIST \(handwritten digits\)"):
        load_fashion_mnist(copy)


def test_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"Neither .*absent/train-images-idx3-ubyte nor train-images.*\.gz exists"):
        load_fashion_mnist(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["cut short", "not gzip", "byte changed in the compressed stream"])
def test_damaged_archive_is_named(copy: Path, damage: str) -> None:
    """Whatever is wrong with a .gz, the message says which file to fetch again."""
    archive = copy / f"{LABELS}.gz"
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    match damage:
        case "cut short":
            content = content[:middle]
        case "not gzip":
            content[:2] = b"no"
        case _:
            content[middle : middle + 8] = b"\xff" * 8
    archive.write_bytes(content)

    with pytest.raises(DatasetError, match=rf"{LABELS}\.gz cannot be read: .* fetch it again"):
        read_file(copy, LABELS)


def test_decompressed_files_are_read_too(copy: Path, sample_is_published: None) -> None:
    """What torchvision leaves behind: the name without .gz."""
    for name in data.FASHION_MNIST_SHA256:
        (copy / name).write_bytes(read_file(copy, name))
        (copy / f"{name}.gz").unlink()

    assert len(load_fashion_mnist(copy, num_validation=0).train) == 2_000


def test_environment_variable_is_honoured(
    sample_folder: Path, sample_is_published: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$FASHION_MNIST_DIR comes before every other place, and is named as the source."""
    monkeypatch.setenv("FASHION_MNIST_DIR", str(sample_folder))

    splits = load_fashion_mnist(num_validation=500)

    assert splits.source == "$FASHION_MNIST_DIR"
    assert len(splits.train) == 1_500


def test_download_through_torchvision(
    nothing_here: None, mirror: Path, sample_folder: Path, sample_is_published: None
) -> None:
    """With no copy on the machine, torchvision fetches the files, and they are verified like any others."""
    shutil.copytree(sample_folder, mirror, dirs_exist_ok=True)

    splits = load_fashion_mnist(num_validation=500)

    assert splits.source == "torchvision download"
    assert len(splits.train) == 1_500


def test_failed_download_names_the_ways_out(nothing_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens at the mirror: the message says what failed and the three ways to go on."""
    with socket.socket() as closed_soon:
        closed_soon.bind(("127.0.0.1", 0))
        port = closed_soon.getsockname()[1]
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    with pytest.raises(DatasetError, match="could not be downloaded") as caught:
        load_fashion_mnist()

    for part in ("Connection refused", "Debian package dataset-fashion-mnist", "--data", "$FASHION_MNIST_DIR"):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x00\x00", b"\x00\x00\x09\x01\x00\x00\x00\x01a", b"\x1f\x8b\x08\x00"])
def test_other_formats_are_no_idx(content: bytes) -> None:
    with pytest.raises(DatasetError, match="Not an IDX file of unsigned bytes"):
        parse_idx(content)


def test_idx_is_read_in_row_major_order() -> None:
    header = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3])

    assert parse_idx(header + bytes(range(6))).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_shares_split_all_pictures_anew(sample_folder: Path, sample_is_published: None) -> None:
    """80/8/12 of the 2,500: every picture once, the same share of every class in each part."""
    splits = load_fashion_mnist(sample_folder, shares=(0.8, 0.08, 0.12))

    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [2_000, 200, 300]
    assert {image.numpy().tobytes() for part in parts for image in part.images} == {
        image.numpy().tobytes()
        for part in _parts(load_fashion_mnist(sample_folder, num_validation=500))
        for image in part.images
    }
    counts = splits.train.labels.bincount() / len(splits.train)
    assert counts == pytest.approx((splits.test.labels.bincount() / len(splits.test)).tolist(), abs=0.01)
    assert splits.rule == "0.8/0.08/0.12 of all pictures, stratified by class, seed 0"


def _parts(splits: Splits) -> tuple[Dataset, Dataset, Dataset]:
    return splits.train, splits.validation, splits.test


def test_a_run_trains_on_fewer_pictures_with_wrong_labels(sample: Splits) -> None:
    """As many of every class, a tenth of the labels another class, and the other parts as they were."""
    config = FitConfig(num_train=500, wrong_labels=0.1)

    few, noisy = degraded(sample, FitConfig(num_train=500)), degraded(sample, config)

    assert few.train.labels.bincount().tolist() == pytest.approx([50] * 10, abs=2)
    assert noisy.train.images.equal(few.train.images)
    assert (noisy.train.labels != few.train.labels).sum() == round(0.1 * len(few.train))
    assert noisy.validation is sample.validation
    assert noisy.rule.endswith("; 10% of the training labels replaced by another")


def test_more_pictures_than_there_are_cannot_be_taken(sample: Splits) -> None:
    with pytest.raises(DatasetError, match="1501 training pictures cannot be taken from 1500"):
        degraded(sample, FitConfig(num_train=1501))
