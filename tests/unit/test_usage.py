"""What a site takes on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from pilot.data.usage import Usage, measure

KIB = 1024


def write(path: Path, kib: int) -> int:
    """Write a file, and return what it takes on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(kib * KIB))
    return path.stat().st_blocks * 512


def test_each_file_counts_once_where_it_belongs(tmp_path: Path) -> None:
    database = write(tmp_path / "tasks.db", 8) + write(tmp_path / "tasks.db-wal", 4)
    first = write(tmp_path / "results/1/a.h5", 64) + write(tmp_path / "results/1/b.h5", 8)
    second = write(tmp_path / "results/12/a.h5", 4)
    saved = write(tmp_path / "checkpoints/12/3/save.h5", 16)
    logs = write(tmp_path / "logs/pilot-1/executor-1.out", 4)
    other = write(tmp_path / "wire/1/in", 4) + write(tmp_path / "site.yaml", 1)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/link").symlink_to(tmp_path / "results")  # is not followed
    linked = (tmp_path / "jobs/link").lstat().st_blocks * 512
    found = measure(tmp_path)
    assert found.parts == {
        "database": Usage(database, 2),
        "results": Usage(first + second, 3),
        "checkpoints": Usage(saved, 1),
        "logs": Usage(logs, 1),
        "jobs": Usage(linked, 1),
        "other": Usage(other, 2),
    }
    assert found.sessions == {
        1: {"results": Usage(first, 2)},
        12: {"results": Usage(second, 1), "checkpoints": Usage(saved, 1)},
    }


def test_what_is_not_there_takes_nothing(tmp_path: Path) -> None:
    found = measure(tmp_path / "away")
    assert not any(part.files for part in found.parts.values()) and not found.sessions
