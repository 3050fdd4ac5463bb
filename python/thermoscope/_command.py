"""The command, called from Python."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from . import _toml

if TYPE_CHECKING:
    from ._run import Run

StrPath = str | os.PathLike[str]


class ThermoscopeError(Exception):
    """Something cannot be done; the message says why, and what to do."""


class CommandError(ThermoscopeError):
    """The command failed. ``code`` is its exit code: 1 the device failed, 2 something that was asked for is wrong."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def need(module: str, extra: str) -> Any:
    """A module that only some uses need."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ThermoscopeError(f"this needs {module}: pip install 'thermoscope[{extra}]' ({error})") from error


def find_binary() -> Path:
    """The command that belongs to this package; the variable ``THERMOSCOPE`` names another."""
    if named := os.environ.get("THERMOSCOPE"):
        return Path(named)
    name = "thermoscope" + (sysconfig.get_config_var("EXE") or "")
    schemes = (sysconfig.get_path("scripts"), sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    found = next((place for scheme in schemes if (place := Path(scheme, name)).is_file()), None) or shutil.which(name)
    if found is None:
        raise ThermoscopeError(f"the command {name} is not installed; `pip install thermoscope` brings it")
    return Path(found)


# What is shown as a bar: `step 120/2000  40 steps/s  47s left`, `3/12 layers  ...`, `compiling: 3 of 40 kernels done`.
_PROGRESS = re.compile(r"(?:step )?(\d+)/(\d+)(?: (\w+))?(?:  (.*))?|compiling: (\d+) of (\d+) (kernels) done")
# Seconds between two of these lines.
_PAUSE = "0.5"


class _Screen:
    """Shows the command's lines, and its progress as a bar where tqdm is installed."""

    def __init__(self) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            tqdm = None
        self._tqdm = tqdm
        self._bar: Any = None
        self._unit = ""

    def line(self, text: str) -> None:
        progress = _PROGRESS.fullmatch(text)
        if progress is None or self._tqdm is None:
            # Above the bar, if there is one.
            say = print if self._bar is None else self._bar.write
            say(text)
            return
        done, total, unit, more, compiled, kernels, word = progress.groups()
        unit = word or unit or "steps"
        if self._unit != unit:
            self.close()
            self._unit = unit
            layout = "{desc}: {n_fmt}/{total_fmt} {bar} {postfix}"
            self._bar = self._tqdm(total=int(kernels or total), desc=unit, bar_format=layout)
        self._bar.n = int(compiled or done)
        self._bar.set_postfix_str((more or "").strip())

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _call(words: Sequence[StrPath], show: bool) -> str:
    binary = find_binary()
    said: list[str] = []
    # A process group of its own: Ctrl-C reaches it once, from here, so that it saves before it stops.
    process = subprocess.Popen(
        [os.fspath(word) for word in (binary, *words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env={"NODEVICE_SELECT": "1", **os.environ, "THERMOSCOPE_PAUSE": _PAUSE},
    )
    assert process.stdout is not None
    screen = _Screen()

    def follow(stream: IO[str]) -> None:
        for line in stream:
            said.append(line.rstrip("\n"))
            if show:
                screen.line(said[-1])

    try:
        try:
            follow(process.stdout)
        except KeyboardInterrupt:
            if os.name == "posix":
                process.send_signal(signal.SIGINT)
            follow(process.stdout)
            process.wait()
            raise
        process.wait()
    finally:
        screen.close()
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        start = next((at for at, line in enumerate(said) if line.startswith("error: ")), max(len(said) - 5, 0))
        raise CommandError("\n".join(said[start:]).removeprefix("error: "), process.returncode)
    return "\n".join(said)


def _flags(flags: Mapping[str, Any]) -> Iterator[str]:
    for name, of in flags.items():
        word = "--" + name.strip("_").replace("_", "-")
        if of is True:
            yield word
        elif of is not None and of is not False:
            for one in of if isinstance(of, (list, tuple)) else [of]:
                yield from (word, os.fspath(one) if isinstance(one, os.PathLike) else str(one))


def call(*words: StrPath | int, show: bool = False, **flags: Any) -> str:
    """Runs ``thermoscope WORDS --FLAG VALUE ...`` and returns what it printed.

    A flag that is ``True`` stands alone, a list is given once for each of its values, and ``None`` and ``False`` are left out.
    A trailing underscore keeps a name from being a keyword of Python: ``from_="model"``. With ``show`` lines are printed as
    they come, and progress is a bar.

    >>> thermoscope.call("presets", "grok")
    >>> thermoscope.call("report", "runs/grok")

    Raises:
        CommandError: where the command fails, with what it said.
    """
    plain = [word if isinstance(word, (str, os.PathLike)) else str(word) for word in words]
    return _call([*plain, *_flags(flags)], show)


@contextlib.contextmanager
def _file(of: StrPath | Mapping[str, Any]) -> Iterator[StrPath]:
    """The path of a configuration, written out where it is a dict."""
    if not isinstance(of, Mapping):
        yield of
        return
    with tempfile.TemporaryDirectory(prefix="thermoscope-") as folder:
        path = Path(folder, "config.toml")
        path.write_text(_toml.document(of), encoding="utf-8")
        yield path


def _load(out: StrPath) -> Run:
    from ._run import load_run

    return load_run(out)


def run(
    config: StrPath | Mapping[str, Any],
    out: StrPath,
    *,
    weights: StrPath | None = None,
    adapter: str | int | None = None,
    **overrides: Any,
) -> Run:
    """Trains, shows how far it has come, and returns the run.

    Args:
        config: A preset's name, a TOML file, or the same as a dict.
        out: Run directory to write; new or empty.
        weights: A model folder to start from (``--from``).
        adapter: Index of a GPU, or part of its name.
        overrides: Settings, as ``--set`` takes them: ``steps=500, optimizer={"weight_decay": 0.3}``.

    Ctrl-C (the notebook's stop button) saves the state; :func:`resume` goes on from there.
    """
    with _file(config) as path:
        call("run", path, out=out, from_=weights, adapter=adapter, set=list(_toml.settings(overrides)), show=True)
    return _load(out)


def resume(out: StrPath, *, steps: int | None = None, adapter: str | int | None = None) -> Run:
    """Goes on with a run, to the same bits; with ``steps``, further than it was to go."""
    call("run", resume=True, out=out, steps=steps, adapter=adapter, show=True)
    return _load(out)


def fork(
    run: Run | StrPath,
    at: int,
    arms: StrPath | Sequence[Mapping[str, Any]],
    out: StrPath,
    *,
    replica: int = 0,
    seeds: int = 1,
    steps: int | None = None,
    adapter: str | int | None = None,
    **overrides: Any,
) -> Run:
    """Goes on from a step of a run in several arms, bit for bit (``thermoscope fork --help`` says what an arm may have).

    Args:
        run: The trunk.
        at: The step at which the arms leave it.
        arms: A TOML file with a table ``[[arm]]`` for each, or a list of dicts.
        out: Run directory to write.
        overrides: Settings of ``measure`` and ``checkpoint``.
    """
    table = {"arm": list(arms)} if isinstance(arms, Sequence) and not isinstance(arms, str) else arms
    sets = list(_toml.settings(overrides))
    with _file(table) as path:
        flags = {"replica": replica, "seeds": seeds, "steps": steps, "adapter": adapter, "set": sets}
        call("fork", _path(run), at=at, arms=path, out=out, show=True, **flags)
    return _load(out)


def measure(model: StrPath, out: StrPath, *, config: StrPath | Mapping[str, Any] | None = None, **flags: Any) -> Run:
    """Measures a saved model once, without training it; ``flags`` are those of ``thermoscope measure``."""
    with _file(config) if config is not None else contextlib.nullcontext() as path:
        call("measure", model, out=out, config=path, show=True, **flags)
    return _load(out)


def scan(model: StrPath, probes: StrPath, out: StrPath, **flags: Any) -> Run:
    """Ablates heads and MLP blocks of a pretrained model on prompts; ``flags`` are those of ``thermoscope scan``:
    ``battery="patch"``, ``null=99``, ``set=["L0H1,L2H3"]``."""
    call("scan", model, probes=probes, out=out, show=True, **flags)
    return _load(out)


def _path(of: Run | StrPath) -> StrPath:
    return of if isinstance(of, (str, os.PathLike)) else of.path


def export(checkpoint: Path, to: str, folder: Path, replica: int) -> Path:
    """Writes one replica of a checkpoint in another layout; returns the folder."""
    call("export", checkpoint, out=folder, to=to)
    one = folder / f"replica-{replica}"
    return one if one.is_dir() else folder

