"""The hands-on on a few hundred real pictures, killed on the way: what it leaves, as a reader and a service see it."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from app.artifact import read_card
from app.served_version import read_pointer
from tests.process import REPOSITORY, serving
from training.compare import Definition
from training.config import ConfigError
from training.data import Splits
from training.handson import best_row, handson
from training.pdf import BROWSERS, print_pdf
from training.run_comparison import Comparison, RowResult

TINY = """
seeds = 1
[base]
num_train = 300
split_shares = [0.994, 0.003, 0.003]
epochs = 2
[[rows]]
name = "softmax"
preset = "softmax"
[[rows]]
name = "a larger one"
network = "mlp"
hidden = [8]
"""


@dataclass(frozen=True, slots=True)
class Done:
    folder: Path
    finished_before: dict[Path, int]
    printed: str


@pytest.fixture(scope="module")
def done(published: Splits, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Killed after its first run, then called again."""
    folder = tmp_path_factory.mktemp("handson")
    (folder / "tiny.toml").write_text(TINY)
    command = [sys.executable, "-m", "training", "handson", "--ladder", "tiny.toml", "--out", "out", "--jobs", "1"]
    command += ["--author", "Ada Łovelace"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if "seed 0" in line:
                break
        os.killpg(process.pid, signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("result.json")}
    again = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    return Done(folder / "out", finished, again.stdout)


class Links(HTMLParser):
    """Where a page's links lead, and what can be led to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.images: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found["id"]} if "id" in found else set()
        self.targets += [found["href"]] if tag == "a" else []
        self.images += [found["src"]] if tag == "img" else []


def test_killed_it_goes_on(done: Done) -> None:
    assert 1 <= len(done.finished_before) <= 2
    assert f"{len(done.finished_before)} of 2 runs are there" in done.printed
    assert {path: path.stat().st_mtime_ns for path in done.finished_before} == done.finished_before


def test_what_the_validation_part_says_is_tested_once_and_exported(done: Done) -> None:
    """The better row of the comparison, with test figures in its card, and served from now on."""
    comparison = Comparison.model_validate_json((done.folder / "comparison.json").read_text())
    card = read_card(done.folder / "models" / "fashion-mnist" / "1")
    pointer = read_pointer(done.folder / "models" / "fashion-mnist")

    best = max(comparison.rows, key=lambda row: row.mean)

    assert best.config == card.training.config
    assert best.against is None
    assert card.metrics["test"].num_images == 210
    assert card.training.command.startswith("python -m training handson --ladder tiny.toml")
    assert pointer is not None
    assert pointer.version == 1


def test_the_report_says_what_the_card_says_and_every_number_leads_to_its_file(done: Done) -> None:
    page = (done.folder / "report.html").read_text()
    test = read_card(done.folder / "models" / "fashion-mnist" / "1").metrics["test"]
    links = Links(page)

    within, files = ([it for it in links.targets if it.startswith("#") is inside] for inside in (True, False))

    assert f"{100 * test.accuracy:.2f}\N{NO-BREAK SPACE}%</a> of 210 test pictures right" in page
    assert f"{100 * test.accuracy_interval[0]:.2f} to {100 * test.accuracy_interval[1]:.2f}\N{NO-BREAK SPACE}%" in page
    assert "Ada Łovelace" in page
    assert "No two of all these pictures are the same byte for byte" in page
    assert {target.removeprefix("#") for target in within} == {"D", "R1", "R2", "C", "G", "T"} <= links.ids
    assert len(files) == 9
    assert all((done.folder / file).is_file() for file in files)
    assert all(image.startswith("data:image/png;base64,") for image in links.images)


def test_the_report_fits_a_phone_and_shows_its_pictures(done: Done) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page is looked at with playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto((done.folder / "report.html").as_uri())
        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        browser.close()

    assert len(widths) == 4 + 16
    assert min(widths) >= 28
    assert overflow <= 0


def test_the_pdf_has_about_three_pages_and_leads_to_no_file_of_this_machine(done: Done) -> None:
    chromium()
    pypdf = pytest.importorskip("pypdf", reason="the PDF is read with pypdf")

    pages = pypdf.PdfReader(done.folder / "report.pdf").pages
    text = " ".join(" ".join(page.extract_text() for page in pages).split())

    assert 3 <= len(pages) <= 4
    for words in ("Ada Łovelace", "1 Problem", "2 Data", "3 Method", "4 Results", "5 Limits"):
        assert words in text
    links = [note.get_object() for page in pages for note in page.get("/Annots", [])]
    assert len(links) > 20
    assert all("/A" not in link or "/URI" not in link["/A"] for link in links)
    assert not list(done.folder.glob(".*"))


def test_without_a_browser_there_is_no_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one of an earlier report."""
    (tmp_path / "report.html").write_text("<p>A page</p>")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert not print_pdf(tmp_path / "report.html", tmp_path / "report.pdf")


def test_the_printed_command_serves_it(done: Done, pictures: dict[str, bytes], tmp_path: Path) -> None:
    (line,) = re.findall(r"^Serve the result: (.+)$", done.printed, re.MULTILINE)
    *settings, program, module, name = shlex.split(line)
    environment = dict(setting.removeprefix("WARDROBE_").split("=", 1) for setting in settings)
    environment["MODELS_DIR"] = str(done.folder.parent / environment["MODELS_DIR"])

    with serving(tmp_path / "log", command=[program, module, name], **environment) as (_, client):
        (prediction,) = client.post("/predict", content=pictures["Trouser"]).json()["predictions"]

    assert (module, name) == ("-m", "app")
    assert (prediction["model"]["name"], prediction["model"]["version"]) == ("fashion-mnist", 1)


def test_a_ladder_that_looks_at_the_test_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the test part is for the end"):
        handson(
            Definition(part="test", rows=[{"name": "a", "preset": "softmax"}]),
            folder=tmp_path / "out",
            data=None,
            num_jobs=1,
            num_threads=1,
            command="",
        )

    assert not (tmp_path / "out").exists()


def test_of_equals_the_smaller_one_is_chosen() -> None:
    def row(name: str, mean: float, num_parameters: int) -> RowResult:
        return RowResult(
            row=name,
            accuracies=[mean],
            mean=mean,
            spread=None,
            num_parameters=num_parameters,
            seconds=1.0,
            against=None,
            config={},
        )

    assert best_row([row("a", 0.8, 10), row("b", 0.9, 30), row("c", 0.9, 20)]) == "c"


def chromium() -> str:
    """The one that printed the PDF."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    return found
