"""`python -m app` with sub-commands, in processes of its own: killed, resumed, undone, and through a service."""

import csv
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.cli.drawers import JOURNAL_NAME
from tests.app.conftest import Narrow
from tests.app.test_drawers import names, snapshot
from tests.conftest import PICTURES_FOLDER
from tests.odd_files import garment, save
from tests.process import REPOSITORY, WARDROBE_VERSIONS

NUM_PICTURES, NUM_BROKEN = 980, 20
LONGEST_SECONDS = 300

# `python -m app` that the kernel kills, as hard as SIGKILL does, in the write that makes a file longer than this.
KILLED_IN_A_WRITE = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
runpy.run_module("app", run_name="__main__", alter_sys=True)
"""


class CommandLine:
    """Commands in a folder of their own, which answer by a model that tells colours apart."""

    def __init__(self, folder: Path, models_dir: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PYTHONPATH": str(REPOSITORY),
            "WARDROBE_MODELS_DIR": str(models_dir),
            "WARDROBE_ENGINE": "torchscript",
            "COLUMNS": "200",
        }

    def start(self, *arguments: str, python: tuple[str, ...] = ("-m", "app")) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *python, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, python: tuple[str, ...] = ("-m", "app")) -> str:
        """What is printed on standard output."""
        with self.start(*arguments, python=python) as process:
            out, err = process.communicate(timeout=LONGEST_SECONDS)
        assert process.returncode == code, out + err
        return out + (err if code else "")


@pytest.fixture
def command_line(tmp_path: Path, two_models_dir: Path) -> CommandLine:
    return CommandLine(tmp_path, two_models_dir)


@pytest.fixture
def shipped(tmp_path: Path, models_dir: Path) -> CommandLine:
    """With the shipped models and the engine that starts fastest."""
    command_line = CommandLine(tmp_path, models_dir)
    command_line.environment["WARDROBE_ENGINE"] = "onnxruntime"
    return command_line


def fill(folder: Path) -> None:
    """980 drawn pictures, no two the same, and 20 broken files, in three folders."""
    rng = np.random.default_rng(0)
    for number in range(NUM_PICTURES + NUM_BROKEN):
        path = folder / f"trip {number % 3}" / f"IMG_{number // 3:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 40, (64, 64, 3), np.uint8)
        pixels[..., number % 3] += 200 if number % 10 else 0  # red, green, blue; every tenth is nearly black
        content = save(Image.fromarray(pixels), "PNG", compress_level=1)
        path.write_bytes(content[: 10 * (number // 50)] if number % 50 == 7 else content)
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    (folder / "notes.txt").write_text("not a picture")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_thousand_files_killed_twice_are_sorted_once_and_undone(command_line: CommandLine) -> None:
    folder, drawers = command_line.folder / "photos", command_line.folder / "drawers"
    fill(folder)
    before = snapshot(folder)
    results = command_line.folder / "wardrobe-photos.csv"
    sort = ("sort", "photos", "--into", "drawers", "--how", "move")

    # Killed while it classifies.
    with command_line.start(*sort) as process:
        deadline = time.monotonic() + LONGEST_SECONDS
        while not results.exists() or results.read_bytes().count(b"\n") < 200:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    known = rows_of(results)[:-1]  # the last one may be cut
    assert 190 < len(known) < NUM_PICTURES

    # Goes on, and shows what it would do.
    with command_line.start(*sort) as process:
        shown, err = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 0, err
    assert int(err.split()[0]) >= len(known), "pictures are known already"
    assert f"{NUM_BROKEN} cannot be read and stay where they are:" in shown
    assert f"{NUM_PICTURES} files" in shown
    assert snapshot(folder) == before
    assert not drawers.exists()
    planned = rows_of(results)
    assert [row["mtime_ns"] for row in planned[: len(known)]] == [row["mtime_ns"] for row in known]

    # Killed while it moves, in the middle of a line of its journal.
    command_line.run(*sort, "--apply", code=-signal.SIGXFSZ, python=("-c", KILLED_IN_A_WRITE))
    assert not (drawers / JOURNAL_NAME).read_bytes().endswith(b"\n")
    assert 100 < len(names(drawers)) < NUM_PICTURES

    done = command_line.run(*sort, "--apply")

    assert f"{NUM_BROKEN} cannot be read" in done
    rows = rows_of(results)
    assert [row["target"] for row in sorted(rows, key=by_path)] == [
        row["target"] for row in sorted(planned, key=by_path)
    ]
    assert len(rows) == len({row["path"] for row in rows}) == NUM_PICTURES + NUM_BROKEN
    assert Counter(row["decision"] for row in rows)["error"] == NUM_BROKEN
    assert {row["placed"] for row in rows if row["decision"] != "error"} == {"move"}
    targets = {row["target"] for row in rows} - {""}
    assert targets == {str(drawers / name) for name in names(drawers) if name != JOURNAL_NAME}
    assert len(targets) == NUM_PICTURES
    assert names(folder) == sorted(
        [str(Path(row["path"]).relative_to(folder)) for row in rows if not row["target"]] + ["notes.txt"]
    )
    drawn = Counter(str(Path(target).relative_to(drawers).parent) for target in targets)
    assert drawn.keys() == {"dresses", "tops", "other", "not a garment"}

    assert f"{NUM_PICTURES} files were moved" in command_line.run("undo", "drawers")
    assert f"{NUM_PICTURES} of {NUM_PICTURES} files were taken back." in command_line.run("undo", "drawers", "--apply")

    assert snapshot(folder) == before
    assert not drawers.exists()


def by_path(row: dict[str, str]) -> str:
    return row["path"]


def test_a_busy_service_answers_a_folder_as_this_process_does(shipped: CommandLine, narrow: Narrow) -> None:
    folder = shipped.folder / "photos"
    folder.mkdir()
    for number in range(24):
        (folder / f"{number:02}.png").write_bytes(save(garment(400 + number, 300), "PNG"))
    for name in ("ankle-boot.png", "sunset.png"):
        (folder / name).write_bytes((PICTURES_FOLDER / name).read_bytes())
    (folder / "broken.png").write_bytes(b"no picture")
    shipped.environment["WARDROBE_API_KEY"] = narrow.api_key
    turned_away = narrow.num_turned_away()

    shipped.run("sort", "photos", "--csv", "remote.csv", "--server", narrow.url)
    shipped.run("sort", "photos", "--csv", "local.csv")

    assert narrow.num_turned_away() > turned_away
    assert sorted(os.listdir(shipped.folder)) == ["local.csv", "photos", "remote.csv"], (
        "what a service keeps is not made"
    )
    remote, local = rows_of(shipped.folder / "remote.csv"), rows_of(shipped.folder / "local.csv")
    assert remote == local
    assert len(remote) == 27
    assert {row["model"] for row in remote} == {f"wardrobe/{WARDROBE_VERSIONS[-1]}", "fashion-mnist/1", ""}


def test_predict_prints_a_table_or_json(shipped: CommandLine, narrow: Narrow) -> None:
    files = [str(PICTURES_FOLDER / "bag.png"), "missing.png"]
    remote = ("--server", narrow.url, "--api-key", narrow.api_key)

    table = shipped.run("predict", *files, *remote, code=1)
    found = json.loads(shipped.run("predict", files[0], "--json", *remote))

    assert "Bag" in table
    assert "missing.png: The file cannot be read: No such file or directory." in table
    assert [(row["label"], row["group"], row["decision"]) for row in found] == [("Bag", "bags", "sorted")]


def test_a_key_is_made_with_the_digest_that_the_service_wants(shipped: CommandLine) -> None:
    first, second = shipped.run("key").splitlines()

    made = first.removeprefix("Authorization: Bearer ")
    assert len(made) > 40
    assert second == f"WARDROBE_API_KEY_SHA256={hashlib.sha256(made.encode()).hexdigest()}"


def test_what_a_person_can_mend_is_said_in_words(shipped: CommandLine) -> None:
    (shipped.folder / "photos").mkdir()
    (shipped.folder / "photos" / "a.png").write_bytes((PICTURES_FOLDER / "bag.png").read_bytes())

    assert shipped.run("undo", "photos", code=1).startswith("Error: There is no wardrobe-undo.jsonl in ")
    assert "Error: No model 'wardrobe' can be run" in shipped.run("sort", "photos", "--models", "nowhere", code=1)
    assert "cannot be reached" in shipped.run("predict", "a.png", "--server", "no-address", code=1)


def test_train_and_serve_run_this_app_and_nothing_of_its_name(shipped: CommandLine) -> None:
    """Started as the installed command is, which does not look into the current folder."""
    for name in ("app.py", "training.py"):
        (shipped.folder / name).write_text("raise SystemExit('foreign')")
    installed = ("-P", "-m", "app")

    assert "Fashion-MNIST" in shipped.run("train", "--help", python=installed)
    assert "WARDROBE_PORT" in shipped.run("serve", "--port", "70000", python=installed, code=2)


def test_a_file_that_is_decoded_apart_is_so_beside_a_foreign_app(shipped: CommandLine) -> None:
    (shipped.folder / "app.py").write_text("raise SystemExit('foreign')")
    path = str(PICTURES_FOLDER / "bag.png")
    code = (
        "import pathlib, sys, app.decoder as d; "
        "process = d._Process(5, 2**30); "
        "print(process.decode(pathlib.Path(sys.argv[1]).read_bytes(), 'PNG', 10**6).pixels.shape); "
        "process.end()"
    )

    assert shipped.run(path, python=("-P", "-c", code)) == "(28, 28, 3)\n"


def test_ctrl_c_says_what_is_there_and_how_to_go_on(shipped: CommandLine, narrow: Narrow) -> None:
    photos = shipped.folder / "photos"
    photos.mkdir()
    for name in ("bag.png", "ankle-boot.png"):
        (photos / name).write_bytes((PICTURES_FOLDER / name).read_bytes())
    into = ("--into", "drawers", "--apply")
    shipped.run("sort", "photos", *into, "--server", narrow.url, "--api-key", narrow.api_key)
    (photos / "new.png").write_bytes(save(garment(30, 40), "PNG"))

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = shipped.start("sort", "photos", *into, "--server", url)
        with process, silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LONGEST_SECONDS)

    assert process.returncode == 130, err
    assert err.splitlines()[-1] == (
        f"Stopped: {shipped.folder / 'wardrobe-photos.csv'} has answers for 2 files, 2 files are in "
        f"{shipped.folder / 'drawers'}. Give the same command again to go on."
    )


def test_the_installed_command_is_that_of_the_module() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    assert project["scripts"] == {"wardrobe": "app.cli.commands:main"}


def test_to_serve_no_command_line_is_imported(shipped: CommandLine) -> None:
    code = "import sys, app.__main__, app.serve; print({'typer', 'rich', 'httpx', 'app.cli'} & set(sys.modules))"

    assert shipped.run(python=("-c", code)) == "set()\n"
