"""Backbones by name, found through the entry-point group ``recourse_gen.backbones``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch

from recourse_gen.backbone import Backbone
from recourse_gen.budget import check_network
from recourse_gen.contract import check_class, check_module
from recourse_gen.options import construct
from recourse_gen.processes import ALONE
from recourse_gen.schema import Schema

GROUP = "recourse_gen.backbones"


def _entries() -> dict[str, dict[str, EntryPoint]]:
    """What is installed, by name and then by target."""
    # An editable install can list the same entry point twice; only different targets are a collision.
    entries: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        entries.setdefault(entry.name, {})[entry.value] = entry
    return entries


def names() -> list[str]:
    """Registered backbone names, sorted."""
    return sorted(_entries())


def origin(name: str) -> str:
    """Where the backbone `name` comes from: ``module:class (package version)``. Raises ValueError if there is none,
    or more than one."""
    entry = _entry(name)
    package = f" ({entry.dist.name} {entry.dist.version})" if entry.dist is not None else ""
    return entry.value + package


def load(name: str) -> type[Backbone]:
    """The backbone class registered as `name`.

    Raises ValueError, listing what exists, if there is none, and for one that two packages register, or that cannot be
    imported or called as backbones are.
    """
    entry = _entry(name)
    try:
        backbone = entry.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the entry point {name!r} ({entry.value}) cannot be loaded: {error}") from error
    if not (isinstance(backbone, type) and issubclass(backbone, Backbone)):
        raise ValueError(f"the entry point {name!r} ({entry.value}) is not a recourse_gen.backbone.Backbone class")
    check_class(backbone)
    return backbone


def build(cls: type[Backbone], schema: Schema, options: Mapping[str, Any], seed: int) -> Backbone:
    """A backbone with weights fixed by the seed, in float32; the process's own random state and dtype are left as they
    were, and other threads that build or train wait.

    Raises ValueError for options that the class does not take, and for a class that does not initialise `Backbone`.
    """
    check_network(schema, options)
    with ALONE, torch.random.fork_rng(devices=[]):
        dtype = torch.get_default_dtype()
        torch.default_generator.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            model = construct(cls, "backbone", options, schema)
        except AttributeError as error:
            if "before Module.__init__() call" not in str(error):
                raise
            raise ValueError(f"{cls.__name__}.__init__ must call super().__init__(schema) first") from error
        finally:
            torch.set_default_dtype(dtype)
    check_module(model)
    return model


def _entry(name: str) -> EntryPoint:
    entries = _entries()
    if not isinstance(name, str) or name not in entries:
        known = ", ".join(sorted(entries)) or "none; install the package, e.g. pip install -e ."
        raise ValueError(f"unknown backbone {name!r}; registered are: {known}")
    targets = sorted(entries[name])
    if len(targets) > 1:
        raise ValueError(f"two installed packages register the backbone {name!r}: {' and '.join(targets)}")
    return entries[name][targets[0]]
