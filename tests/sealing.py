"""Run folders that were altered by somebody who knows how they are sealed."""

import hashlib
import json
from pathlib import Path


def reseal(folder: Path) -> None:
    """Let metrics.json say that the files are meant to be what they are now."""
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    for name in metrics["files"]:
        if (folder / name).is_file() and (folder / name).stat().st_size < 2**30:
            metrics["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(metrics))
