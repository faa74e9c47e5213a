"""docker-compose.yml as Docker Compose reads it, the lock of the images, and what Prometheus and Grafana are told.

Nothing is built or started; tests/test_container.py does that where there is a Docker engine.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from app.settings import Settings
from tests.process import REPOSITORY

MONITORING = REPOSITORY / "monitoring"
OWN = ("wardrobe", "train")
OTHERS = ("prometheus", "grafana")


def read(**variables: str) -> dict[str, Any]:
    """The project with all its profiles, given these variables and none of this environment's."""
    command = [str(Path(sys.executable).with_name("docker-compose")), "--profile", "*", "config", "--format", "json"]
    environment = {"PATH": os.environ["PATH"], "COMPOSE_DISABLE_ENV_FILE": "true"} | variables
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""  # it would name variables without a value
    project: dict[str, Any] = json.loads(done.stdout)
    return project


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return read()


def mounts(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is mounted, by the place where it is."""
    return {mount["target"]: mount for mount in service["volumes"]}


@pytest.mark.parametrize("name", [*OWN, *OTHERS])
def test_every_service_is_confined(project: dict[str, Any], name: str) -> None:
    service = project["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"] == {"driver": "local"}
    assert any(it.startswith("/tmp:size=") for it in service["tmpfs"])
    assert int(service["mem_limit"]) >= 2**28
    assert service["pids_limit"] > 0
    assert "privileged" not in service


@pytest.mark.parametrize("name", ["wardrobe", *OTHERS])
def test_what_stays_up_is_no_root_and_has_limits_and_only_loopback(project: dict[str, Any], name: str) -> None:
    service = project["services"][name]

    assert not service["user"].startswith(("0:", "root"))
    assert "cap_add" not in service
    assert service["cpus"] > 0
    assert service["restart"] == "unless-stopped"
    assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]


def test_without_a_profile_there_is_only_the_service(project: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles") for name, service in project["services"].items()}

    assert profiles == {
        "wardrobe": None,
        "train": ["train"],
        "prometheus": ["observability"],
        "grafana": ["observability"],
    }


def test_models_and_items_are_in_volumes_and_training_adds_to_the_models(project: dict[str, Any]) -> None:
    service, train = (mounts(project["services"][name]) for name in OWN)

    assert {target: (it["type"], it["source"]) for target, it in service.items()} == {
        "/data": ("volume", "items"),
        "/models": ("volume", "models"),
    }
    assert train["/wardrobe/models"]["source"] == "models"
    assert set(project["volumes"]) == {"items", "models", "prometheus"}


def test_every_setting_can_be_given_to_compose(project: dict[str, Any]) -> None:
    """Address, port and folders are the image's own."""
    passed_on = {name.removeprefix("WARDROBE_") for name in project["services"]["wardrobe"]["environment"]}

    assert passed_on == {name.upper() for name in Settings.model_fields} - {"HOST", "PORT", "DATA_DIR"}


def settings_in_the_container(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    """With the environment that compose gives and the address of the image."""
    environment = read(**variables)["services"]["wardrobe"]["environment"]
    for name in Settings.model_fields:
        monkeypatch.delenv(f"WARDROBE_{name.upper()}", raising=False)
    for name, value in environment.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    return Settings(host="0.0.0.0")


def test_on_loopback_it_is_open_and_keeps_items(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in_the_container(monkeypatch)

    assert not settings.api_key_sha256
    assert not settings.allow_anonymous
    assert settings.keeps_items


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.5", "[::]"])
def test_beyond_loopback_it_starts_only_with_a_key(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    with pytest.raises(ValueError, match="make a key with 'wardrobe key'"):
        settings_in_the_container(monkeypatch, WARDROBE_BIND=address)

    assert settings_in_the_container(monkeypatch, WARDROBE_BIND=address, WARDROBE_API_KEY_SHA256="ab" * 32).keeps_items


@pytest.mark.parametrize("name", OTHERS)
def test_images_from_elsewhere_are_checked_by_digest(project: dict[str, Any], name: str) -> None:
    assert re.fullmatch(r"[\w/]+:v?[\d.]+@sha256:[0-9a-f]{64}", project["services"][name]["image"])


def test_every_requirement_of_the_image_is_locked() -> None:
    """`make lock` writes it anew."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lock = (REPOSITORY / "requirements.lock").read_text()
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w-]+)==(\S+)", lock, re.MULTILINE):
        locked.setdefault(name, []).append(version)

    for line in project["dependencies"] + project["optional-dependencies"]["postgresql"]:
        wanted = Requirement(line)
        assert locked.get(wanted.name), line
        assert all(wanted.specifier.contains(version) for version in locked[wanted.name]), line
    assert "://" not in lock


def test_prometheus_asks_the_service_where_compose_puts_it(project: dict[str, Any]) -> None:
    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    prometheus = project["services"]["prometheus"]

    assert job["static_configs"] == [{"targets": [f"wardrobe:{project['services']['wardrobe']['ports'][0]['target']}"]}]
    assert f">{job['authorization']['credentials_file']}\n" in prometheus["entrypoint"][-1]
    assert mounts(prometheus)["/etc/prometheus/prometheus.yml"]["source"] == str(MONITORING / "prometheus.yml")


def test_grafana_finds_the_dashboard_and_its_data(project: dict[str, Any]) -> None:
    provisioning = MONITORING / "grafana-provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "wardrobe.yml").read_text())["providers"]
    grafana, prometheus = (project["services"][name] for name in ("grafana", "prometheus"))
    (chosen,) = json.loads((MONITORING / "grafana-dashboard.json").read_text())["templating"]["list"]

    assert source["url"] == f"http://prometheus:{prometheus['ports'][0]['target']}"
    assert (source["type"], source["isDefault"]) == (chosen["query"], True)
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(provider["options"]["path"])
    assert mounts(grafana)[home]["source"] == str(MONITORING / "grafana-dashboard.json")
    assert mounts(grafana)["/etc/grafana/provisioning"]["source"] == str(provisioning)
    assert all(mount["read_only"] for mount in grafana["volumes"])


def test_nobody_logs_in_to_grafana(project: dict[str, Any]) -> None:
    """There is no password that would be everybody's: who reaches it may look, and no more."""
    environment = project["services"]["grafana"]["environment"]

    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
