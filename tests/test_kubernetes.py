"""deploy/kubernetes against the schemas of Kubernetes, and what no schema knows: labels, ports, settings, probes.

Nothing is deployed: there is no cluster here. kubectl builds, by the kustomize that is in it.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from app.artifact import Artifact
from app.metrics import Metrics
from app.settings import Settings
from tests.process import REPOSITORY, small_service

FOLDER = REPOSITORY / "deploy" / "kubernetes"
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
VERSIONS = ("1.30", "1.37")  # the oldest that knows all fields, and the newest that the package has
DIGEST = "ab" * 32
QUEUE = "wardrobe_queue_images"

Manifest = dict[str, Any]


def build(folder: Path) -> dict[str, Manifest]:
    """What `kubectl apply -k` would send, by kind."""
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}


@pytest.fixture(scope="module")
def manifests() -> dict[str, Manifest]:
    return build(FOLDER)


@pytest.fixture(scope="module")
def pod(manifests: dict[str, Manifest]) -> Manifest:
    template: Manifest = manifests["Deployment"]["spec"]["template"]
    return template


@pytest.fixture(scope="module")
def container(pod: Manifest) -> Manifest:
    (container,) = pod["spec"]["containers"]
    return container


def environment(container: Manifest) -> dict[str, str]:
    """With a digest in place of the Secret."""
    return {it["name"]: it.get("value", DIGEST) for it in container["env"]}


@pytest.fixture(scope="module")
def client(
    container: Manifest, artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Generator[httpx.Client, None, None]:
    """Of a service with the environment that the container has."""
    settings = {name.removeprefix("WARDROBE_"): value for name, value in environment(container).items()}
    with small_service(artifact, tmp_path_factory.mktemp("kubernetes") / "log", **settings) as (_, client):
        yield client


def test_what_is_deployed_is_complete(manifests: dict[str, Manifest]) -> None:
    assert manifests.keys() == {
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "HorizontalPodAutoscaler",
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_each_object(manifests: dict[str, Manifest], version: str) -> None:
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found(manifests: dict[str, Manifest]) -> None:
    service = manifests["Service"]
    wrong = service | {"spec": service["spec"] | {"selectors": {}}}

    with pytest.raises(kubernetes_validate.ValidationError, match="selectors"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_readmes_kustomization_puts_image_and_namespace_in(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)
    shutil.copytree(REPOSITORY / "deploy", tmp_path / "deploy")
    (tmp_path / "my-cluster").mkdir()
    (tmp_path / "my-cluster" / "kustomization.yaml").write_text(text)

    built = build(tmp_path / "my-cluster")

    (container,) = built["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.org/wardrobe:slim-1"
    assert {manifest["metadata"]["namespace"] for manifest in built.values()} == {"wardrobe"}


def test_every_selector_finds_the_pods(manifests: dict[str, Manifest], pod: Manifest) -> None:
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    selectors = [
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ]

    assert all(selector and selector.items() <= pod["metadata"]["labels"].items() for selector in selectors)


def test_every_port_is_the_one_that_the_image_listens_on(manifests: dict[str, Manifest], container: Manifest) -> None:
    (port,) = container["ports"]
    probes = [container[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "liveness", "readiness")]
    service = [it["targetPort"] for it in manifests["Service"]["spec"]["ports"]]
    (rule,) = manifests["NetworkPolicy"]["spec"]["ingress"]

    assert {*probes, *service, *(it["port"] for it in rule["ports"])} == {port["name"]}
    assert f"EXPOSE {port['containerPort']}\n" in DOCKERFILE
    assert f"WARDROBE_PORT={port['containerPort']} " in DOCKERFILE


def test_every_variable_is_a_setting_with_which_it_starts(container: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(container).items():
        assert name.removeprefix("WARDROBE_").lower() in Settings.model_fields
        monkeypatch.setenv(name, value)

    settings = Settings(host="0.0.0.0")  # the image's

    assert settings.api_key_sha256 == (DIGEST,)
    assert not settings.keeps_items


def test_without_the_secret_no_pod_starts(container: Manifest) -> None:
    (keys,) = [it["valueFrom"]["secretKeyRef"] for it in container["env"] if "valueFrom" in it]

    assert not keys.get("optional")


def test_the_services_name_does_not_become_a_setting(manifests: dict[str, Manifest], pod: Manifest) -> None:
    """Kubernetes tells every pod of every service by variables, unless it is told not to: WARDROBE_PORT=tcp://..."""
    assert f"{manifests['Service']['metadata']['name']}_port".upper() == "WARDROBE_PORT"
    assert pod["spec"]["enableServiceLinks"] is False


def test_a_pod_is_confined(pod: Manifest, container: Manifest) -> None:
    """As Kubernetes' Pod Security Standard `restricted` wants it, and more."""
    security, confined = pod["spec"]["securityContext"], container["securityContext"]

    assert security["runAsNonRoot"]
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}\n" in DOCKERFILE
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert confined == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert [it["mountPath"] for it in container["volumeMounts"]] == ["/tmp"]
    assert container["resources"]["limits"].keys() == container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_an_update_takes_no_replica_away_and_leaves_time_to_answer(
    manifests: dict[str, Manifest], pod: Manifest, container: Manifest
) -> None:
    rolling = manifests["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    answering = int(environment(container)["WARDROBE_SHUTDOWN_TIMEOUT_SECONDS"])

    assert rolling["maxUnavailable"] == 0
    assert rolling["maxSurge"] > 0
    assert sleep > 0
    assert pod["spec"]["terminationGracePeriodSeconds"] > sleep + answering


def test_it_scales_by_a_metric_that_the_service_has(manifests: dict[str, Manifest]) -> None:
    autoscaler, deployment = manifests["HorizontalPodAutoscaler"]["spec"], manifests["Deployment"]
    (metric,) = autoscaler["metrics"]
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter-rules.yaml").read_text())["rules"]

    assert autoscaler["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"], "each update would put the number back"
    assert autoscaler["minReplicas"] > manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"]
    assert metric["pods"]["metric"]["name"] == QUEUE
    assert rule["seriesQuery"].startswith(f"{QUEUE}{{")
    assert QUEUE in {it.name for it in Metrics().registry.collect()}
    assert int(metric["pods"]["target"]["averageValue"]) < Settings.model_fields["max_queue_images"].default


@pytest.mark.parametrize("probe", ["startup", "liveness", "readiness"])
def test_a_probe_is_answered_without_a_key(client: httpx.Client, container: Manifest, probe: str) -> None:
    asked = container[f"{probe}Probe"]["httpGet"]

    assert client.get(asked["path"]).status_code == 200
    assert client.post("/predict").status_code == 401
