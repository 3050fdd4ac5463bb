"""The pictures: what is drawn, and that little is left to draw."""

from typing import Any

import polars as pl
import pytest

from thermoscope import Run, ThermoscopeError
from thermoscope.plot import thin


def rows(chart: Any) -> list[dict[str, Any]]:
    """All rows of a chart's tables."""
    return [row for table in chart.to_dict()["datasets"].values() for row in table]


def test_loss_is_drawn_as_it_is_in_the_table(small: Run) -> None:
    drawn = [row for row in rows(small.plot.loss(replica=1)) if row["series"] == "loss.train"]
    table = small.metrics("loss.train", replica=1)
    assert [row["value"] for row in drawn] == table["value"].to_list() and {row["arm"] for row in drawn} == {"shuffled"}


def test_chance_is_drawn_where_the_card_knows_one(small: Run) -> None:
    drawn = rows(small.plot.accuracy())
    assert [row["value"] for row in drawn if row["series"] == "chance"] == [pytest.approx(1 / 13)]


def test_every_head_is_drawn_beside_its_null(small: Run) -> None:
    drawn = rows(small.plot.heads(replica=0))
    effects = small.metrics("ablation.logit_difference", replica=0, index=1, head=1)
    shown = [row["value"] for row in drawn if row["head"] == "L0 H1" and row.get("baseline") == "mean"]
    assert shown == effects["value"].to_list()
    band = [row for row in drawn if row.get("low") is not None and row["head"] == "L0 H0"]
    assert len(band) == len(effects) and all(row["low"] <= row["high"] for row in band)


def test_the_map_shows_the_last_effect_of_each_head(small: Run) -> None:
    for step, last in ((None, 120), (70, 60)):
        drawn = rows(small.plot.effects(step=step))
        table = small.metrics("ablation.logit_difference", replica=0, index=0, head=[0, 1], step=last)
        assert [row["value"] for row in drawn] == table.sort("head")["value"].to_list()


def test_spectra_keys_and_turns_are_drawn(small: Run) -> None:
    norms = rows(small.plot.spectrum())
    assert {row["index"] for row in norms} == set(small.metrics("fourier_norm", site="embed.W_E")["index"])
    keys = rows(small.plot.keys())
    assert {row["rule"].split(":")[0] for row in keys} <= {"W_E", "logits"} and keys
    turned = [event for event in small.events if "subject" in event]
    assert len(rows(small.plot.turns())) == len(turned) > 0


def test_any_metric_has_a_picture_whose_lines_have_names(small: Run) -> None:
    drawn = rows(small.plot.lines("attention_entropy", replica=[0, 1]))
    assert {(row["series"], row["arm"]) for row in drawn} == {(f"L0 H{h}", arm) for h in (0, 1) for arm in small.replicas}
    names = small.cards["margin.test"]["index"]
    assert {row["series"] for row in rows(small.plot.lines("margin.test"))} == {*names, "chance"}


def test_what_cannot_be_drawn_is_told(small: Run) -> None:
    with pytest.raises(ThermoscopeError, match="too many to tell apart"):
        small.plot.lines(["weight_norm", "grad_norm", "update_norm"], replica=[0, 1])
    with pytest.raises(ThermoscopeError, match="no values at nowhere"):
        small.plot.spectrum("nowhere")


def test_a_long_line_becomes_short_and_keeps_its_spikes_and_its_end() -> None:
    values = [0.0] * 100_000
    values[4321], values[87_654], values[-1] = 50.0, -50.0, 1.0
    table = pl.DataFrame({"line": ["a"] * 100_000 + ["b"] * 3, "step": [*range(100_000), 0, 1, 2], "value": [*values, 1.0, 2.0, 3.0]})
    short = thin(table, ["line"])
    a = short.filter(pl.col("line") == "a")
    assert len(a) <= 402 and a["step"].is_sorted()
    assert dict(zip(a["step"], a["value"]))[4321] == 50 and dict(zip(a["step"], a["value"]))[87_654] == -50
    assert a.row(-1) == ("a", 99_999, 1.0)
    assert short.filter(pl.col("line") == "b")["value"].to_list() == [1, 2, 3]
