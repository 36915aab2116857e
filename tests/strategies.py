"""The conformance suite's random tables, schemas and constraints, for the tests of the library itself."""

from recourse_gen.testing.strategies import constraints, frames, quick, some, tables
from recourse_gen.testing.tables import MAKERS, NUMBERS, STEPS, TOKENS, Maker, Table, restored, varied

__all__ = [
    "MAKERS",
    "NUMBERS",
    "STEPS",
    "TOKENS",
    "Maker",
    "Table",
    "constraints",
    "frames",
    "quick",
    "restored",
    "some",
    "tables",
    "varied",
]
