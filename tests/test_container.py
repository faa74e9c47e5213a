"""The compose project, in a real Docker engine: what is in the image, what the container may do, how it stops.

The project is built and brought up under a name and port of its own, and taken down afterwards. With BASE_URL and
SERVICE set, the project that COMPOSE_PROJECT_NAME names is up already and stays up.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.process import WARDROBE_VERSIONS
from training.__main__ import DEFAULT_RUN
from training.fit import CHECKPOINT_NAME

ROOT = Path(__file__).parent.parent
SERVICE = os.environ.get("SERVICE", "wardrobe")
IS_UP = "BASE_URL" in os.environ
ENVIRONMENT = os.environ if IS_UP else os.environ | {"COMPOSE_PROJECT_NAME": "wardrobe-test", "WARDROBE_PORT": "0"}


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def compose(*arguments: str) -> str:
    """What `docker compose` prints on standard output; the end of its complaint if it fails."""
    done = docker("compose", *arguments)
    if done.returncode != 0:
        pytest.fail(
            f"docker compose {' '.join(arguments)}: {done.stdout[-1000:]}\n{done.stderr[-2000:]}", pytrace=False
        )
    return done.stdout.strip()


def in_container(code: str) -> str:
    """What Python code prints inside the running service."""
    return compose("exec", "--no-TTY", SERVICE, "python", "-c", code)


def base_url() -> str:
    return f"http://{compose('port', SERVICE, '8000')}"


@pytest.fixture(scope="module")
def container_id() -> Iterator[str]:
    """The healthy service's container."""
    if shutil.which("docker") is None or docker("version").returncode or docker("compose", "version").returncode:
        pytest.skip("no Docker engine with compose answers")
    if IS_UP:
        yield compose("ps", "--quiet", SERVICE)
        return
    try:
        compose("up", "--build", "--detach", "--wait")
        yield compose("ps", "--quiet", SERVICE)
    finally:
        compose("down", "--volumes")


@pytest.mark.container
@pytest.mark.usefixtures("container_id")
class TestService:
    def test_it_predicts(self) -> None:
        picture = (ROOT / "tests" / "data" / "ankle-boot.png").read_bytes()

        answer = httpx.post(f"{base_url()}/predict", content=picture, headers={"Content-Type": "image/png"}).json()

        assert answer["predictions"][0]["label"] == "Ankle boot"

    def test_it_is_reachable_from_this_machine_only(self) -> None:
        assert base_url().startswith("http://127.0.0.1:")

    def test_its_process_has_no_rights(self) -> None:
        """Process 1 is the service; a set-user-id file would not give it more."""
        status = dict(
            re.findall(r"^(\w+):\s*(.*)$", in_container("print(open('/proc/1/status').read())"), re.MULTILINE)
        )

        assert status["Name"] == "python"
        assert "0" not in status["Uid"].split() + status["Gid"].split()
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"

    @pytest.mark.parametrize("folder", ["/", "/wardrobe", "/opt/venv"])
    def test_not_even_root_can_write(self, folder: str) -> None:
        done = docker("compose", "exec", "--no-TTY", "--user", "0", SERVICE, "touch", f"{folder}/written")

        assert "Read-only file system" in done.stderr

    def test_its_memory_processors_and_processes_are_limited(self, container_id: str) -> None:
        limits = docker(
            "inspect",
            "--format",
            "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}",
            container_id,
        ).stdout

        assert all(int(limit) > 0 for limit in limits.split())

    @pytest.mark.parametrize("package", ["training", "torchvision", "matplotlib", "onnx", "pip", "pytest"])
    def test_the_image_lacks(self, package: str) -> None:
        assert in_container(f"import importlib.util; print(importlib.util.find_spec({package!r}))") == "None"

    def test_the_image_has_no_compiler(self) -> None:
        assert in_container("import shutil; print(shutil.which('cc'), shutil.which('gcc'))") == "None None"

    def test_stopped_under_load_it_answers_what_it_took_and_it_starts_again(self, container_id: str) -> None:
        """The last test: it stops what the others talk to. Compose kills after stop_grace_period, which gives 137.

        What the service took is in its log; what Docker took for it, and could not hand on any more, is not.
        """
        picture = (ROOT / "tests" / "data" / "ankle-boot.png").read_bytes()

        def num_logged() -> int:
            lines = docker("logs", container_id).stderr.splitlines()
            return sum(entry.get("path") == "/predict" for entry in map(json.loads, lines))

        def ask_until_it_stops(url: str) -> list[int]:
            statuses = []
            with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=url, timeout=60) as client:
                while True:
                    statuses.append(client.post("/predict", content=picture).status_code)
            return statuses

        before = num_logged()
        with ThreadPoolExecutor() as pool:
            clients = [pool.submit(ask_until_it_stops, base_url()) for _ in range(8)]
            while num_logged() < before + 100:
                pass
            compose("stop", SERVICE)
            statuses = [status for client in clients for status in client.result()]
        exit_code = docker("inspect", "--format", "{{.State.ExitCode}}", container_id).stdout.strip()
        logged = num_logged() - before
        compose("up", "--no-build", "--no-recreate", "--detach", "--wait", SERVICE)

        assert exit_code == "0"
        assert set(statuses) == {200}
        assert len(statuses) == logged
        assert compose("ps", "--quiet", SERVICE) == container_id
        assert httpx.get(f"{base_url()}/health/ready").status_code == 200


@pytest.mark.container
@pytest.mark.usefixtures("container_id")
def test_the_models_of_the_image_are_in_the_volume_and_those_that_were_there_stay() -> None:
    """A version of the volume is damaged, and one is taken away; the next start brings back what is absent alone."""
    report = f"wardrobe/{WARDROBE_VERSIONS[0]}/report.html"
    damage = "import pathlib, shutil; models = pathlib.Path('/models');"
    damage += f"shutil.rmtree(models / 'fashion-mnist'); (models / '{report}').write_text('mine')"
    look = "import pathlib; models = pathlib.Path('/models'); print((models / 'fashion-mnist/1/card.json').is_file(),"
    look += f"(models / '{report}').read_text())"

    in_container(damage)
    compose("restart", SERVICE)

    assert in_container(look) == "True mine"


@pytest.mark.container
@pytest.mark.usefixtures("container_id")
def test_what_is_in_the_image_is_listed(tmp_path: Path) -> None:
    variant = os.environ.get("WARDROBE_VARIANT", "torch")
    installed = in_container("import fastapi; print(fastapi.__version__)")

    done = docker("build", "--target=sbom", f"--build-arg=VARIANT={variant}", f"--output={tmp_path}", ".")

    assert done.returncode == 0, done.stderr[-2000:]
    components = json.loads((tmp_path / "sbom.cdx.json").read_text())["components"]
    assert ("fastapi", installed) in {(it["name"], it["version"]) for it in components}
    assert not {"pip", "cyclonedx-bom"} & {it["name"] for it in components}


@pytest.mark.container
@pytest.mark.usefixtures("container_id")
def test_training_writes_as_the_owner_of_the_models(tmp_path: Path) -> None:
    """A network of a few weights, so that one epoch takes seconds."""
    data = Path(os.environ.get("FASHION_MNIST_DIR") or "/usr/share/datasets/fashion-mnist")
    if not data.is_dir():
        pytest.skip("needs Fashion-MNIST in $FASHION_MNIST_DIR or from the package dataset-fashion-mnist")
    models, runs = tmp_path / "models", tmp_path / "runs"
    models.mkdir()
    if os.getuid() == 0:
        os.chown(models, 1234, 1234)
    volumes = [
        f"--volume={models}:/wardrobe/models",
        f"--volume={runs}:/wardrobe/runs",
        f"--volume={data}:/fashion-mnist:ro",
    ]
    fit = ["fit", "--epochs=1", "--widths=4,4", "--blocks=1,1", "--batch-size=1000"]

    compose("--profile", "train", "build", "train")
    compose(
        "run",
        "--rm",
        "--no-TTY",
        *volumes,
        "--env=FASHION_MNIST_DIR=/fashion-mnist",
        "--env=OMP_NUM_THREADS=1",
        "train",
        *fit,
    )

    checkpoint = runs / DEFAULT_RUN.name / CHECKPOINT_NAME
    assert checkpoint.stat().st_uid == models.stat().st_uid
