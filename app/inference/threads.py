"""How many CPUs this process may use: a container's quota is invisible to os.cpu_count()."""

import math
import os
from pathlib import Path

CGROUP_FOLDER = Path("/sys/fs/cgroup")


def available_cpus(cgroup_folder: Path = CGROUP_FOLDER) -> int:
    """The smaller of the CPU affinity and the cgroup quota (v2 or v1), at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(cgroup_folder)
    return max(1, min(affinity, math.ceil(quota))) if quota else affinity


def _cgroup_quota(folder: Path) -> float | None:
    """CPUs' worth of time per period, or None where there is no limit."""
    try:
        if (v2 := folder / "cpu.max").exists():
            quota, period = v2.read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota_us = int((folder / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu" / "cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError):
        return None
