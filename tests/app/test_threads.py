"""available_cpus(): the smaller of affinity and quota."""

import os
from pathlib import Path

import pytest

from app.inference.threads import available_cpus

AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [
        ("100000 100000", 1),
        ("50000 100000", 1),  # half a CPU still needs a thread
        ("1000 100000", 1),
        ("150000 100000", min(2, AFFINITY)),
        ("99999900000 100000", AFFINITY),
        ("max 100000", AFFINITY),
        ("nonsense", AFFINITY),
        ("", AFFINITY),
    ],
)
def test_cgroup_v2(tmp_path: Path, cpu_max: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max + "\n")

    assert available_cpus(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota_us", "expected"),
    [("100000", 1), ("25000", 1), ("150000", min(2, AFFINITY)), ("-1", AFFINITY), ("nonsense", AFFINITY)],
)
def test_cgroup_v1(tmp_path: Path, quota_us: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota_us + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")

    assert available_cpus(tmp_path) == expected


def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == AFFINITY


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= available_cpus() <= AFFINITY
