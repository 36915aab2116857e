"""The estimator that users meet: fit on a frame and a classifier, generate for people who were turned down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd

from recourse_gen import checkpoint, registry, training
from recourse_gen.alignment import check_labels
from recourse_gen.audit import Auditor
from recourse_gen.backbone import Backbone
from recourse_gen.classifier import Classifier, as_classifier
from recourse_gen.constraints import Constraints
from recourse_gen.counterfactuals import Counterfactuals
from recourse_gen.deadline import Deadline
from recourse_gen.hub import Shareable
from recourse_gen.options import as_options, as_path, check_flag, check_names, check_seed, construct, effective
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.personal import one_for_all, rules_for
from recourse_gen.processes import device_of
from recourse_gen.schema import Schema
from recourse_gen.search import Search, SearchOptions
from recourse_gen.share import Share
from recourse_gen.training import TrainingOptions
from recourse_gen.transform import TableTransform

COST_WEIGHT = 20.0  # of `generate`, where the caller names none


class RecourseGenerator(Shareable):
    """Samples changes that would get a person approved: cheap, plausible, valid and allowed.

    backbone: a registered name (`recourse_gen.registry.names`). seed: 0 to 2⁶³ − 1, of weights, pairs and, by
    default, samples.
    target_class: the favourable class; None where classes are 0 and 1 or False and True.
    backbone_options: keyword arguments of the backbone class. pairs, training: keyword arguments of `PairOptions` and
    `TrainingOptions`. audit: keyword arguments of `Auditor`. schema: a `Schema`, or keyword arguments of
    `Schema.infer`.

    After `fit`: schema, transform, classifier, constraints, auditor, model, pairs (None after `load`), and summary, a
    mapping with the counts of factuals and partners, the training's result and the seconds of each stage.
    """

    def __init__(
        self,
        backbone: str,
        *,
        seed: int = 0,
        target_class: Any = None,
        backbone_options: Mapping[str, Any] | None = None,
        pairs: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        audit: Mapping[str, Any] | None = None,
        schema: Schema | Mapping[str, Any] | None = None,
    ) -> None:
        check_seed(seed)
        self.backbone = backbone
        self.seed = int(seed)
        self.target_class = target_class
        self.backbone_options = as_options("backbone_options", backbone_options)
        self.pair_options = construct(PairOptions, "pairs", pairs)
        self.training_options = construct(TrainingOptions, "training", training)
        check_names(Auditor, "audit", audit, skip=1)
        self.audit_options = dict(audit or {})
        self._given_schema = schema
        self.pairs: PairSupervision | None = None
        self.model: Backbone | None = None
        self.summary: dict[str, Any] = {}

    def fit(
        self,
        X: pd.DataFrame,
        y: Any = None,
        *,
        classifier: Any,
        constraints: Constraints | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
    ) -> RecourseGenerator:
        """Learn from training rows.

        X: training frame. y: outcomes ``(B,)``, two-valued or containing `target_class`; None takes the classifier's
        own decisions. classifier: anything `as_classifier` takes. constraints: what everybody may do; partners obey
        them. folder: where the training log, the best weights so far and the state of the training are kept, created
        when training starts; `save` there removes the state. resume: go on from that state, as if training had never
        stopped; where there is none, it starts, with a warning.

        Raises ValueError for input that cannot work, before anything is written, and for a state of another run, and
        OSError where the folder cannot be written.
        """
        check_flag("resume", resume)
        if resume and folder is None:
            raise ValueError("resume needs the folder of the training that is to go on")
        folder = None if folder is None else as_path("folder", folder)
        self.model, seconds = None, dict[str, float]()  # no model until fitted
        started = time.perf_counter()
        backbone_class = registry.load(self.backbone)
        given = self._given_schema
        schema = given if isinstance(given, Schema) else construct(Schema.infer, "schema", given, X)
        self.schema, self.transform = schema, TableTransform(schema).fit(X)
        X = self.transform.check(X)
        self.constraints = one_for_all(Constraints() if constraints is None else constraints, schema)
        self.classifier: Classifier = as_classifier(classifier, target_class=self.target_class, columns=X.dtypes)
        model = registry.build(backbone_class, schema, self.backbone_options, self.seed)
        auditor = construct(Auditor, "audit", self.audit_options, schema)
        probability = self.classifier.probability(X)
        favourable = probability > 0.5 if y is None else _favourable(y, self.target_class, len(X))
        rows = self.transform.encode(X)
        kept = self.training_options
        self.pairs = PairSupervision.from_training(
            X,
            probability,
            favourable,
            transform=self.transform,
            constraints=self.constraints,
            options=self.pair_options,
            device=training.processes().device,
            share=Share.here(self.seed, kept.holdout, kept.validation_pairs),
        )
        model.observe(self.pairs)
        seconds["pairs"] = time.perf_counter() - started
        self.auditor = auditor.fit(rows, favourable.astype(np.int64), seed=self.seed, approved=probability > 0.5)
        seconds["audit"] = time.perf_counter() - started - seconds["pairs"]
        if folder is not None and training.processes().is_main_process:
            checkpoint.reopen(folder, resume=resume)
        training.meet()
        trained = training.fit(
            model,
            self.pairs,
            options=self.training_options,
            seed=self.seed,
            folder=folder,
            save=None if folder is None else lambda model: checkpoint.write_weights(folder, model),
            resume=resume,
            settings={
                "backbone": self.backbone,
                "backbone_options": effective(backbone_class, self.backbone_options, model, skip=1),
                "pairs": asdict(self.pair_options),
                "constraints": self.constraints.to_dict(),
                "schema": schema.to_json(),
            },
        )
        self.model, seconds["training"] = model, trained.seconds
        people, lonely = self.pairs.count()
        self.summary = {
            "training_factuals": people,
            "factuals_without_partner": lonely,
            "partners": self.pairs.partners.batch_size,
            **({} if self.pairs.recall is None else {"pairs_recall": self.pairs.recall}),
            "training": asdict(trained),
            "seconds": seconds,
        }
        return self

    def generate(
        self,
        X: pd.DataFrame,
        n: int = 1,
        candidates: int = 64,
        select: str = "score",
        *,
        confidence: float = 0.5,
        audit: bool = True,
        sparsify: bool = True,
        change_price: float = 0.12,
        max_candidates: int | None = None,
        constraints: Constraints | Mapping[Any, Constraints] | pd.Series | None = None,
        cost_weight: float | None = None,
        temperature: float = 1.5,
        seed: int | None = None,
        batch_size: int = 1024,
        time_budget: float | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Counterfactuals:
        """Recommend up to `n` changes to each row of `X`.

        candidates: samples per person; where fewer than `n` of them will do, their number is doubled, up to
        `max_candidates` in all (default: 8 × candidates). select: among the valid ones, ``score`` prefers what an
        independent judge is expected to find valid and plausible, less the cost per column; ``cheapest`` the least
        cost of those that the auditor accepts; ``confident`` the highest probability; ``diverse`` the cheapest, and
        then those that differ most (`selection.apart`); ``pareto`` those to which there is no cheaper alternative that
        is as probable, in order of cost (`selection.along_front`): there may be fewer than `n`. confidence: least
        probability (0.5 to 1) of the favourable class. audit: ask the auditor. sparsify: put changes back, wholly or in
        part, where that makes an answer better by `select` (for ``diverse`` and ``pareto``, by ``cheapest``).
        change_price: what a changed column counts beside its cost, for ``score`` with `sparsify`: 0.12 is 12 % of its
        range; the higher, the fewer columns change. constraints: replace those given to `fit`: one for all, or one for
        each person, as a mapping from the index labels of `X` or a Series with these labels. cost_weight: λ, higher
        stays closer; None takes 20, or the nearest λ that the backbone was trained on. temperature: 1 is the learned
        law, below 1 sharpens it, above 1 blends what it has learned and gives more choice. seed: replaces the
        generator's. batch_size: people at a time, for memory. time_budget: seconds after which the call is to end.
        Whoever has not been served by then is ``not_found``, and the reason says so; the others' answers are those of a
        call without a budget. progress: called after every batch with how many were in it, as ``tqdm.update`` may be.

        The answer for a row depends on the seed (0 to 2⁶³ − 1) and that row alone. Raises ValueError for wrong input.
        """
        model = self._fitted()
        options = SearchOptions(
            n=n,
            candidates=candidates,
            select=select,
            confidence=confidence,
            audit=audit,
            sparsify=sparsify,
            change_price=change_price,
            max_candidates=max_candidates,
            cost_weight=self._cost_weight() if cost_weight is None else cost_weight,
            temperature=temperature,
            seed=self.seed if seed is None else seed,
            batch_size=batch_size,
            time_budget=time_budget,
        )
        deadline = Deadline(time_budget)
        X = self.transform.check(X)
        check_labels(X.index)
        rules = self.constraints if constraints is None else rules_for(constraints, self.schema, X.index)
        auditor = self.auditor if audit else None
        return Search(model, self.transform, self.classifier, auditor, rules, options, deadline)(X, progress)

    def get_counterfactuals(self, X: pd.DataFrame) -> pd.DataFrame:
        """The benchmark suites' convention: one row per row of `X`, same index, NaN where there is no answer."""
        return self.generate(X).best()

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        run: Mapping[str, Any] | None = None,
        classifier: Any = None,
    ) -> Path:
        """Write the fitted generator into a folder (created). run: settings to keep beside it in config.yaml.
        classifier: a pipeline of `recourse_gen.classifier.fit_classifier` to keep there too, so that `load` needs none.

        Raises ValueError if the folder holds a finished run and `overwrite` is false, OSError if it cannot be written.
        The auditor's file contains the training rows that its models favour, and the weights of ``exact`` and
        ``nearest`` contain partners.
        """
        model, folder = self._fitted(), as_path("folder", folder)
        check_flag("overwrite", overwrite)
        if not isinstance(run, (Mapping, NoneType)):
            raise ValueError(f"run must map settings to values, got {run!r}")
        if checkpoint.is_finished(folder) and not overwrite:
            raise ValueError(f"{folder} already holds a finished run; use overwrite=True or another folder")
        config = {
            "backbone": self.backbone,
            "seed": self.seed,
            "target_class": self.target_class,
            "backbone_options": effective(type(model), self.backbone_options, model, skip=1),
            "pairs": asdict(self.pair_options),
            "training": asdict(self.training_options),
            "audit": self.audit_options,
            "constraints": self.constraints.to_dict(),
            "run": dict(run or {}),
        }
        checkpoint.write(folder, config, self.schema, self.transform, self.auditor, model, self.summary, classifier)
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, classifier: Any = None, device: Any = None) -> RecourseGenerator:
        """Inverse of `save`. classifier: by default the one that was saved with the generator, if one was.

        device: where the backbone goes, by default where `fit` would have put it.

        Raises ValueError if the folder is incomplete, damaged, altered or of another version, or has no classifier, and
        for a device that is not there.
        """
        place = device_of(device)
        saved = checkpoint.read(as_path("folder", folder))
        config, schema = saved.config, saved.schema
        names = ("backbone", "seed", "target_class", "backbone_options", "pairs", "training", "audit")
        try:
            generator = cls(**{name: config[name] for name in names}, schema=schema)
            generator.constraints = one_for_all(Constraints(**config["constraints"]), schema)
        except (TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"{saved.folder / checkpoint.CONFIG} is damaged: {error}") from error
        generator.schema, generator.transform, generator.summary = schema, saved.transform, saved.summary
        given = saved.classifier() if classifier is None else classifier
        generator.classifier = as_classifier(given, target_class=config["target_class"], columns=saved.transform.dtypes)
        generator.auditor, known = saved.auditor(), registry.load(generator.backbone)
        generator.model = saved.network(
            lambda: registry.build(known, schema, generator.backbone_options, generator.seed)
        )
        generator.model.to(place).eval()
        return generator

    def _cost_weight(self) -> float:
        """The λ of `generate` where none is given."""
        return float(np.clip(COST_WEIGHT, *self.pair_options.cost_weight_range))

    def _fitted(self) -> Backbone:
        if self.model is None:
            raise ValueError("this generator is not fitted; call fit or load first")
        return self.model


def _favourable(y: Any, target_class: Any, rows: int) -> np.ndarray:
    """Bool ``(B,)`` from outcomes. Raises ValueError unless they are complete and the favourable class is clear."""
    outcomes = np.asarray(y)
    values = pd.Series(outcomes.ravel() if outcomes.shape == (rows, 1) else outcomes)
    if len(values) != rows:
        raise ValueError(f"y has {len(values)} values for {rows} rows")
    if values.isna().any():
        raise ValueError(f"y has {int(values.isna().sum())} missing values")
    classes = values.unique().tolist()
    listed = ", ".join(map(repr, classes[:10]))
    if target_class is None and not set(classes) <= {0, 1}:
        raise ValueError(f"target_class must name the favourable class; y holds {listed}")
    target_class = 1 if target_class is None else target_class
    if target_class not in classes:
        raise ValueError(f"y never holds the favourable class {target_class!r}; it holds {listed}")
    if len(classes) == 1:
        raise ValueError(f"y holds the favourable class {target_class!r} only; both outcomes are needed")
    return (values == target_class).to_numpy()
