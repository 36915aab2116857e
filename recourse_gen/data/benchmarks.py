"""The four benchmark sets: raw files from the package teacher-xai, and the recipes that make tables of them.

The package is located without being imported, because its own loaders fail on pandas 3, and a file is used only if its
sha256 is the expected one. `read_split` reads the published train and test files of the paper instead.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import pandas as pd

from recourse_gen.data.tables import check_complete, quoted, read_table

FILES = {  # data set: (file in teacher-xai 1.0.1, sha256)
    "heloc": ("heloc_dataset_v1.csv", "3ac25654f80c5ce724e2a9528e3cf3bd3f9369e44b4a5f7723eff46c330c2dfb"),
    "compas": ("compas-scores-two-years.csv", "d180e410066da845eceb452417fbf8b119633f05526bcb29ef2c5b546d8946c5"),
    "adult": ("adult.csv", "436df017aa662416b7d6e399a8a08710563c53eba65ca3a441b50ee6db79267a"),
    "german": ("german_credit.csv", "ef95f3cacbeb0ee784a60ac81e2f61cb45da516b660706eab9b574c1b95d7d86"),
}
PAPER_LABELS = {"heloc": "RiskPerformance", "compas": "score", "adult": "income"}
PAPER_COLUMNS = {
    "heloc": [
        "ExternalRiskEstimate",
        "MSinceOldestTradeOpen",
        "MSinceMostRecentTradeOpen",
        "AverageMInFile",
        "NumSatisfactoryTrades",
        "NumTrades60Ever2DerogPubRec",
        "NumTrades90Ever2DerogPubRec",
        "PercentTradesNeverDelq",
        "MSinceMostRecentDelq",
        "NumTotalTrades",
        "NumTradesOpeninLast12M",
        "PercentInstallTrades",
        "MSinceMostRecentInqexcl7days",
        "NumInqLast6M",
        "NumInqLast6Mexcl7days",
        "NetFractionRevolvingBurden",
        "NetFractionInstallBurden",
        "NumRevolvingTradesWBalance",
        "NumInstallTradesWBalance",
        "NumBank2NatlTradesWHighUtilization",
        "PercentTradesWBalance",
    ],
    "compas": ["age", "two_year_recid", "c_charge_degree", "race", "sex", "priors_count", "length_of_stay"],
    "adult": [
        "age",
        "workclass",
        "fnlwgt",
        "education-num",
        "marital-status",
        "occupation",
        "relationship",
        "race",
        "sex",
        "capital-gain",
        "capital-loss",
        "hours-per-week",
        "native-country",
    ],
}
# The COMPAS file also holds names and birth dates: nothing but these fields is parsed.
COMPAS_FIELDS = [
    "age",
    "two_year_recid",
    "c_charge_degree",
    "race",
    "sex",
    "priors_count",
    "days_b_screening_arrest",
    "is_recid",
    "c_jail_in",
    "c_jail_out",
    "score_text",
]


def read(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Features and 0/1 labels of one benchmark set; HELOC still has its negative codes."""
    return RECIPES[name](_read_raw(name))


def heloc(raw: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """FICO HELOC: 9871 rows that have a credit file, 21 integer columns; 1 = RiskPerformance "Good".

    The codes −7 (condition not met), −8 (no usable trades) and −9 (no record) are left for imputing after the split."""
    raw = raw[~(raw.drop(columns="RiskPerformance") == -9).all(axis=1)]
    return raw[PAPER_COLUMNS["heloc"]], (raw["RiskPerformance"] == "Good").to_numpy(np.int64)


def impute_median(train: pd.DataFrame, test: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Replace HELOC's codes by training values: −7 by the column's maximum, others by the median of the values ≥ 0.

    It is the lower median, a value that occurs, so that integer columns stay integers."""
    top = train.max()
    middle = train.where(train >= 0).quantile(0.5, interpolation="lower").astype(np.int64)

    def fill(part: pd.DataFrame) -> pd.DataFrame:
        return part.mask(part == -7, top, axis=1).mask((part < 0) & (part != -7), middle, axis=1)

    return fill(train), fill(test)


def impute_class_mean(frame: pd.DataFrame, y: np.ndarray) -> pd.DataFrame:
    """HELOC as the paper has it: −7 by the column's maximum, other codes by the mean of the label's values ≥ 0.

    It looks at the whole table, test rows included, and leaks the label (gradient boosting: accuracy 0.827 with class
    means, 0.729 with plain means). For comparison with published figures only."""
    means = frame.where(frame >= 0).groupby(y).transform("mean")
    return _whole_to_int(frame.mask(frame == -7, frame.max(), axis=1).mask((frame < 0) & (frame != -7), means))


def compas(raw: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """ProPublica COMPAS, cell by cell the paper's table: 6172 rows, 7 columns; 1 = the risk score is not "High"."""
    near = raw["days_b_screening_arrest"].between(-30, 30)
    raw = raw[near & (raw["is_recid"] != -1) & (raw["c_charge_degree"] != "O")]
    stay = (pd.to_datetime(raw["c_jail_out"]) - pd.to_datetime(raw["c_jail_in"])).dt.days
    race = raw["race"].where(raw["race"] == "African-American", "Other")
    kept = raw.assign(length_of_stay=stay, race=race)[[*PAPER_COLUMNS["compas"], "score_text"]].dropna()
    return kept.drop(columns="score_text"), (kept["score_text"] != "High").to_numpy(np.int64)


def adult(raw: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """UCI Adult, first half: 32561 rows, 13 columns with their real categories; 1 = income above 50K.

    `education` goes because `education-num` says the same; "?" takes the previous row's value, as in the paper.
    The paper's form (both halves, every category made binary) can only be read with `read_split`."""
    features = raw[PAPER_COLUMNS["adult"]]
    return features.mask(features == "?").ffill(), (raw["class"] == ">50K").to_numpy(np.int64)


def german(raw: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """German credit: 1000 rows, 20 columns of which 13 are categories; 1 = no default."""
    return raw.drop(columns="default"), (raw["default"] == 0).to_numpy(np.int64)


RECIPES = {"heloc": heloc, "compas": compas, "adult": adult, "german": german}


def read_split(name: str, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Train frame, test frame, train labels, test labels in the paper's form, from the two CSV files in `folder`.

    Checked: the expected columns, no missing value, labels 0 and 1. Test rows are numbered after training rows."""
    if name not in PAPER_LABELS:
        raise ValueError(f"option 'folder' is for {', '.join(PAPER_LABELS)}; {name!r} has no published split")
    if not folder.is_dir():
        raise ValueError(f"option 'folder' is {str(folder)!r}, which is not a folder")
    label, columns = PAPER_LABELS[name], PAPER_COLUMNS[name]
    parts = []
    for part in ("train", "test"):
        path = folder / f"{name}_{part}.csv"
        frame = read_table(path)
        if set(frame.columns) != {*columns, label}:
            raise ValueError(
                f"{path} has the columns {quoted(frame.columns)}; expected are {quoted([*columns, label])}"
            )
        check_complete(frame, path)
        if not frame[label].isin([0, 1]).all():
            raise ValueError(f"column {label!r} of {path} holds other labels than 0 and 1")
        parts.append(frame)
    both, cut = _whole_to_int(pd.concat(parts, ignore_index=True)), len(parts[0])
    features, y = both[columns], both[label].to_numpy(np.int64)
    return features.iloc[:cut], features.iloc[cut:], y[:cut], y[cut:]


def _read_raw(name: str) -> pd.DataFrame:
    """The raw file of a benchmark set, after its sha256 was found right."""
    file, digest = FILES[name]
    found = importlib.util.find_spec("teacher")
    if found is None:
        raise ValueError(
            f"data set {name!r} comes with the package teacher-xai, which is not installed; install it with "
            '`pip install "recourse-gen[data]"`, or in a checkout with `pip install -e ".[data]" -c constraints.txt`'
        )
    path = Path(*list(found.submodule_search_locations or ())[:1], "datasets", "data", file)
    mend = "`pip install --force-reinstall --no-deps teacher-xai==1.0.1` mends it"
    if not path.is_file():
        raise ValueError(f"data set {name!r} needs the file {path}, which is missing; {mend}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"the file {path} of data set {name!r} has been changed (its sha256 is another); {mend}")
    return pd.read_csv(io.BytesIO(content), skipinitialspace=True, usecols=COMPAS_FIELDS if name == "compas" else None)


def _whole_to_int(frame: pd.DataFrame) -> pd.DataFrame:
    """Float columns that hold whole numbers only become int64: a count is 4, not 4.0."""
    return frame.astype({c: np.int64 for c in frame.select_dtypes("float") if (frame[c] % 1 == 0).all()})
