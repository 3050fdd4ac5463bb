"""The report's main pictures, as charts of Altair: notebooks show them as they are, and they can be changed further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._command import ThermoscopeError, need

if TYPE_CHECKING:
    import altair as alt
    import polars as pl

    from ._run import Run

# Points of one line that a picture of usual width can show, and columns and lines of one that can be told apart.
_POINTS = 400
_COLUMNS = 200
_LINES = 40
_BASELINES = ("zero", "mean", "resample")
_EFFECT = "ablation.logit_difference"


def thin(table: pl.DataFrame, by: Sequence[str], points: int = _POINTS) -> pl.DataFrame:
    """At most so many rows of each line, so that a picture stays small: of stretches of equal length those with the
    smallest and the largest value, so that spikes stay, and the last."""
    pl: Any = need("polars", "data")
    at, count = pl.int_range(pl.len()).over(by), pl.len().over(by)
    stretches = table.with_columns(_stretch=pl.when(count <= points).then(at).otherwise(at * (points // 2) // count))
    value = pl.col("value")
    kept = [pl.exclude("_stretch").get(where) for where in (value.arg_min(), value.arg_max())]
    groups = stretches.group_by([*by, "_stretch"], maintain_order=True)
    ends = table.group_by(list(by), maintain_order=True).last()
    rows = [groups.agg(one).drop("_stretch").select(table.columns) for one in kept]
    thinned: pl.DataFrame = pl.concat([*rows, ends.select(table.columns)]).unique(maintain_order=True)
    return thinned.sort("step", maintain_order=True)


def _place(card: dict[str, Any], row: dict[str, Any], many: dict[str, bool]) -> str:
    """What a line is called: what tells it from the others."""
    names, index = card.get("index", []), row["index"]
    words = [
        row["metric"] if many["metric"] else "",
        row["site"] if many["site"] and not (row["head"] >= 0 and row["layer"] >= 0) else "",
        f"L{row['layer']}" if row["layer"] >= 0 and (many["layer"] or row["head"] >= 0) else "",
        f"H{row['head']}" if row["head"] >= 0 else "",
        (names[index] if index < len(names) else str(index)) if index >= 0 and many["index"] else "",
    ]
    return " ".join(word for word in words if word)


def _title(text: str) -> dict[str, str]:
    """At the left, where a title wider than its chart is not cut off."""
    return {"text": text, "anchor": "start"}


class Plots:
    """Pictures of one run; ``run.plot``. All take ``replica``: a number or, where lines stay legible, a list of them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._alt: Any = need("altair", "notebook")
        self._pl: Any = need("polars", "data")

    def lines(
        self,
        metric: str | Sequence[str],
        *,
        replica: int | Sequence[int] = 0,
        log: bool = False,
        title: str | None = None,
        **where: Any,
    ) -> alt.LayerChart:
        """Any metrics over the steps, with their chance levels; ``where`` as in :meth:`Run.metrics`.

        >>> run.plot.lines("attention_entropy", layer=0)
        """
        alt, pl = self._alt, self._pl
        names = [metric] if isinstance(metric, str) else list(metric)
        table = self._run.metrics(names, replica=replica, **where)
        # What is no finite number has no place on an axis, nor has 0 on one of logarithms.
        table = table.filter(pl.col("value").is_finite() & (pl.col("value") > 0 if log else True))
        if table.is_empty():
            raise ThermoscopeError(f"there is no value of {', '.join(names)} to draw")
        cards, called = self._run.cards, self._run.replicas
        places = ["metric", "site", "layer", "head", "index", "replica"]
        lines = table.select(places).unique(maintain_order=True)
        if len(lines) > _LINES:
            raise ThermoscopeError(
                f"{len(lines)} lines are too many to tell apart; choose by layer=, head=, index=, site= or replica="
            )
        many = {column: lines[column].n_unique() > 1 for column in places}
        labels = [
            _place(dict(cards[row["metric"]]), row, many) or row["metric"] for row in lines.iter_rows(named=True)
        ]
        lines = lines.with_columns(
            series=pl.Series(labels),
            arm=pl.Series([called[replica] for replica in lines["replica"]]),
        )
        table = thin(table, places).join(lines, on=places)
        units = {cards[name].get("unit", "") for name in names}
        unit = next(iter(units)).removeprefix("1") if len(units) == 1 else ""
        scale = alt.Scale(type="log" if log else "linear", zero=False)
        x = alt.X("step:Q", title="step")
        chart = alt.Chart(table.select("step", "value", "series", "arm")).mark_line(clip=True).encode(
            x=x,
            y=alt.Y("value:Q", title=unit or None, scale=scale),
            color=alt.Color("series:N", title=None, sort=labels),
            tooltip=["series", "arm", "step", alt.Tooltip("value:Q", format=".4g")],
        )
        if many["replica"]:
            chart = chart.encode(strokeDash=alt.StrokeDash("arm:N", title=None))
        layers = [chart]
        chances = {cards[name]["chance"] for name in names if "chance" in cards[name]}
        if chances:
            levels = pl.DataFrame({"value": sorted(chances), "series": ["chance"] * len(chances)})
            rule = alt.Chart(levels).mark_rule(color="#999", strokeDash=[4, 4])
            layers.insert(0, rule.encode(y="value:Q", tooltip=["series", "value"]))
        return alt.layer(*layers).properties(width=560, height=220, title=_title(title or ", ".join(names)))

    def loss(self, **where: Any) -> alt.LayerChart:
        """Train and test loss, on an axis of logarithms."""
        return self.lines(self._there("loss.train", "loss.test"), log=True, title="Loss", **where)

    def accuracy(self, **where: Any) -> alt.LayerChart:
        """Train and test accuracy."""
        return self.lines(self._there("accuracy.train", "accuracy.test"), title="Accuracy", **where)

    def heads(self, *, replica: int = 0, layer: int | None = None) -> alt.FacetChart:
        """What ablating each head does to the logit difference of the probe, a small chart for each, beside the null: where
        95 % of random subspaces of the same size fall, of what the same layer writes. A head that raises it beyond the band
        suppresses, one that lowers it contributes, where its effect differs from 0 too."""
        alt, pl = self._alt, self._pl
        effects = self._run.metrics(_EFFECT, replica=replica, layer=layer, index=[0, 1, 2])
        effects = effects.filter((pl.col("head") >= 0) & pl.col("value").is_finite())
        if effects.is_empty():
            raise ThermoscopeError(f"no head of replica {replica} was ablated in {self._run.path}")
        effects = thin(effects, ["layer", "head", "index"]).select(
            "step",
            "layer",
            "value",
            head=pl.format("L{} H{}", "layer", "head"),
            baseline=pl.col("index").replace_strict(dict(enumerate(_BASELINES)), return_dtype=pl.String),
        )
        null = self._run.metrics("ablation.null", replica=replica, layer=layer, index=[3, 5])
        both = null.pivot("index", index=["step", "layer"], values="value").rename({"3": "low", "5": "high"})
        # Every chart carries its layer's band: a facet has one table.
        heads = effects.select("layer", "head").unique(maintain_order=True).sort("head")
        most = max(_POINTS // 2, 1)
        step = both["step"].unique().sort().gather_every(max(1, both["step"].n_unique() // most))
        band = heads.join(both.filter(pl.col("step").is_in(step.implode())), on="layer")
        table = pl.concat([effects, band], how="diagonal")
        x = alt.X("step:Q", title=None)
        # Each layer draws the rows that it has values of: one without would break its path.
        area = alt.Chart().transform_filter("isValid(datum.low)").mark_area(color="#bbb", opacity=0.6)
        area = area.encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q")
        lines = alt.Chart().transform_filter("isValid(datum.value)").mark_line(clip=True).encode(
            x=x,
            y=alt.Y("value:Q", title=None),
            color=alt.Color("baseline:N", title=None, sort=list(_BASELINES)),
            tooltip=["head", "baseline", "step", alt.Tooltip("value:Q", format=".3g")],
        )
        facet = alt.Facet("head:N", title=None, sort=heads["head"].to_list())
        title = "Ablating each head: change of the logit difference, beside random subspaces"
        chart = alt.layer(area, lines, data=table).properties(width=150, height=110).facet(facet, columns=4)
        return chart.properties(title=_title(title))

    def effects(self, *, replica: int = 0, step: int | None = None) -> alt.LayerChart:
        """A map of the heads: what taking each away (zero) does to the logit difference, the last time it was measured by
        ``step``."""
        alt, pl = self._alt, self._pl
        until = None if step is None else (0, step)
        table = self._run.metrics(_EFFECT, replica=replica, index=0, step=until).filter(pl.col("head") >= 0)
        if table.is_empty():
            raise ThermoscopeError(f"no head of replica {replica} was ablated in {self._run.path} by then")
        table = table.group_by("layer", "head", maintain_order=True).last().sort("layer", "head")
        size = max(map(abs, table["value"].to_list())) or 1.0
        colour = alt.Scale(scheme="redblue", domain=[-size, size], reverse=True)
        base = alt.Chart(table.select("step", "layer", "head", "value")).encode(
            x=alt.X("head:O", title="head"), y=alt.Y("layer:O", title="layer", sort="descending")
        )
        cells = base.mark_rect().encode(
            color=alt.Color("value:Q", title=self._run.cards[_EFFECT]["unit"], scale=colour), tooltip=["layer", "head", "step", "value"]
        )
        dark = alt.when(f"abs(datum.value) > {0.6 * size}").then(alt.value("white")).otherwise(alt.value("black"))
        numbers = base.mark_text(fontSize=10).encode(text=alt.Text("value:Q", format="+.2f"), color=dark)
        title = f"Ablating each head: change of the logit difference, step {max(table['step'].to_list())}"
        heads, layers = table["head"].n_unique(), table["layer"].n_unique()
        return alt.layer(cells, numbers).properties(width=46 * heads, height=30 * layers, title=_title(title))

    def spectrum(self, site: str = "embed.W_E", *, replica: int = 0) -> alt.Chart:
        """Frequencies in the embedding (``embed.W_E``) or in ``W_L`` = W_out W_U over the steps."""
        alt, pl = self._alt, self._pl
        table = self._run.metrics("fourier_norm", site=site, replica=replica, layer=[-1, 0])
        if table.is_empty():
            raise ThermoscopeError(f"fourier_norm has no values at {site} in replica {replica}")
        steps = table["step"].unique().sort()
        table = table.filter(pl.col("step").is_in(steps.gather_every(len(steps) // _COLUMNS + 1).implode()))
        return (
            alt.Chart(table.select("step", "index", "value"))
            .mark_rect()
            .encode(
                x=alt.X("step:O", title="step", axis=alt.Axis(labelOverlap=True, ticks=False)),
                y=alt.Y("index:O", title="frequency", sort="descending", axis=alt.Axis(labelOverlap=True)),
                color=alt.Color("value:Q", title="norm", scale=alt.Scale(scheme="viridis")),
                tooltip=["step", "index", "value"],
            )
            .properties(width=560, height=260, title=_title(f"Frequencies in {site}"))
        )

    def keys(self, *, replica: int = 0) -> alt.Chart:
        """Which frequencies are key over the steps, by the rules of the embedding and of the logits."""
        alt, pl = self._alt, self._pl
        rules = {"key_frequencies": "W_E: norm above a quarter of the largest",
                 "key_frequencies.logits": "logits: more than 1 % of the power"}  # fmt: skip
        tables = []
        for metric in self._there(*rules):
            table = self._run.metrics(metric, replica=replica)
            steps = table["step"].unique().sort()
            every = len(steps) // _COLUMNS + 1
            table = table.filter(pl.col("step").is_in(steps.gather_every(every).implode()))
            # A flag stands until the next time that it is looked at.
            until = pl.col("step") + every * self._run.cards[metric]["every"]
            tables.append(table.select("step", "index", until=until, rule=pl.lit(rules[metric])))
        return (
            alt.Chart(pl.concat(tables))
            .mark_bar(height=3)
            .encode(
                x=alt.X("step:Q", title="step"),
                x2="until:Q",
                y=alt.Y("index:Q", title="frequency"),
                color=alt.Color("rule:N", title=None, legend=None),
                row=alt.Row("rule:N", title=None, header=alt.Header(labelAngle=0, labelOrient="top", labelAnchor="start")),
                tooltip=["step", "index", "rule"],
            )
            .properties(width=560, height=150, title=_title("Key frequencies"))
        )

    def turns(self, *, replica: int | None = None) -> alt.Chart:
        """Births, deaths and flips of keys and heads."""
        alt, pl = self._alt, self._pl
        rows = [
            {"step": event["step"], "kind": event["kind"], "who": event["subject"].get("role") or event["subject"]["metric"],
             "what": event["text"]}  # fmt: skip
            for event in self._run.events
            if "subject" in event and replica in (None, event.get("replica"))
        ]
        if not rows:
            raise ThermoscopeError(f"nothing was born or died in {self._run.path} yet")
        colours = alt.Scale(domain=["birth", "death", "flip"], range=["#2a9d4a", "#9a3b3b", "#e07b00"])
        return (
            alt.Chart(pl.DataFrame(rows))
            .mark_point(filled=True, size=60)
            .encode(
                x=alt.X("step:Q", title="step"),
                y=alt.Y("who:N", title=None, axis=alt.Axis(labelLimit=200)),
                color=alt.Color("kind:N", title=None, scale=colours),
                shape=alt.Shape("kind:N", legend=None),
                tooltip=["step", "kind", "what"],
            )
            .properties(width=560, title=_title("Births, deaths and flips"))
        )

    def _there(self, *metrics: str) -> list[str]:
        """Those that were measured."""
        found = [name for name in metrics if name in self._run.cards]
        if not found:
            raise ThermoscopeError(f"{self._run.path} has none of {', '.join(metrics)}")
        return found
