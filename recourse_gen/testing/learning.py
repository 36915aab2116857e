"""What training asks of a backbone. One without trainable parameters is never trained, and passes."""

from __future__ import annotations

import torch

from recourse_gen.testing.subject import Subject, require


def loss_is_a_finite_number_per_pair(subject: Subject) -> None:
    """`forward` gives a finite float32 loss ``(B,)`` with a gradient, for one pair as for several."""
    for sort, table in subject.tables.items() if subject.learns else ():
        model = subject.build(table).train()
        for size in (1, 7):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(subject.seed)
                loss = model(*subject.pairs(table, size))
            given = f"{loss.dtype} {tuple(loss.shape)} for B = {size} on the {sort} table"
            right = loss.shape == (size,) and loss.dtype == torch.float32
            require(right, f"the loss must be float32 (B,), got {given}")
            require(loss.isfinite().all(), f"the loss must be finite, got {loss.tolist()} on the {sort} table")
            require(loss.requires_grad, f"the loss must have a gradient, got none on the {sort} table")


def every_parameter_gets_a_gradient(subject: Subject) -> None:
    """Every trainable parameter takes part in every loss, and its gradient is not always zero.

    Distributed training waits for the gradient of each parameter, so one that a schema does not need must not exist.
    """
    for sort, table in subject.tables.items() if subject.learns else ():
        model, batch = subject.build(table).train(), subject.pairs(table, 64)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        largest: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(subject.seed)
            # Several steps, because what ends in weights that start at zero passes nothing back in the first.
            for _ in range(5):
                optimizer.zero_grad(set_to_none=True)
                model(*batch).mean().backward()
                for name, parameter in model.named_parameters():
                    if parameter.requires_grad and parameter.numel():
                        if parameter.grad is None:
                            raise AssertionError(f"parameter {name!r} has no part in the loss on the {sort} table")
                        largest[name] = max(largest.get(name, 0.0), parameter.grad.abs().max().item())
                optimizer.step()
        idle = [name for name, size in largest.items() if size == 0.0]
        require(not idle, f"the gradient of {', '.join(idle)} is always zero on the {sort} table")


def the_loss_falls_on_eight_rows(subject: Subject) -> None:
    """Some hundred Adam steps on eight pairs lower the loss by at least a quarter."""
    for sort, table in subject.tables.items() if subject.learns else ():
        model, batch = subject.build(table).train(), subject.pairs(table, 8)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)

        def mean_loss(model: torch.nn.Module = model, batch: tuple = batch) -> float:
            with torch.no_grad():
                return torch.stack([model(*batch).mean() for _ in range(8)]).mean().item()

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(subject.seed)
            before = after = mean_loss()
            for _ in range(12):
                for _ in range(25):
                    loss = model(*batch).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                after = mean_loss()
                if after < before - 0.25 * abs(before):
                    break
            else:
                told = f"300 steps on eight {sort} pairs took the loss from {before:.3f} to {after:.3f} only"
                require(False, f"{told}; it has to fall by at least a quarter")
