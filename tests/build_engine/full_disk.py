"""Run in a mount namespace of its own (``unshare``): a version is published on a small file system, which is then
filled; the same build again has to fail. What was found goes to stdout as JSON.

    full_disk.py FOLDER FREE_BYTES KEEP_WORK COMMAND...
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.build_engine.test_publishing import tree


def main() -> None:
    """``FOLDER/models/repository`` and ``FOLDER/work`` are where COMMAND writes."""
    folder, free, keep, *command = sys.argv[1:]
    root = Path(folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    before = tree(root / "models")
    if keep == "no":
        shutil.rmtree(root / "work")
    fill(root / "filler", int(free))
    ended = subprocess.run([*command, "--force"], check=False, capture_output=True, text=True)
    left = [str(path) for path in (*root.glob("models/.tidegate-*"), *root.glob("work/*.part"))]
    found = {"status": ended.returncode, "stdout": ended.stdout, "stderr": ended.stderr, "left": left}
    print(json.dumps(found | {"unchanged": tree(root / "models") == before}))


def fill(file: Path, free: int) -> None:
    """Take all the room there is, and give ``free`` bytes back."""
    with file.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(1 << 16)):
                pass
        except OSError:
            stream.truncate(stream.tell() - free)


if __name__ == "__main__":
    main()
