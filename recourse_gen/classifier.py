"""Black-box classifiers: adapters to one probability per row, and the few that are trained here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import sklearn
import torch
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from recourse_gen.options import random_state
from recourse_gen.outputs import OutputError, module_scores, of_class
from recourse_gen.schema import Schema

# What `fit_classifier` builds: the estimator, and the options in which it departs from scikit-learn's defaults.
CLASSIFIERS: dict[str, tuple[type, dict[str, Any]]] = {
    "mlp": (MLPClassifier, {"hidden_layer_sizes": (10, 10, 10), "batch_size": 200, "max_iter": 100, "tol": 1e-4}),
    "random_forest": (RandomForestClassifier, {"n_estimators": 100, "min_samples_leaf": 5}),
    "gradient_boosting": (HistGradientBoostingClassifier, {"max_iter": 100, "learning_rate": 0.1}),
    "logistic": (LogisticRegression, {"C": 1.0, "max_iter": 1000}),
}


@runtime_checkable
class Classifier(Protocol):
    """A black box that decides about people: raw rows to the probability of the favourable class."""

    def probability(self, frame: pd.DataFrame) -> np.ndarray:
        """``(B, D)`` frame to float64 ``(B,)``, each between 0 and 1; favourable where it exceeds 0.5."""
        ...


def as_classifier(
    model: Any,
    *,
    target_class: Any = None,
    columns: Sequence[str] | Mapping[str, Any] | pd.Series | None = None,
    batch_size: int = 65536,
) -> Classifier:
    """Adapt `model` to `Classifier`.

    model: one of
        an object with ``predict_proba(frame)`` (scikit-learn, XGBoost, LightGBM), its columns named by ``classes_``;
        a ``torch.nn.Module``, called in eval mode on a ``(B, D)`` tensor of numbers or booleans, float64 if its weights
        are, else float32. It returns *logits*: a sigmoid follows on ``(B,)`` or ``(B, 1)``, a softmax on ``(B, L)``;
        any callable from a frame to probabilities, ``(B,)`` or ``(B, L)``;
        an object with ``probability(frame)``.
    target_class: the favourable class: a member of ``classes_``, or the column's position where a model names no
        classes. None means class 1 (True) of two. One output alone is the probability of class 1, or, where
        target_class is a name, of the class of that name.
    columns: the training columns in order, or their dtypes by name (``X.dtypes``). With names the model always sees
        these columns in this order; with dtypes also in these dtypes.
    batch_size: rows per call of the model.

    ``probability`` of the result raises ValueError for a column that is missing or cannot be restored to its dtype and
    for output that is not one finite probability per row, and RuntimeError, naming the rows and showing one
    that is enough to make it fail, where the model raises.
    Zero rows give an empty array without a call. Raises ValueError for an unsupported model or an unknown class.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive whole number, got {batch_size!r}")
    if isinstance(model, _Adapter):
        return model
    return _Adapter(_scorer(model, target_class), type(model).__name__, columns, batch_size)


class _Adapter:
    """Checks what goes into a model and what comes out."""

    def __init__(
        self,
        score: Callable[[pd.DataFrame], Any],
        name: str,
        columns: Sequence[str] | Mapping[str, Any] | pd.Series | None,
        batch_size: int,
    ) -> None:
        self._score = score
        self._name = name
        self._dtypes = dict(columns.items()) if isinstance(columns, (Mapping, pd.Series)) else {}
        self._columns = None if columns is None else list(self._dtypes or columns)
        self._batch_size = batch_size

    def probability(self, frame: pd.DataFrame) -> np.ndarray:
        frame = self._restore(frame)
        out = np.empty(len(frame), dtype=np.float64)
        for start in range(0, len(frame), self._batch_size):
            stop = min(start + self._batch_size, len(frame))
            out[start:stop] = self._checked(frame.iloc[start:stop].copy(), f"rows {start} to {stop - 1}")
        return out

    def _restore(self, frame: pd.DataFrame) -> pd.DataFrame:
        if not isinstance(frame, pd.DataFrame):
            raise ValueError(f"expected a pandas DataFrame, got {type(frame).__name__}")
        if self._columns is None:
            return frame
        for name in self._columns:
            if name not in frame.columns:
                raise ValueError(f"column {name!r} is missing; the classifier takes {', '.join(self._columns)}")
        frame = frame[self._columns]
        wrong = [name for name, has in frame.dtypes.items() if name in self._dtypes and has != self._dtypes[name]]
        return frame.assign(**{str(name): _cast(frame[name], self._dtypes[name]) for name in wrong})

    def _checked(self, frame: pd.DataFrame, rows: str) -> np.ndarray:
        try:
            scores = self._score(frame)
        except OutputError:
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            told = f"the classifier {self._name} failed on {rows}: {cause}{self._culprit(frame)}"
            raise RuntimeError(told) from error
        if scores.shape != (len(frame),):
            raise ValueError(f"the classifier {self._name} returned shape {scores.shape} for {len(frame)} rows")
        wrong = ~((scores >= -1e-6) & (scores <= 1 + 1e-6))
        if wrong.any():
            raise ValueError(
                f"the classifier {self._name} returned {scores[wrong][0]} within {rows}, where probabilities are due"
            )
        return scores.clip(0.0, 1.0)

    def _culprit(self, frame: pd.DataFrame) -> str:
        """In words, a row that the model fails on alone, found by halving; nothing where it fails on many only."""
        while len(frame) > 1:
            half = frame.iloc[: len(frame) // 2]
            frame = half if self._fails(half) else frame.iloc[len(frame) // 2 :]
        if not self._fails(frame):
            return ""
        values = ", ".join(f"{name}={value!r}" for name, value in frame.astype(object).iloc[0].items())
        return f"; also on this row alone, {frame.index.tolist()[0]!r}: {values}"

    def _fails(self, frame: pd.DataFrame) -> bool:
        try:
            self._score(frame.copy())
        except Exception:
            return True
        return False


def _scorer(model: Any, target_class: Any) -> Callable[[pd.DataFrame], np.ndarray]:
    if isinstance(model, type):
        raise ValueError(f"the classifier must be a fitted model, got the class {model.__name__} itself")
    if isinstance(model, torch.nn.Module):
        return partial(module_scores, model, target_class)
    if hasattr(model, "predict_proba"):
        classes = getattr(model, "classes_", None)
        position = target_class if classes is None else _class_position(classes, target_class)
        return partial(_called, model.predict_proba, position)
    score = getattr(model, "probability", model)
    if not callable(score):
        raise ValueError(
            f"cannot use {type(model).__name__} as a classifier: pass an object with predict_proba, a torch module, "
            "or a callable from a DataFrame to probabilities"
        )
    return partial(_called, score, target_class)


def _called(score: Callable[[pd.DataFrame], Any], position: Any, frame: pd.DataFrame) -> np.ndarray:
    return of_class(score(frame), position)


def _class_position(classes: Any, target_class: Any) -> int:
    """The column of the favourable class in ``predict_proba``."""
    known = np.asarray(classes).tolist() if not isinstance(classes, list) else classes
    if any(isinstance(entry, (list, np.ndarray)) for entry in known):
        raise ValueError("the classifier predicts several targets at once; pass a callable that returns one of them")
    listed = ", ".join(map(repr, known))
    if target_class is None:
        if len(known) != 2 or set(known) != {0, 1}:
            raise ValueError(f"target_class must name the favourable class; the classifier's classes are {listed}")
        return known.index(1)
    if target_class not in known:
        raise ValueError(f"target_class {target_class!r} is not a class of the classifier; its classes are {listed}")
    return known.index(target_class)


def _cast(column: pd.Series, dtype: Any) -> pd.Series:
    """`column` as `dtype`, refused where a value would change."""
    try:
        cast = column.astype(dtype)
        if not (cast.astype(object) == column.astype(object)).all():
            raise ValueError("values would change")
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {column.name!r} ({column.dtype}) cannot be restored to {dtype}: {error}") from error
    return cast


def fit_classifier(
    name: str,
    frame: pd.DataFrame,
    target01: np.ndarray,
    *,
    schema: Schema,
    seed: int,
    balanced: bool = True,
    **options: Any,
) -> Pipeline:
    """Train one of `CLASSIFIERS` on raw rows.

    name: ``mlp`` (hidden layers 10-10-10), ``random_forest``, ``gradient_boosting`` or ``logistic``.
    frame: ``(B, D)`` training rows in raw units; `schema` says which columns are categories (one-hot, one column
        where there are two levels) and which are numbers (min-max scaled).
    target01: ``(B,)``, 1 where the outcome is favourable; the classes 0 and 1 of the result.
    balanced: weigh both classes equally, so that 0.5 is the boundary whatever the base rate.
    options: constructor arguments of the scikit-learn estimator; they override those in `CLASSIFIERS`.

    Returns a fitted pipeline with ``predict_proba(frame)``; a category that training lacked encodes as zeros.
    Raises ValueError for an unknown name or option and for a target that is not 0 and 1, both present.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"unknown classifier {name!r}; available are {', '.join(CLASSIFIERS)}")
    target = check_target(target01, len(frame))
    kind, defaults = CLASSIFIERS[name]
    known = kind().get_params()
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"classifier {name!r} has no option {unknown[0]!r}; available are {', '.join(sorted(known))}")
    given = {**defaults, "random_state": random_state(seed), **options}
    steps = [("encode", _encoder(schema)), ("model", kind(**given))]
    weight = compute_sample_weight("balanced", target) if balanced else None
    # With metadata routing switched on, scikit-learn would refuse weights that no step asked for. OpenMP threads spin
    # while they wait: on busy cores, two of them boost ten times slower than one.
    with (
        sklearn.config_context(enable_metadata_routing=False),
        threadpool_limits(1, user_api="openmp"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter is a budget
        return Pipeline(steps).fit(frame[list(schema.names)], target, model__sample_weight=weight)


def check_target(target01: Any, rows: int) -> np.ndarray:
    """int64 ``(B,)`` of zeros and ones. Raises ValueError unless both occur and there is one per row."""
    target = np.asarray(target01)
    if target.shape != (rows,):
        raise ValueError(f"the target must hold one value for each of the {rows} rows, got shape {target.shape}")
    values = pd.unique(target).tolist()
    if set(values) != {0, 1}:
        raise ValueError(f"the target must hold both 0 and 1 and nothing else, got {', '.join(map(repr, values[:5]))}")
    return target.astype(np.int64)


def _encoder(schema: Schema) -> ColumnTransformer:
    categories = [feature.name for feature in schema.features if feature.kind == "categorical"]
    numbers = [feature.name for feature in schema.features if feature.kind != "categorical"]
    one_hot = OneHotEncoder(drop="if_binary", handle_unknown="ignore", sparse_output=False)
    return ColumnTransformer([("categories", one_hot, categories), ("numbers", MinMaxScaler(), numbers)])
