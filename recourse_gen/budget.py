"""What a network may cost to make, when all that is known of it comes from a file that anybody may have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recourse_gen.schema import Schema

_COLUMNS, _LEVELS, _PAIRS = 4096, 2**24, 2**28  # of a schema: columns, columns × levels, levels × coordinates
_OPTION, _WIDE = 2**16, 2**23  # a whole number among the options, and that × columns
_SPARE, _LEAST = 2**24, 1024  # cells that any network may make, and what each tensor counts at least


def check_schema(schema: Schema) -> None:
    """Raise ValueError for a schema whose tables of levels would not fit into memory."""
    sizes = [len(feature.levels) for feature in schema.tokens]
    columns, largest = len(schema.features), max(sizes, default=1)
    if columns > _COLUMNS or columns * largest > _LEVELS or _pairs(schema) > _PAIRS:
        longest = max(schema.features, key=lambda feature: len(feature.levels)).name
        raise ValueError(
            f"{columns} columns of up to {largest} levels are more than a generator can have: column {longest!r} has "
            "the most, drop it or merge its rare values"
        )


def check_network(schema: Schema, options: Mapping[str, Any]) -> None:
    """`check_schema`, and raise ValueError, naming the option of the backbone, for whole numbers that no network has as
    its width, depth or the like."""
    check_schema(schema)
    _check_options(options, len(schema.features), "backbone")


def _check_options(options: Any, columns: int, name: str) -> None:
    if isinstance(options, Mapping):
        for key, value in options.items():
            _check_options(value, columns, f"{name}.{key}")
    elif isinstance(options, (list, tuple)):
        for value in options:
            _check_options(value, columns, name)
    elif isinstance(options, int) and (abs(options) > _OPTION or abs(options) * columns > _WIDE):
        raise ValueError(f"{name}={options} is more than a network can have")


class Budget(TorchDispatchMode):
    """Inside, tensors are made only up to what a network of so many weights needs, or a ValueError is raised.

    weights: numbers in the file of the weights. The same once more for what initialisation needs, tables of constants
    and the like, some thirty times over, is still enough.
    """

    def __init__(self, weights: int, schema: Schema) -> None:
        super().__init__()
        self.left = _SPARE + 32 * weights + 8 * _pairs(schema)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(argument.name == "device" for argument in func._schema.arguments):
            # It makes a tensor: of what size, is found out where none takes memory.
            made = func(*args, **{**kwargs, "device": torch.device("meta")})
            self.left -= max(made.numel(), _LEAST)
            if self.left < 0:
                raise ValueError("the network that is described is far larger than its weights")
        return func(*args, **kwargs)


def _pairs(schema: Schema) -> int:
    """Cells of the table of all levels' coordinates that costs are computed from."""
    sizes = [len(feature.levels) for feature in schema.tokens]
    widths = [1 if f.kind == "ordinal" or len(f.levels) <= 2 else len(f.levels) for f in schema.tokens]
    return sum(sizes) * sum(widths)
