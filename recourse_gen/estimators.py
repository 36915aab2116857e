"""Fitted scikit-learn models in files of skops, which need no pickle.

skops looks at the types in a file. Here it is also made sure that reading one takes no more memory and time than its
size lets expect, and that compiled code, which follows trees without looking, stays inside them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from skops.io.exceptions import UnsupportedTypeException, UntrustedTypesFoundException

from recourse_gen.files import MEGABYTE, read, replace_file

_PREDICTOR, _TREE = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn.tree._tree.Tree"
# All that skops does not trust by itself. Trees hold arrays, which `_check_trees` looks at; optimizers hold what is
# left of the training, and nothing asks them.
TRUSTED = (
    _PREDICTOR,
    _TREE,
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
)
# What this package itself puts into a run folder: auditors, and the classifiers of `classifier.CLASSIFIERS`. Others of
# the types that skops trusts can be made to compute without end.
OWN = frozenset(TRUSTED) | {
    "sklearn._loss._loss.CyHalfBinomialLoss",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn.compose._column_transformer.ColumnTransformer",
    "sklearn.ensemble._forest.RandomForestClassifier",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
    "sklearn.linear_model._logistic.LogisticRegression",
    "sklearn.neural_network._multilayer_perceptron.MLPClassifier",
    "sklearn.pipeline.Pipeline",
    "sklearn.preprocessing._data.MinMaxScaler",
    "sklearn.preprocessing._encoders.OneHotEncoder",
    "sklearn.preprocessing._label.LabelBinarizer",
    "sklearn.preprocessing._label.LabelEncoder",
    "sklearn.tree._classes.DecisionTreeClassifier",
}

LIMIT = 2048 * MEGABYTE  # of a file
# What it may unpack to: trees shrink to a fourth, the text around a small model to a tenth.
_SMALL, _RATIO, _ENTRIES = 256 * MEGABYTE, 16, 100_000
_BOOSTED = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
_SINGLE = (DecisionTreeClassifier, DecisionTreeRegressor)
_FORESTS = (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)


class ForeignTypesError(ValueError):
    """A file holds types that it must not hold."""


def save(state: Any, path: Path) -> None:
    """Write fitted models, or lists and dictionaries of them, whole or not at all. No pickle.

    Raises ForeignTypesError for types other than `OWN`, and ValueError for those that skops cannot write.
    """
    try:
        data = skops.io.dumps(state, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    except Exception as error:  # of many types: whatever the state's own __reduce__ and __getstate__ raise
        raise ValueError(f"{type(state).__name__} cannot be written without pickle: {_first_line(error)}") from error
    _check_own(_unpacked(data)[1])
    replace_file(path, lambda draft: draft.write_bytes(data))


def load(data: bytes, *, own: bool) -> Any:
    """Inverse of `save`, for the content of a file.

    own: admit the types in `OWN` only, plain Python and NumPy apart, and not all that skops trusts.

    Raises ForeignTypesError, naming the types, for others, and ValueError for what is no such file, unpacks to far more
    than its size, or holds trees that lead out of themselves.
    """
    try:
        archive, types = _unpacked(data)
        if own:
            _check_own(types)
        state = skops.io.load(archive, trusted=list(TRUSTED))
    except ForeignTypesError:
        raise
    except (UntrustedTypesFoundException, UnsupportedTypeException) as error:
        raise ForeignTypesError(_first_line(error)) from error
    # skops fails in many ways on a file that is none of its own or was tampered with.
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {_first_line(error)}") from error
    _check_trees(state)
    return state


def load_classifier(path: Path) -> Any:
    """A classifier that a user names, from a skops file. Raises ValueError if there is none that may be loaded."""
    data = read(path, LIMIT)
    try:
        return load(data, own=False)
    except ForeignTypesError as error:
        raise ValueError(
            f"{path} holds types that are not trusted, and is refused: {error}; import it from your own code instead, "
            "as module:attribute"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not a model that skops wrote: {error}") from error


def _unpacked(data: bytes) -> tuple[io.BytesIO, set[str]]:
    """The archive with its entries uncompressed, and the full names of all types and functions in it."""
    left, types, unpacked = max(_SMALL, _RATIO * len(data)), set[str](), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(unpacked, "w") as target:
        entries = source.infolist()
        if len(entries) > _ENTRIES or len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("it has too many entries, or two of one name")
        for entry in entries:
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is compressed in another way than skops files are")
            with source.open(entry) as stream:
                content = stream.read(min(entry.file_size, left) + 1)
            left -= len(content)
            if left < 0:
                raise ValueError("it unpacks to far more than its size")
            if content.startswith(b"PK"):
                raise ValueError("it holds another archive")
            if entry.filename == "schema.json":
                tree = json.loads(content)
                types = set(_types(tree))
                content = json.dumps(tree).encode()
            target.writestr(entry.filename, content)
    return unpacked, types


def _types(tree: Any) -> Iterator[str]:
    """The full names of all types and functions in schema.json, whose nodes lose their identity on the way.

    skops writes every object out in full wherever it occurs. A file that names objects instead could hold a few
    objects that stand for a number without end.
    """
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if not isinstance(node.get("__id__"), dict):  # a dictionary's own key of that name leads to a node
                node.pop("__id__", None)
            if isinstance(node.get("__class__"), str):
                yield f"{node.get('__module__')}.{node['__class__']}"
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _check_own(types: set[str]) -> None:
    foreign = {name for name in types if name.partition(".")[0] not in ("builtins", "numpy")} - OWN
    if foreign:
        raise ForeignTypesError(", ".join(sorted(foreign)))


def _check_trees(state: Any) -> None:
    """Raise ValueError unless all trees are such as compiled code can follow.

    Children have to come after their parents, or a walk would never end, and inside the tree, and splits have to ask
    for a column that the model has; scikit-learn looks at none of this.
    """
    seen: set[int] = set()
    trees: set[int] = set()
    sound: set[int] = set()
    waiting = [state]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if _name(one) in (_TREE, _PREDICTOR):
            trees.add(id(one))
        elif isinstance(one, (*_SINGLE, *_FORESTS, *_BOOSTED)):
            sound |= {id(tree) for tree in _sound_trees(one)}
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple, set)):
            waiting += one
        elif isinstance(one, np.ndarray):
            waiting += one.ravel().tolist() if one.dtype == object else []
        else:
            waiting += getattr(one, "__dict__", {}).values()
    if trees - sound:
        raise ValueError("it holds trees outside of the models that trees are known in")


def _sound_trees(model: Any) -> Iterator[Any]:
    """The trees of one model. Raises ValueError, see `_check_trees`."""
    columns = vars(model).get("n_features_in_")
    if isinstance(model, _FORESTS):
        members = np.asarray(vars(model).get("estimators_", []), dtype=object).ravel().tolist()
        if not all(isinstance(tree, _SINGLE) and vars(tree).get("n_features_in_") == columns for tree in members):
            raise ValueError("it holds a forest whose trees are of other columns")
    elif isinstance(model, _SINGLE):
        if "tree_" not in vars(model):
            return  # what a forest's trees are copied from
        tree = model.tree_
        if _name(tree) != _TREE or tree.n_features != columns or tree.node_count != tree.capacity:
            raise ValueError("it holds a tree of other columns or nodes than it says")
        inner = tree.children_left != -1
        _check_nodes(inner, tree.children_left, tree.children_right, tree.feature, columns)
        yield tree
    else:
        if vars(model).get("_preprocessor") is not None:
            raise ValueError("it holds boosting that encodes categories itself, which cannot be checked")
        for predictor in (each for trees in vars(model).get("_predictors", []) for each in trees):
            if _name(predictor) != _PREDICTOR or not isinstance(predictor.nodes, np.ndarray):
                raise ValueError("it holds boosting without trees")
            nodes = predictor.nodes
            inner = nodes["is_leaf"] == 0
            if nodes["is_categorical"][inner].any():
                raise ValueError("it holds boosting that splits by categories, which cannot be checked")
            _check_nodes(inner, nodes["left"], nodes["right"], nodes["feature_idx"], columns)
            yield predictor


def _check_nodes(inner: np.ndarray, left: np.ndarray, right: np.ndarray, feature: np.ndarray, columns: Any) -> None:
    """inner: bool ``(M,)``, the nodes with children; the others are ``(M,)`` integers."""
    own = np.arange(len(inner))
    ends = all(((child > own) & (child < len(own)))[inner].all() for child in (left.astype(int), right.astype(int)))
    known = isinstance(columns, int) and ((feature >= 0) & (feature < columns))[inner].all()
    if not (len(own) and ends and known):
        raise ValueError("it holds a tree that leads out of itself, or to columns that there are not")


def _name(one: Any) -> str:
    return f"{type(one).__module__}.{type(one).__qualname__}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:300]
