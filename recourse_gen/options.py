"""Keyword options: refused in one sentence that names the option and what it takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def construct(target: Callable[..., T], group: str, given: Mapping[str, Any] | None, *arguments: Any) -> T:
    """``target(*arguments, **given)``. Raises ValueError, listing what exists, for options that it does not know."""
    check_names(target, group, given, skip=len(arguments))
    try:
        return target(*arguments, **(given or {}))
    except TypeError as error:
        raise ValueError(f"the {group} options {dict(given or {})} do not fit: {error}") from error


def effective(target: Callable[..., Any], given: Mapping[str, Any], *, skip: int = 0) -> dict[str, Any]:
    """All options of `target` by name, its first `skip` parameters left out: the given ones, else its defaults.

    What is saved has to say them all, or a later release with other defaults would read it as something else.
    """
    parameters = list(inspect.signature(target).parameters.values())[skip:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {**defaults, **given}


def check_names(target: Callable[..., Any], group: str, given: Mapping[str, Any] | None, *, skip: int = 0) -> None:
    """Raise ValueError, listing what exists, unless `target` takes each option by name, its first `skip` left out."""
    parameters = list(inspect.signature(target).parameters.values())
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters[skip:]]
    for name in given or {}:
        if name not in known:
            raise ValueError(f"unknown option {group}.{name}; known are: {', '.join(known)}")


def check_whole(name: str, value: Any, least: float = 1) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        bound = "" if least == -math.inf else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{bound}, got {value!r}")


def check_number(name: str, value: Any, low: float, high: float, *, closed: bool = True) -> None:
    """Raise ValueError unless `value` is a number in [low, high), or in (low, high) if not `closed`."""
    number = not isinstance(value, bool) and isinstance(value, (int, float, np.integer, np.floating))
    if not (number and low <= value < high and (closed or value > low)):
        raise ValueError(f"{name} must be a number in {'[' if closed else '('}{low:g}, {high:g}), got {value!r}")
