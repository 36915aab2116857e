"""Fewer and smaller changes: columns of an answer go back towards the factual while the answer gains by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.selection import Policy, Pool, ranked

SMALLEST = 0.25  # least share of the way back that is tried


def sparsify(
    answers: Pool,
    factual: Rows,
    schema: Schema,
    policy: Policy,
    ask: Callable[[Rows, np.ndarray], Pool],
    together: Sequence[Sequence[int]] = (),
    rivals: int = 1,
    keep: int | None = None,
) -> Pool:
    """The valid rows of a pool ``(A, 1)`` after greedy moves towards their factuals ``(A, ·)``; the others as they are.

    In every round each changed column is tried on its own: back to the factual's value, and where that will not do,
    numbers half and then a quarter of the way (tokens by levels). Of the moves that leave an answer valid and better by
    the policy, the best is made. A move that fails is not tried again, so no column has more than three moves. All
    answers take their rounds together. Columns that change together go back to the factual's values together.

    ask: candidates ``(R, ·)`` for the answers at ``(R,)`` to a scored pool ``(R, 1)``. together: groups of column
    positions. rivals: so many answers in a row have the same factual; after their first round only the best `keep` of
    them go on, by default all.
    """
    tokens, own = len(schema.tokens), _cells(factual)
    number = torch.tensor([feature.kind != "categorical" for feature in (*schema.tokens, *schema.numbers)])
    share = torch.from_numpy(answers.valid).double().repeat(1, own.shape[1])
    goes = torch.eye(own.shape[1], dtype=torch.bool)  # what goes back with each column; a group does with its first
    for group in together:
        lead, *others = (t if n is None else tokens + n for _, t, n in (schema.places[d] for d in group))
        goes[lead, others] = True
        share[:, others] *= number[others] / 2
    while True:
        now = _cells(answers.rows.flatten())
        share[now == own] = 0.0
        answer, column = share.nonzero(as_tuple=True)
        if not len(answer):
            return answers
        tried = now[answer]
        left = (now - own)[answer, column] * (1.0 - share[answer, column])
        tried[torch.arange(len(answer)), column] = own[answer, column] + left.trunc().where(column < tokens, left)
        tried = torch.where(goes[column] & (share[answer, column] == 1)[:, None], own[answer], tried)
        at = answer.numpy()
        asked = ask(Rows(tried[:, tokens:].float(), tried[:, :tokens].long()), at)
        gains = asked.valid[:, 0] & policy.better(asked, answers.take(at))[:, 0]
        order = np.lexsort((*(key[:, 0] for key in reversed(policy.keys(asked))), ~gains, at))
        first = order[np.unique(at, return_index=True)[1]]  # each answer's best; `at` rises
        moves = first[gains[first]]
        answers = answers.put(at[moves], asked.take(moves))
        done = ~gains
        done[moves] = True
        less = share[answer[done], column[done]] / 2 * number[column[done]]
        share[answer[done], column[done]] = less * (less >= SMALLEST)
        if keep is not None:
            pool = answers.reshape(len(own) // rivals, rivals)
            best, keep = ranked(pool, policy.keys(pool), keep), None
            share *= torch.from_numpy((np.arange(rivals) == best[:, :, None]).any(1).reshape(-1, 1))


def _cells(rows: Rows) -> Tensor:
    """Float64 ``(A, D)``, tokens first; it holds both float32 and levels exactly."""
    return torch.cat([rows.cat.double(), rows.num.double()], 1)
