"""What printed output has to look like, whatever the figures in it: they may differ from one processor to the next."""

import re
from typing import NamedTuple

from recourse_gen.counterfactuals import STATUSES

DTYPE = re.compile(r"(\w+)\s+(int64|float64|bool|str|object|category)")
HEADER = re.compile(r"[a-z][a-z_]*(\s+[a-z][a-z_]*)+")


class Form(NamedTuple):
    """statuses: of the rows of reports, in order. columns: of each table, in order. dtypes: (column, dtype) pairs."""

    statuses: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    dtypes: tuple[tuple[str, str], ...]


def form(text: str) -> Form:
    """The form of what pandas printed; prose between the tables is left aside."""
    lines = [line.strip() for line in text.splitlines()]
    dtypes = [match.groups() for line in lines if (match := DTYPE.fullmatch(line))]
    rest = [line for line in lines if not DTYPE.fullmatch(line)]
    columns = [tuple(line.split()) for line in rest if HEADER.fullmatch(line)]
    statuses = [word for line in rest for word in line.split() if word in STATUSES]
    return Form(tuple(statuses), tuple(columns), tuple((name, dtype) for name, dtype in dtypes))
