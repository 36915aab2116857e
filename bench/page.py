"""The page of the paper's comparison: a function of the results file alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bench import frontier
from bench.cells import table
from bench.frontier import ENOUGH
from bench.methods import CEILING, FEWEST, OURS, PARTNER, SEVERAL
from bench.methods import PAPER as AS_PUBLISHED
from bench.protocol import OUTLIERS, PUBLISHED
from recourse_gen.search import SearchOptions


class Column(NamedTuple):
    """A measure: heading, format, which way is better (1, −1, 0 for neither), and whether it is a mean over answers."""

    heading: str
    form: str
    better: int = 1
    of_answers: bool = False


PAPER = {
    "cost": Column("cost ↓", "{:.3f}", -1, True),
    "validity_judge": Column("valid, judge ↑", "{:.3f}"),
    "plausibility": Column("plausible, LOF ↑", "{:.3f}"),
    "score": Column("score ↑", "{:.3f}"),
    "lead": Column("lead ↑", "{:+.3f}"),
    "n_changed": Column("changes ↓", "{:.2f}", -1, True),
    "found": Column("found ↑", "{:.3f}"),
    "seconds_per_factual": Column("s per person ↓", "{:.4f}", -1),
}
BEYOND = {
    "second_critic": Column("plausible, second critic ↑", "{:.3f}"),
    "retrained": Column("valid, retrained ↑", "{:.3f}"),
    "other_models": Column("valid, other models ↑", "{:.3f}"),
    "validity": Column("valid, classifier ↑", "{:.3f}"),
    "constraint_violations": Column("violations ↓", "{:.1f}", -1),
    "diversity": Column(f"diversity, n = {SEVERAL} ↑", "{:.3f}", 1, True),
    "skill_5": Column("skill, λ = 5 ↑", "{:.3f}"),
    "skill_10": Column("skill, λ = 10 ↑", "{:.3f}"),
    "joint_skill_10": Column("joint skill, λ = 10 ↑", "{:.3f}"),
    "fit_seconds": Column("fitting, s", "{:.1f}", 0),
    "steps": Column("steps", "{:.0f}", 0),
}
VERDICTS = ("score", "cost", "validity_judge", "plausibility", "n_changed", "second_critic", "retrained")
GROUP = ("data", "split", "factuals", "quick", "settings")
TRAINED = ("training.", "threads=")  # settings that say how a network was trained, and nothing of the world
SPARING = {f"{name}, fewest changes": name for name in OURS}  # rows of ours asked with the options `FEWEST`
MINE = (*OURS, *SPARING)
INTRO = f"""# The paper's comparison

Made by `bench/paper.py` from `{{name}}`, one line per data set, seed and method; do not edit. Each section
says which command made it. The protocol is that of GenRe (Garg, Nagalapatti, Sarawagi, ICLR 2025): an independent judge
draws the labels, a perceptron learns them, and people whom it turns down are helped.

- *cost*: mean L1 over columns scaled to their range; *valid, judge*: the judge says yes; *plausible, LOF*: inlier among
  rows that the judge favours; *score* = valid + plausible − cost / d, at most 2; *lead*: the score less that of the
  nearest partner, the cheapest training row that may be recommended. Shares are of all people: one without an answer
  counts as neither valid nor plausible. Cost and changes are means over answers.
- *second critic*: inlier of an isolation forest on held-out rows that the judge favours, of which it takes
  {100 * OUTLIERS:.0f} % for outliers. *retrained*: classifiers of the same kind with other random states and on other
  draws of the rows. *other models*: other kinds of classifier, on other draws of the rows. *skill*: closeness to the
  law Q that ours were trained on, 1 for Q itself.
- Figures are means over seeds ± standard deviation. **Bold** is best; in cost, changes and diversity, best among those
  who answer {100 * ENOUGH:.0f} % of the people. Times are as they were on a machine that may have had other work.
- A seed is another world, and scores of different worlds, the published ones included, differ by more than methods do:
  compare leads. The published row is the authors', on their split.
- `{AS_PUBLISHED}` has the published network (16 + 16 layers of width 32, 50 bins, blurred targets, λ = 5) and choice
  (the most confident of ten sharpened samples), trained by our loop: the *steps* of the second table, 512 pairs each,
  at a rate of 1e-3. By their code, its authors train 2000 epochs at 1e-4, in batches of 2048 (Adult: 16384), with
  dropout, eight heads and norms after each layer (here: none, four, before). What that reaches, these rows do not say.
- In the committed file, `flow` and `diffusion` made their *steps* on COMPAS, HELOC and Adult, and `ar` on COMPAS, in
  batches of 512 pairs at a rate of 2e-3, the default, and all others in batches of 256 at a rate of 4e-3, the default
  of then. To repeat these, and them alone, add `training.batch_size=256 training.learning_rate=4e-3` to `--set`.
  `flow` and `diffusion` have today's network on COMPAS, HELOC and Adult, elsewhere one that is twice as wide:
  `backbone.expansion=6`.
- Of these two on HELOC, seed 0 waited for other work for six minutes of its time of training.
- The committed file was made with the versions that `constraints.txt` pins: torch 2.13.0, numpy 2.4.6, pandas 3.1.1,
  scikit-learn 1.9.1. Cells made since note theirs.
- *fewest changes*: the same networks asked with `{", ".join(f"{key}={value}" for key, value in FEWEST.items())}`
  (by default {SearchOptions.change_price}): what one more changed column weighs, in units of cost, while answers are
  made sparse.
- *{CEILING}*, where there are few enough combinations of values to look at: the one of the highest score among all that
  the classifier approves, picked with the judge in hand. No method may ask the judge; of answers made of values that
  occur, none has more.
- The pictures: ringed points are beaten by no other in cost, *valid, judge* and *plausible, LOF* at once; the lines of
  ours follow the confidence that is asked for, from 0.5, while {100 * ENOUGH:.0f} % of the people have an answer.
- The gaps of HELOC are filled with means of each class, as in the paper, which leaks the label to all methods alike.
"""


def write(path: Path, cells: Sequence[dict[str, Any]], source: Path) -> None:
    """Make the page, and beside it ``<page>-<data>.png`` of each section, from cells of `bench.paper`. source: their
    file, for its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        name = source.resolve().relative_to(path.parent.parent.resolve()).as_posix()
    except ValueError:
        name = source.name
    parts = [INTRO.format(name=name)]
    groups = sections(cells)
    for rows, picture in zip(groups, picture_names(path, groups), strict=True):
        parts.append(section(rows, picture))
        if "frontier" in rows:
            frontier.draw(path.with_name(picture), rows[~rows["method"].isin(SPARING)], OURS, _title(rows))
    path.write_text("\n".join(parts))


def sections(cells: Sequence[dict[str, Any]]) -> list[pd.DataFrame]:
    """Cells that may be compared: of one data set and split, as many people, the same settings but for `TRAINED`. Quick
    ones are last.

    Of a method that was trained in several ways, the cells like its last line count; of a cell that was made again,
    because a package was missing, the last line. What it holds as ``fewest`` is a row of its own, see `SPARING`.
    """
    frame = pd.DataFrame(cells)
    if frame.empty:
        return []
    worlds = frame["settings"].map(lambda given: [each for each in given if not each.lstrip("+~").startswith(TRAINED)])
    frame["group"] = frame[list(GROUP)].assign(settings=worlds).astype(str).agg("|".join, axis=1)
    trained = frame["settings"].astype(str)
    frame = frame[trained == trained.groupby([frame["group"], frame["method"]]).transform("last")]
    frame = frame[~frame.duplicated(["group", "seed", "method"], keep="last")]
    groups = [_with_fewest(rows) for _, rows in frame.groupby("group", sort=False)]
    return sorted(groups, key=lambda rows: bool(rows["quick"].iloc[0]))


def _with_fewest(rows: pd.DataFrame) -> pd.DataFrame:
    about = ["group", *GROUP, "seed", "d", "command"]
    cells = rows.to_dict("records")
    fewest = [
        {**{key: cell[key] for key in about}, **cell["fewest"], "method": name}
        for name, method in SPARING.items()
        for cell in cells
        if cell["method"] == method and isinstance(cell.get("fewest"), dict)
    ]
    return pd.DataFrame([*cells, *fewest])


def picture_names(path: Path, groups: Sequence[pd.DataFrame]) -> list[str]:
    """``<page>-<data>.png`` for each group of cells, numbered where a data set has several."""
    data = [str(rows["data"].iloc[0]) for rows in groups]
    before = [data[:i].count(name) for i, name in enumerate(data)]
    return [f"{path.stem}-{name}{f'-{n + 1}' if n else ''}.png" for name, n in zip(data, before, strict=True)]


def about_world(rows: pd.DataFrame) -> str:
    """What the cells of a group have in common, for a heading."""
    first, seeds = rows.iloc[0], sorted(rows["seed"].unique())
    kind = "the paper's split" if first["split"] == "paper" else "a split of our own"
    listed = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return f"{first['data']}: {first['d']} columns, {kind}, {first['factuals']} people, {listed}"


def section(rows: pd.DataFrame, picture: str) -> str:
    """One data set: the commands, the paper's measures, those beyond, where ours lead and where not, the picture."""
    data = rows["data"].iloc[0]
    commands = "\n".join(rows["command"].drop_duplicates())
    refused = rows[rows["refused"].notna()] if "refused" in rows else rows[:0]
    told = [f"- `{r.method}` cannot work here: {r.refused}" for r in refused.drop_duplicates("method").itertuples()]
    rows = rows.drop(refused.index)
    parts = [f"## {_title(rows if len(rows) else refused)}", f"```bash\n{commands}\n```"]
    if "versions" in rows and len(noted := rows["versions"].dropna().unique()):
        parts.append(f"Made with {'; '.join(noted)}.")
    if len(rows):
        parts += [_table(rows, PAPER, PUBLISHED.get(data)), "\n".join([*verdicts(rows), *told])]
        parts += [_table(rows, BEYOND), f"![cost against validity and plausibility]({picture})"]
    else:
        parts.append("\n".join(told))
    return "\n\n".join(parts) + "\n"


def verdicts(rows: pd.DataFrame) -> list[str]:
    """One sentence per measure: who is best, and plainly so where it is none of ours."""
    said = []
    for key in VERDICTS:
        column = {**PAPER, **BEYOND}[key]
        means = _eligible(rows, key, column)
        ours, others = means[means.index.isin(MINE)], means[~means.index.isin(MINE)]
        if ours.empty or others.empty:
            continue
        mine, other = (str((column.better * each).idxmax()) for each in (ours, others))
        shown, theirs = column.form.format(ours[mine]), column.form.format(others[other])
        ahead = column.better * (ours[mine] - others[other])
        heading = column.heading.rstrip(" ↑↓")
        apart = _apart(rows, key, mine, other)
        if shown == theirs:
            said.append(f"- {heading}: level, {shown}: `{mine}` of ours, `{other}` of the others.")
        elif ahead > 0:
            said.append(f"- {heading}: `{mine}` leads with {shown}; best of the others is `{other}`, {theirs}{apart}.")
        else:
            said.append(f"- {heading}: **ours do not lead.** `{other}` has {theirs}, `{mine}` {shown}{apart}.")
    lead = rows.groupby("method", sort=False)["lead"].mean()
    behind = [f"`{name}` ({lead[name]:+.3f})" for name in lead.index if name in MINE and lead[name] < -5e-4]
    return said + ([f"- **Behind the nearest partner** by score: {', '.join(behind)}."] if behind else [])


def _apart(rows: pd.DataFrame, key: str, mine: str, other: str) -> str:
    """The difference, seed by seed."""
    by_seed = rows.pivot_table(index="seed", columns="method", values=key)
    difference = (by_seed[mine] - by_seed[other]).dropna()
    if len(difference) < 2:
        return ""
    return f" (difference {difference.mean():+.3f} ± {difference.std():.3f} over {len(difference)} seeds)"


def _eligible(rows: pd.DataFrame, key: str, column: Column) -> pd.Series:
    """Means over seeds by method, of the methods whose figure may be called best: not ours of a few seeds only."""
    if key not in rows:
        return pd.Series(dtype=float)
    grouped = rows.astype({key: float}).groupby("method", sort=False)
    means = grouped[key].mean().dropna().drop(CEILING, errors="ignore")
    partial = grouped.size()[means.index] < rows["seed"].nunique()
    means = means[~(partial & means.index.isin(MINE))]
    return means[grouped["found"].mean()[means.index] >= ENOUGH] if column.of_answers else means


def _table(rows: pd.DataFrame, columns: dict[str, Column], published: dict[str, float] | None = None) -> str:
    """Methods by measures: ours, the others, the nearest partner, the best there is, and the published row."""
    columns = {key: column for key, column in columns.items() if key in rows and rows[key].notna().any()}
    place = {name: i for i, name in enumerate([*MINE, None, PARTNER, CEILING])}
    names = sorted(rows["method"].unique(), key=lambda name: place.get(name, place[None]))
    seeds = rows["seed"].nunique()
    best = {key: _best(rows, key, column) for key, column in columns.items()}
    lines = []
    for name in names:
        own = rows[rows["method"] == name]
        line = [
            (f"*{name}*" if name == CEILING else f"`{name}`")
            + (f" ({len(own)} of {seeds} seeds)" if len(own) < seeds else "")
        ]
        for key, column in columns.items():
            values = own[key].astype(float).dropna()
            shown = column.form.format(values.mean()) if len(values) else ""
            if key == "steps" and values.nunique() > 1:
                shown = f"{values.min():.0f}–{values.max():.0f}"
            bold = f"**{shown}**" if shown and shown == best[key] and name != CEILING else shown
            spread = column.form.replace("+", "").format(values.std()) if len(values) > 1 and column.better else ""
            line.append(f"{bold} ± {spread}" if spread else bold)
        lines.append(line)
    if published:
        known = [columns[key].form.format(published[key]) if key in published else "" for key in columns]
        lines.append(["*GenRe, published notebook*", *known])
    return table(lines, ["", *(column.heading for column in columns.values())])


def _best(rows: pd.DataFrame, key: str, column: Column) -> str:
    """What the best mean looks like; empty where none is better than another."""
    means = _eligible(rows, key, column)
    return column.form.format((column.better * means).max() * column.better) if column.better and len(means) else ""


def _title(rows: pd.DataFrame) -> str:
    return about_world(rows) + (", short trainings" if rows["quick"].iloc[0] else "")
