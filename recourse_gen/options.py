"""Keyword options: refused in one sentence that names the option and what it takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
SEEDS = 2**63  # so many: what PyTorch and NumPy take as well
DIAL = (1e-30, 1e30)  # within which float32 has room for products and quotients
_PLAIN: dict[str, tuple[str, Any]] = {  # by annotation: in words, and the types that are one
    "bool": ("true or false", (bool, np.bool_)),
    "int": ("a whole number", (int, np.integer)),
    "float": ("a number", (int, float, np.integer, np.floating)),
    "str": ("text", str),
}


def construct(target: Callable[..., T], group: str, given: Mapping[str, Any] | None, *arguments: Any) -> T:
    """``target(*arguments, **given)``. Raises ValueError, listing what exists, for options that it does not know, and
    for values of another type than ``bool``, ``int``, ``float`` or ``str``, or None beside it, where a parameter is
    annotated so."""
    check_names(target, group, given, skip=len(arguments))
    _check_types(target, group, given or {})
    try:
        return target(*arguments, **(given or {}))
    except TypeError as error:
        raise ValueError(f"the {group} options {dict(given or {})} do not fit: {error}") from error


def effective(target: Callable[..., T], given: Mapping[str, Any], made: T, *, skip: int = 0) -> dict[str, Any]:
    """All options of `target` by name, its first `skip` parameters left out: the given ones, else its defaults; for
    None, what was taken for it, if `made`, which is made of them, has a number or text of that name.

    What is saved has to say them all, or a later release with other defaults would read it as something else.
    """
    parameters = list(inspect.signature(target).parameters.values())[skip:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    told = {**defaults, **given}
    taken = {name: getattr(made, name, None) for name, value in told.items() if value is None}
    return {**told, **{name: value for name, value in taken.items() if isinstance(value, (bool, int, float, str))}}


def as_options(group: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """`given`, None as no option. Raises ValueError unless it maps options to values."""
    if not isinstance(given, (Mapping, NoneType)):
        raise ValueError(f"{group} must map options to values, got {given!r}")
    return dict(given or {})


def check_names(target: Callable[..., Any], group: str, given: Mapping[str, Any] | None, *, skip: int = 0) -> None:
    """Raise ValueError, listing what exists, unless `target` takes each option by name, its first `skip` left out."""
    as_options(group, given)
    parameters = list(inspect.signature(target).parameters.values())
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters[skip:]]
    for name in given or {}:
        if name not in known:
            raise ValueError(f"unknown option {group}.{name}; known are: {', '.join(known) or 'none'}")


def _check_types(target: Callable[..., Any], group: str, given: Mapping[str, Any]) -> None:
    for name, parameter in inspect.signature(target).parameters.items():
        annotated = parameter.annotation
        whole = annotated if isinstance(annotated, str) else getattr(annotated, "__name__", "")
        kind = whole.removesuffix(" | None")
        if name not in given or kind not in _PLAIN or (kind != whole and given[name] is None):
            continue
        told, types = _PLAIN[kind]
        told += " or None" if kind != whole else ""
        value = given[name]
        # True is a whole number to Python.
        if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
            raise ValueError(f"{group}.{name} must be {told}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is true or false: any text would count as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def check_dial(name: str, value: Any) -> None:
    """Raise ValueError unless `value`, a λ or a temperature, is from 1e-30 to 1e30: float32 holds that."""
    check_number(name, value, *DIAL)


def check_function(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is None or can be called."""
    if not (value is None or callable(value)):
        raise ValueError(f"{name} must be a function or None, got {value!r}")


def as_path(name: str, value: Any) -> Path:
    """`value` as a path. Raises ValueError unless it is text or a path."""
    if not isinstance(value, (str, PathLike)):
        raise ValueError(f"{name} must be a path, got {value!r}")
    return Path(value)


def check_whole(name: str, value: Any, least: float = 1) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        bound = "" if least == -math.inf else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{bound}, got {value!r}")


def check_seed(value: Any) -> None:
    """Raise ValueError unless `value` is a whole number from 0 to 2⁶³ − 1."""
    check_whole("seed", value, 0)
    if value >= SEEDS:
        raise ValueError(f"seed must be less than {SEEDS}, got {value}")


def random_state(seed: int) -> int:
    """What scikit-learn takes of a seed: its lowest 32 bits."""
    return int(seed) % 2**32


def check_number(name: str, value: Any, low: float, high: float, *, closed: bool = True) -> None:
    """Raise ValueError unless `value` is a number in [low, high), or in (low, high) if not `closed`."""
    number = not isinstance(value, bool) and isinstance(value, (int, float, np.integer, np.floating))
    if not (number and low <= value < high and (closed or value > low)):
        raise ValueError(f"{name} must be a number in {'[' if closed else '('}{low:g}, {high:g}), got {value!r}")
