"""A run directory, read."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import tempfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ._command import CommandError, StrPath, ThermoscopeError, export, need

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import pandas as pd
    import polars as pl

    from .plot import Plots

# One value, or several of which any will do.
Numbers = int | Iterable[int]


class Card(TypedDict, total=False):
    """What one metric is."""

    instrument: str
    formula: str
    unit: str
    axes: str
    """What the columns site, layer, head and index tell."""
    index: list[str]
    """Names of index 0, 1, 2 ..., where it stands for things with names."""
    counts: str
    """What the index is the number of, where it has no names."""
    every: int
    """Steps between two measurements in this run."""
    cost: str
    control: str
    """What it must be compared with."""
    chance: float
    """The value that says nothing."""
    bounds: list[float | None]
    source: str
    not_for: str
    """What it must not be used for."""
    set: bool
    """Whether it is a set, which has rows for its members only."""
    sites: list[str]


class Event(TypedDict, total=False):
    """Something that happened: after ``step - resolution``, and by ``step``. Kinds have fields of their own besides."""

    kind: str
    step: int
    resolution: int
    censored: str
    seen_at: int
    replica: int
    subject: dict[str, Any]
    numbers: dict[str, float]
    text: str


def load_run(path: StrPath) -> Run:
    """The run, measurement or scan in a folder; of a run under way, as far as it has come.

    Raises:
        ThermoscopeError: where the folder holds none.
    """
    return Run(path)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ThermoscopeError(f"{path} is damaged: {error}") from error


def _list(of: Numbers) -> list[int]:
    return [of] if isinstance(of, int) else list(of)


class Run:
    """What a run directory holds. Nothing is kept of it: each call reads what is there then."""

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        if not (self.path / "run.json").is_file():
            raise ThermoscopeError(f"{self.path} holds no run: there is no run.json in it")

    def __repr__(self) -> str:
        manifest = self.manifest
        total = manifest["config"].get("steps")
        how = f", {manifest['steps_done']} of {total} steps" if self.kind == "run" else ""
        return f"<thermoscope {self.kind} {self.path}: {self.status}{how}>"

    @property
    def manifest(self) -> dict[str, Any]:
        """``run.json``: configuration, adapter, when it began and stopped, hashes."""
        found: dict[str, Any] = _json(self.path / "run.json")
        return found

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, every default filled in."""
        config: dict[str, Any] = self.manifest["config"]
        return config

    @property
    def kind(self) -> str:
        """``run``, ``measurement``, ``scan``, ``series`` (of scans) or ``study``."""
        return str(self.manifest.get("kind", "run"))

    @property
    def status(self) -> str:
        """``running`` (or killed), ``interrupted`` or ``finished``."""
        return str(self.manifest["status"])

    @property
    def replicas(self) -> list[str]:
        """Names of the replicas; those without one are called by their number."""
        config = self.config
        named = config.get("replica") or [{}] * int(config.get("replicas", 1))
        return [one.get("name") or f"replica {at}" for at, one in enumerate(named)]

    @cached_property
    def cards(self) -> dict[str, Card]:
        """What each metric is, by name: formula, unit, cadence, control, chance level, bounds, source."""
        found: dict[str, Card] = _json(self.path / "metrics.json")["metrics"]
        return found

    @property
    def events(self) -> list[Event]:
        """What happened, in the order in which it was seen."""
        try:
            lines = (self.path / "events.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        # The last line of a run under way may be half there.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @property
    def findings(self) -> dict[str, Any]:
        """What a scan found (``scan.json``)."""
        path = self.path / "scan.json"
        if not path.is_file():
            raise ThermoscopeError(f"{self.path} holds a {self.kind}, and only scans have findings")
        found: dict[str, Any] = _json(path)
        return found

    @property
    def report(self) -> Path:
        """The page, made anew of what is there now."""
        from ._command import call

        call("report", self.path)
        return self.path / "report.html"

    # Tables.

    @property
    def table(self) -> pl.LazyFrame:
        """The whole metric table, not read yet: step, replica, metric, site, layer, head, index, value."""
        return self._scan("metrics")

    def _scan(self, name: str) -> pl.LazyFrame:
        polars: Any = need("polars", "data")
        folder = self.path / name
        if not any(folder.glob("part-*.parquet")):
            raise ThermoscopeError(f"nothing has been measured yet: there is no segment in {folder}")
        found: pl.LazyFrame = polars.scan_parquet(folder / "part-*.parquet")
        return found

    def metrics(
        self,
        metric: str | Iterable[str] | None = None,
        *,
        layer: Numbers | None = None,
        head: Numbers | None = None,
        index: Numbers | None = None,
        replica: Numbers | None = None,
        site: str | Iterable[str] | None = None,
        step: int | tuple[int, int] | None = None,
    ) -> pl.DataFrame:
        """Rows of the metric table, filtered while they are read: no more of the table than these comes into memory.

        Args:
            metric: One name or several; ``run.cards`` has all.
            layer, head, index, replica: One number or several; -1 where one does not apply.
            site: Tensor or hook name.
            step: One step, or the first and the last of a range.
        """
        polars: Any = need("polars", "data")
        table = self.table
        names = [metric] if isinstance(metric, str) else None if metric is None else list(metric)
        for name in names or []:
            self._check(name)
        sites = [site] if isinstance(site, str) else site
        if names is not None:
            table = table.filter(polars.col("metric").is_in(names))
        if sites is not None:
            table = table.filter(polars.col("site").is_in(list(sites)))
        places = {"layer": layer, "head": head, "index": index, "replica": replica}
        for column, wanted in places.items():
            if wanted is not None:
                table = table.filter(polars.col(column).is_in(_list(wanted)))
        if step is not None:
            first, last = (step, step) if isinstance(step, int) else step
            table = table.filter(polars.col("step").is_between(first, last))
        found: pl.DataFrame = table.collect(engine="streaming")
        # Segments are read side by side.
        return found.sort("step", maintain_order=True)

    def pandas(self, metric: str | Iterable[str] | None = None, **where: Any) -> pd.DataFrame:
        """:meth:`metrics`, as a frame of pandas."""
        need("pyarrow", "notebook")
        need("pandas", "notebook")
        return self.metrics(metric, **where).to_pandas()

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """SQL over the tables ``metrics``, ``events`` and, of scans, ``probes``, by DuckDB. What comes back is shown as a
        table, and has ``.pl()``, ``.df()`` and ``.fetchall()``.

        >>> run.sql("select step, avg(value) from metrics where metric = 'loss.test' group by step order by step")
        """
        duckdb: Any = need("duckdb", "notebook")
        connection = duckdb.connect()
        for name in ("metrics", "probes"):
            if any((self.path / name).glob("part-*.parquet")):
                connection.read_parquet(str(self.path / name / "part-*.parquet")).create_view(name)
        if self.events:
            connection.read_json(str(self.path / "events.jsonl"), format="newline_delimited").create_view("events")
        try:
            return connection.sql(query)
        except duckdb.Error as error:
            raise ThermoscopeError(f"{query}: {error}") from error

    def _check(self, metric: str) -> None:
        if metric not in self.cards:
            close = difflib.get_close_matches(metric, self.cards, 3, 0.4)
            hint = f"; did you mean {' or '.join(close)}?" if close else ", whose metrics are in `cards`"
            raise ThermoscopeError(f"{metric} was not measured in {self.path}{hint}")

    @property
    def plot(self) -> Plots:
        """The report's main pictures, as charts of Altair."""
        from .plot import Plots

        return Plots(self)

    # Checkpoints.

    @property
    def checkpoints(self) -> list[int]:
        """Steps at which the state was saved and is kept."""
        names = (state.parent.name for state in (self.path / "checkpoints").glob("step-*/state.json"))
        # One that is being written has another ending.
        return sorted(int(name[5:]) for name in names if name[5:].isdigit())

    def checkpoint(self, step: int | None = None) -> Path:
        """The folder of a checkpoint, the last if no step is named: a model folder, which every command takes."""
        steps = self.checkpoints
        if not steps:
            raise ThermoscopeError(f"{self.path} has no checkpoint yet")
        if step is not None and step not in steps:
            listed = ", ".join(map(str, steps))
            raise ThermoscopeError(f"{self.path} has no checkpoint of step {step}; there are those of steps {listed}")
        return self.path / "checkpoints" / f"step-{steps[-1] if step is None else step:06}"

    def _place(self, step: int | None, replica: int) -> Path:
        if not 0 <= replica < len(self.replicas):
            raise ThermoscopeError(f"{self.path} has replicas 0 to {len(self.replicas) - 1}, and none is {replica}")
        return self.checkpoint(step)

    def weights(self, step: int | None = None, replica: int = 0) -> dict[str, np.ndarray[Any, Any]]:
        """Weights of one replica at a checkpoint, the last if no step is named: f32, under TransformerLens's names
        (``blocks.0.attn.W_Q`` [H, D, K])."""
        safetensors: Any = need("safetensors", "data")
        need("numpy", "data")
        many = len(self.replicas) > 1
        with safetensors.safe_open(self._place(step, replica) / "model.safetensors", framework="numpy") as file:
            names = file.keys()
            return {name: file.get_slice(name)[replica] if many else file.get_tensor(name) for name in names}

    def to_hf(self, step: int | None = None, replica: int = 0) -> Any:
        """The model of a checkpoint in Hugging Face's transformers: GPT-2, GPT-NeoX or Llama, whichever fits.

        Raises:
            CommandError: with all that stands in the way, of models that none fits.
        """
        transformers: Any = need("transformers", "models")
        with tempfile.TemporaryDirectory(prefix="thermoscope-") as folder:
            one = export(self._place(step, replica), "hf", Path(folder, "hf"), replica)
            return transformers.AutoModelForCausalLM.from_pretrained(one, dtype="float32")

    def to_transformer_lens(self, step: int | None = None, replica: int = 0) -> Any:
        """The model of a checkpoint in the TransformerLens that is installed: a ``HookedTransformer`` of 2.x or 3.x, a
        ``TransformerBridge`` of 4.x."""
        need("transformer_lens", "models")
        from ._lens import bridge, hooked, native

        place = self._place(step, replica)
        major = int(importlib.metadata.version("transformer_lens").split(".")[0])
        with tempfile.TemporaryDirectory(prefix="thermoscope-") as folder:
            if major < 4:
                return hooked(export(place, "transformer-lens", Path(folder, "lens"), replica))
            try:
                return bridge(export(place, "hf", Path(folder, "hf"), replica))
            except CommandError:
                return native(export(place, "transformer-lens", Path(folder, "lens"), replica))
