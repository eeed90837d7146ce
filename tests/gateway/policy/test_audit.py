"""The record: every line follows the one before, over rotation, restart and a crash; whatever is touched shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.policy.audit import AuditError, AuditLog, AuditSettings, numbered, verify


def write(path: Path, count: int, **settings: int) -> None:
    """Some records."""
    log = AuditLog(AuditSettings(path, **settings))
    for number in range(count):
        assert log.record({"request_id": f"r{number}", "action": "block"})
    log.close()
    assert log.lost == 0


def test_lines_follow_each_other(tmp_path: Path) -> None:
    """Over a restart too; a line is JSON with what was recorded."""
    path = tmp_path / "folder" / "audit.jsonl"
    write(path, 3)
    write(path, 2)
    assert verify(path).lines == 5
    assert verify(path).broken is None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["request_id"] for line in lines] == ["r0", "r1", "r2", "r0", "r1"]
    assert lines[0]["previous"] == "0" * 64


def test_workers_write_one_chain(tmp_path: Path) -> None:
    """Over rotations too, whoever does them."""
    path = tmp_path / "audit.jsonl"
    logs = [AuditLog(AuditSettings(path, max_bytes=2000, max_files=100)) for _ in range(3)]
    for number in range(100):
        for worker, log in enumerate(logs):
            assert log.record({"worker": worker, "number": number})
        time.sleep(0.001)
    for log in logs:
        log.close()
    assert (verify(path).lines, verify(path).broken) == (300, None)
    assert numbered(path, 3).exists()


def test_rotation(tmp_path: Path) -> None:
    """The chain goes on from file to file; the oldest files go."""
    path = tmp_path / "audit.jsonl"
    write(path, 200, max_bytes=2000, max_files=3)
    assert numbered(path, 3).exists()
    assert not numbered(path, 4).exists()
    assert all(each.stat().st_size <= 2000 for each in tmp_path.iterdir())
    report = verify(path)
    assert report.broken is None
    assert 20 < report.lines < 200
    write(path, 1, max_bytes=2000, max_files=3)
    assert verify(path).broken is None


@pytest.mark.parametrize("harm", ["changed", "removed", "moved", "emptied"])
def test_what_is_touched_shows(tmp_path: Path, harm: str) -> None:
    """With file and line of the first that does not fit."""
    path = tmp_path / "audit.jsonl"
    write(path, 6)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if harm == "changed":
        lines[2] = lines[2].replace("block", "allow")
    elif harm == "removed":
        del lines[2]
    elif harm == "moved":
        lines[2], lines[3] = lines[3], lines[2]
    else:
        lines[2] = "{}\n"
    path.write_text("".join(lines), encoding="utf-8")
    assert (verify(path).broken or "").startswith(f"audit.jsonl:{4 if harm == 'changed' else 3}: ")


def test_a_crash_leaves_a_chain(tmp_path: Path) -> None:
    """Killed while it writes; a line that was cut off is removed and noted, and the chain goes on."""
    path = tmp_path / "audit.jsonl"
    code = (
        "import sys\nfrom pathlib import Path\nfrom gateway.policy.audit import AuditLog, AuditSettings\n"
        "log = AuditLog(AuditSettings(Path(sys.argv[1])))\nwhile True:\n    log.record({'x': 'y' * 500})\n"
    )
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)])
        size = path.stat().st_size if path.exists() else 0
        while not path.exists() or path.stat().st_size < size + 20_000:
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    with path.open("ab") as file:
        file.write(b'{"half": "a li')
    write(path, 1)
    assert verify(path).broken is None
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[-2])["event"] == "cut_off_line_removed"


FULL_DISK = """
import resource, sys, time
from pathlib import Path
from gateway.policy.audit import AuditLog, AuditSettings, verify
path, (_, hard) = Path(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
log = AuditLog(AuditSettings(path))
taken = 0
while log.record({"number": taken}):
    taken += 1
    time.sleep(0.001)
assert log.broken and log.lost == 1 and 5 < taken, taken
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
while log.broken:
    time.sleep(0.01)
assert log.record({"number": taken})
log.close()
report, lines = verify(path), path.read_text().splitlines()
assert (sum("number" in each for each in lines), report.broken, log.lost) == (taken + 1, None, 1), report
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """Whoever asks then hears that nothing is recorded; with room again, what was taken is written and the chain
    holds."""
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "audit.jsonl")], check=True, timeout=60)


def test_a_rotation_that_fails(tmp_path: Path) -> None:
    """Nothing is recorded meanwhile, and it goes on once the rotation is possible."""
    path = tmp_path / "audit.jsonl"
    numbered(path, 2).mkdir()
    numbered(path, 2).joinpath("in the way").touch()
    log = AuditLog(AuditSettings(path, max_bytes=1000, max_files=2))
    taken = 0
    while log.record({"number": taken}):
        taken += 1
        time.sleep(0.001)
    assert log.broken
    numbered(path, 2).rename(tmp_path / "elsewhere")
    while log.broken:
        time.sleep(0.01)
    assert log.record({"number": "last"})
    log.close()
    assert verify(path).broken is None
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["number"] == "last"


def test_one_record_that_is_none(tmp_path: Path) -> None:
    """It is lost and counted; the others are written, half a character among them."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(AuditSettings(path))
    for entry in ({"tenant": "\ud83d"}, {"odd": object()}, {"tenant": "b"}):
        log.record(entry)
    log.close()
    assert [json.loads(line)["tenant"] for line in path.read_text(encoding="utf-8").splitlines()] == ["\ud83d", "b"]
    assert (log.lost, verify(path).broken) == (1, None)


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match=r"file/audit\.jsonl cannot be written"):
        AuditLog(AuditSettings(tmp_path / "file" / "audit.jsonl"))
    with pytest.raises(AuditError, match="does not exist"):
        verify(tmp_path / "none")
