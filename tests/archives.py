"""Files of skops, altered by hand."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Contents = dict[str, bytes]


def alter(path: Path, change: Callable[[Contents], Any]) -> None:
    """Let `change` edit the entries of an archive."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def edit_arrays(field: str, change: Callable[[np.ndarray], Any]) -> Callable[[Contents], None]:
    """A change of all structured arrays that have such a field."""

    def edit(contents: Contents) -> None:
        for name in [name for name in contents if name.endswith(".npy")]:
            array = np.load(io.BytesIO(contents[name]))
            if field in (array.dtype.names or ()) and len(array) > 1:
                change(array)
                buffer = io.BytesIO()
                np.save(buffer, array)
                contents[name] = buffer.getvalue()

    return edit


def edit_schema(change: Callable[[dict[str, Any]], Any]) -> Callable[[Contents], None]:
    """A change of schema.json, the tree of objects."""

    def edit(contents: Contents) -> None:
        tree = json.loads(contents["schema.json"])
        change(tree)
        contents["schema.json"] = json.dumps(tree).encode()

    return edit


def doubled(depth: int) -> dict[str, Any]:
    """Lists of two, each the same list of two, and so on, by naming objects: 2 to the `depth` in a few lines."""
    node: dict[str, Any] = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": "1"}
    node |= {"is_json": True, "__id__": 0}
    for level in range(1, depth):
        again = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "__id__": level - 1}
        node = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": [node, again]}
        node["__id__"] = level
    return node
