"""What an installed wheel must do, run as a script outside the checkout: `python smoke_wheel.py`."""

import subprocess
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import backbones
import recourse_gen
from recourse_gen import Constraints, RecourseGenerator, registry


def people(size: int, random: np.random.Generator) -> tuple[pd.DataFrame, pd.Series]:
    """A small loan table with a number, a count and a category, and whether the loan was granted."""
    frame = pd.DataFrame(
        {
            "income": random.normal(50.0, 10.0, size).round(1),
            "late_payments": random.integers(0, 6, size),
            "job": random.choice(["none", "part", "full"], size),
            "age": random.integers(20, 60, size),
        }
    )
    points = (frame["income"] - 50.0) / 10.0 - 0.8 * (frame["late_payments"] - 2) + (frame["job"] == "full")
    return frame, (points > 0).astype(int)


def check_installed() -> None:
    """Both packages come from site-packages, typed, and the generators are found."""
    installed = Path(sysconfig.get_paths()["purelib"]).resolve()
    for package in (recourse_gen, backbones):
        folder = Path(str(package.__file__)).resolve().parent
        assert folder.parent == installed, f"{package.__name__} was imported from {folder}, not from {installed}"
        assert (folder / "py.typed").exists(), f"{package.__name__} lacks py.typed"
    assert "ar" in registry.names(), f"registered backbones: {registry.names()}"


def check_recourse() -> None:
    """Fit, generate, save, load: the answers are valid, allowed, typed like the input, and survive the folder."""
    frame, granted = people(200, np.random.default_rng(0))
    columns = make_column_transformer((OneHotEncoder(), ["job"]), remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression(max_iter=2000)).fit(frame, granted)
    denied = frame[model.predict(frame) == 0].head(5)

    generator = RecourseGenerator(backbone="ar", seed=0, pairs={"top_k": 20}, training={"steps": 100})
    generator.fit(frame, granted, classifier=model, constraints=Constraints(immutable=["age"]))
    found = generator.generate(denied, n=2, candidates=20, audit=False)
    answers = found.to_frame()
    assert len(found.report) == 2 * len(denied)
    assert len(answers) > 0, found.report.to_string()
    assert list(answers.columns) == list(frame.columns)
    assert (answers.dtypes == frame.dtypes).all()
    assert (model.predict(answers) == 1).all()
    factual = answers.index.get_level_values(0)
    assert (answers["age"].to_numpy() == denied.loc[factual, "age"].to_numpy()).all()

    with tempfile.TemporaryDirectory() as folder:
        generator.save(Path(folder) / "run")
        again = RecourseGenerator.load(Path(folder) / "run", classifier=model)
        pd.testing.assert_frame_equal(again.generate(denied, n=2, candidates=20, audit=False).to_frame(), answers)


def check_command() -> None:
    """The command is there, and finds the generators too."""
    command = Path(sysconfig.get_path("scripts")) / "recourse-gen"
    for argument, told in (("--version", recourse_gen.__version__), ("backbones", "backbones.ar:Autoregressive")):
        assert told in subprocess.run([command, argument], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    check_installed()
    check_command()
    check_recourse()
    print(f"recourse-gen {recourse_gen.__version__}: installed, found {registry.names()}, recourse works")
