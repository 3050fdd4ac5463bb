"""What is read, beside what other libraries read of the same files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
from safetensors.numpy import load_file

import thermoscope
from thermoscope import Run, ThermoscopeError

PLACE = ["step", "replica", "metric", "site", "layer", "head", "index"]


def same(found: pandas.DataFrame, wanted: pandas.DataFrame) -> None:
    assert len(wanted) > 0
    one, other = (table.sort_values(PLACE).reset_index(drop=True) for table in (found, wanted))
    pandas.testing.assert_frame_equal(one, other, check_dtype=False)


def test_the_run_is_what_was_asked_for(small: Run) -> None:
    assert (small.kind, small.status, small.replicas) == ("run", "finished", ["main", "shuffled"])
    assert small.config["seed"] == 3 and small.config["optimizer"]["learning_rate"] == 0.01
    assert small.config["measure"]["every"]["loss.test"] == 5
    assert "120 of 120 steps" in repr(small)
    assert small.cards["loss.test"]["every"] == 5 and small.cards["loss.test"]["unit"] == "nats"


def test_the_table_is_that_which_pandas_reads(small: Run, whole: pandas.DataFrame) -> None:
    same(small.pandas(), whole)
    assert list(small.metrics().columns) == list(whole.columns)


def test_rows_are_chosen_as_by_hand(small: Run, whole: pandas.DataFrame) -> None:
    same(small.pandas("loss.test", replica=1), whole[(whole.metric == "loss.test") & (whole.replica == 1)])
    heads = whole[(whole.metric == "attention_entropy") & (whole["head"] == 1) & whole.step.between(10, 20)]
    same(small.pandas("attention_entropy", layer=0, head=1, step=(10, 20)), heads)
    same(small.pandas(["loss.train", "loss.test"], step=100, replica=[0, 1]),
         whole[whole.metric.isin(["loss.train", "loss.test"]) & (whole.step == 100)])  # fmt: skip
    same(small.pandas("weight_norm", site="embed.W_E"), whole[(whole.metric == "weight_norm") & (whole.site == "embed.W_E")])
    same(small.pandas("ablation.logit_difference", index=[0, 1]),
         whole[(whole.metric == "ablation.logit_difference") & whole["index"].isin([0, 1])])  # fmt: skip
    assert small.metrics("loss.test", step=(3, 4)).is_empty(), "measured at every fifth step"


def test_rows_come_in_the_order_of_steps_whatever_the_segments(small: Run) -> None:
    assert len(list((small.path / "metrics").glob("*.parquet"))) > 1
    steps = small.metrics("loss.train", replica=0)["step"].to_list()
    assert steps == list(range(121))


def test_sql_says_the_same(small: Run, whole: pandas.DataFrame) -> None:
    found = small.sql("select step, avg(value) as mean from metrics where metric = 'loss.test' group by step order by step")
    wanted = whole[whole.metric == "loss.test"].groupby("step").value.apply(lambda values: values.astype(float).mean())
    np.testing.assert_allclose([row[1] for row in found.fetchall()], wanted.to_numpy(), rtol=1e-12)
    saved = small.sql("select step from events where kind = 'checkpoint' order by step").fetchall()
    assert saved == [(50,), (100,), (120,)]
    with pytest.raises(ThermoscopeError, match="metricks"):
        small.sql("select * from metricks")


def test_events_are_the_lines_of_their_file(small: Run, tmp_path: Path) -> None:
    lines = (small.path / "events.jsonl").read_text().splitlines()
    assert small.events == [json.loads(line) for line in lines]
    assert {"start", "checkpoint", "finish"} <= {event["kind"] for event in small.events}
    # One that another process is writing ends in the middle of a line.
    for name in ("run.json", "events.jsonl"):
        shutil.copy(small.path / name, tmp_path)
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"step": 12')
    assert thermoscope.load_run(tmp_path).events == small.events


def test_weights_are_those_of_one_replica(small: Run) -> None:
    assert small.checkpoints == [50, 100, 120]
    # One that was being written when the run was killed is none.
    torn = small.path / "checkpoints/step-000130.partial"
    torn.mkdir()
    (torn / "state.json").write_text("{}")
    assert small.checkpoints == [50, 100, 120]
    shutil.rmtree(torn)
    file = load_file(small.path / "checkpoints/step-000050/model.safetensors")
    for replica in (0, 1):
        weights = small.weights(50, replica)
        assert weights.keys() == file.keys() and weights["blocks.0.attn.W_Q"].shape == (2, 16, 8)
        for name, value in weights.items():
            assert value.dtype == np.float32
            np.testing.assert_array_equal(value, file[name][replica])
    last = small.weights()["embed.W_E"]
    np.testing.assert_array_equal(last, small.weights(120)["embed.W_E"])
    assert not np.array_equal(last, small.weights(100)["embed.W_E"])


def test_weights_of_a_run_of_one_replica_have_no_axis_for_it(small: Run, tmp_path: Path) -> None:
    arms = [{"name": "alone"}]
    one = thermoscope.fork(small, 100, arms, tmp_path / "fork", steps=102)
    assert one.replicas == ["alone", "sham"] or one.replicas == ["alone"]
    assert one.weights()["embed.W_E"].shape == (14, 16)


def test_mistakes_are_told(small: Run, tmp_path: Path) -> None:
    with pytest.raises(ThermoscopeError, match="holds no run"):
        thermoscope.load_run(tmp_path)
    with pytest.raises(ThermoscopeError, match=r"did you mean .*loss\.test"):
        small.metrics("loss.tset")
    with pytest.raises(ThermoscopeError, match="steps 50, 100, 120"):
        small.weights(51)
    with pytest.raises(ThermoscopeError, match="replicas 0 to 1"):
        small.weights(50, 2)
    with pytest.raises(ThermoscopeError, match="only scans have findings"):
        small.findings
