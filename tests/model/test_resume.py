"""A training that was killed and resumed ends exactly as one that never was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from cohorts import SMALL, make_cohort, run, workflow
from monai_vfx.vertebrae.training.checkpoints import load_state

TRAINING = ("common", "train", "cpu_small")
EPOCHS = 3
SECOND = "last_checkpoint_epoch=2.pt"


class Killed(BaseException):
    """Ends a run at once, as no handler of an engine catches it."""


@pytest.fixture(autouse=True)
def _unseeded() -> Iterator[None]:
    yield
    from monai.utils import set_determinism

    set_determinism(None)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort"), [0, 1] * 5)


def settings(cohort: Path, out: Path, **changes: Any) -> dict[str, Any]:
    paths = {"cohort": str(cohort), "output_dir": str(out)}
    return {**SMALL, **paths, "folds": 2, "max_epochs": EPOCHS, "resume": True, **changes}


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training leaves that ran from its beginning to its end."""
    out = tmp_path_factory.mktemp("whole")
    run(*TRAINING, **settings(cohort, out))
    score(out, cohort)
    return out


def score(folder: Path, cohort: Path) -> None:
    evaluation = {"cohort": str(cohort), "output_dir": str(folder / "scores")}
    weights = str(folder / "model.pt")
    run("common", "inference", "evaluate", kind="infer", weights=weights, **evaluation)


def states(folder: Path) -> dict[str, dict[str, Any]]:
    last = torch.load(folder / f"last_checkpoint_epoch={EPOCHS}.pt", weights_only=True)
    moments = last["optimizer"]["state"]
    return {
        "best": load_state(folder / "model.pt"),
        "last": last["network"],
        "optimizer": {f"{k}.{n}": t for k, entry in moments.items() for n, t in entry.items()},
    }


def assert_same(resumed: Path, whole: Path, cohort: Path) -> None:
    first, second = states(whole), states(resumed)
    for part in first:
        assert first[part].keys() == second[part].keys()
        assert [k for k in first[part] if not torch.equal(first[part][k], second[part][k])] == []
    for name in ("metrics_history.csv", "settings.json", "split.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    sidecars = [json.loads((folder / "model.json").read_text()) for folder in (resumed, whole)]
    assert sidecars[0]["validation"] == sidecars[1]["validation"]
    checkpoints = [{p.name for p in folder.glob("*.pt*")} for folder in (resumed, whole)]
    assert checkpoints[0] == checkpoints[1]
    score(resumed, cohort)
    for name in ("predictions.csv", "features.csv"):
        texts = [(folder / "scores" / name).read_bytes() for folder in (resumed, whole)]
        assert texts[0] == texts[1]


def tear(path: str) -> None:
    """Leave half a file, as a kill during its writing does."""
    os.truncate(path, os.path.getsize(path) // 2)


def stop_after(iteration: int, kill: Callable[[], None]) -> Callable[[Any, Any], None]:
    def arrange(job: Any, _: Any) -> None:
        job.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), lambda _: kill())

    return arrange


def stop_while_writing(
    name: str, kill: Callable[[], None], torn: bool = True
) -> Callable[[Any, Any], None]:
    def arrange(_: Any, monkeypatch: Any) -> None:
        save = torch.save

        def interrupted(content: Any, path: Any, *rest: Any, **more: Any) -> None:
            save(content, path, *rest, **more)
            if str(path).endswith(name):
                if torn:
                    tear(path)
                kill()

        monkeypatch.setattr(torch, "save", interrupted)

    return arrange


def killed() -> None:
    raise Killed


def moment(name: str, arrange: Callable[[Any, Any], None], slow: bool = False) -> Any:
    return pytest.param(arrange, id=name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    "arrange",
    [
        moment("in the first epoch", stop_after(2, killed), slow=True),
        moment("in the second epoch", stop_after(5, killed)),
        moment("writing the best", stop_while_writing("model.pt", killed), slow=True),
        moment(
            "before the best's sidecar",
            stop_while_writing("model.pt", killed, torn=False),
            slow=True,
        ),
        moment("writing a checkpoint", stop_while_writing(SECOND, killed)),
        moment("after a checkpoint", stop_while_writing(SECOND, killed, torn=False), slow=True),
    ],
)
def test_a_stopped_training_ends_as_one_that_never_was(
    cohort: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arrange: Callable[[Any, Any], None],
) -> None:
    out = tmp_path / "resumed"
    job = workflow(*TRAINING, **settings(cohort, out))
    job.initialize()
    assert len(job.train_dataset) == 5  # three steps an epoch
    with monkeypatch.context() as patch:
        arrange(job, patch)
        with pytest.raises(Killed):
            job.run()
    job.finalize()
    torch.manual_seed(12345)  # whatever else the second process drew
    run(*TRAINING, **settings(cohort, out))
    assert_same(out, whole, cohort)


@pytest.mark.slow
def test_worker_processes_draw_the_same_after_a_stop(cohort: Path, tmp_path: Path) -> None:
    for name, epochs in (("whole", (2,)), ("stopped", (1, 2))):
        for last in epochs:
            run(*TRAINING, **settings(cohort, tmp_path / name, workers=2, max_epochs=last))
    first, second = (load_state(tmp_path / n / "model.pt") for n in ("whole", "stopped"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_epochs_and_seeds_draw_differently(cohort: Path, whole: Path, tmp_path: Path) -> None:
    job = workflow(*TRAINING, **settings(cohort, tmp_path / "draws", learning_rate=0.0))
    job.initialize()
    images: list[torch.Tensor] = []
    job.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: images.append(engine.state.batch["image"])
    )
    job.run()
    epochs = [torch.cat(images[3 * n : 3 * n + 3]).flatten(1).sum(1) for n in range(EPOCHS)]
    assert all(not torch.equal(epochs[0], other) for other in epochs[1:])
    run(*TRAINING, **settings(cohort, tmp_path / "seed", seed=1))
    first, second = (load_state(folder / "model.pt") for folder in (whole, tmp_path / "seed"))
    assert any(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(cohort: Path, whole: Path, tmp_path: Path) -> None:
    """A bit that flipped within a file is found by the archive's checksums."""
    out = tmp_path / "resumed"
    run(*TRAINING, **settings(cohort, out, max_epochs=2))
    newest = out / SECOND
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(bytes(content))
    run(*TRAINING, **settings(cohort, out))
    assert_same(out, whole, cohort)


SCRIPT = """
import json, os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/../support"]
from cohorts import workflow
from test_resume import SECOND, TRAINING, stop_after, stop_while_writing

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

class Patch:
    setattr = staticmethod(setattr)

job = workflow(*TRAINING, **json.loads(sys.argv[2]))
job.initialize()
moment = {
    "iteration": stop_after(5, kill),
    "checkpoint": stop_while_writing(SECOND, kill),
}[sys.argv[3]]
moment(job, Patch)
job.run()
"""


@pytest.mark.slow
def test_two_true_kills_leave_no_trace(cohort: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "resumed"
    for moment in ("iteration", "checkpoint"):
        arguments = [str(Path(__file__).parent), json.dumps(settings(cohort, out)), moment]
        done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], timeout=200, check=False)
        assert done.returncode == -9
    run(*TRAINING, **settings(cohort, out))
    assert_same(out, whole, cohort)


RECIPE: dict[str, Any] = {
    **{"schedule": "cosine", "warmup_epochs": 1, "weight_decay": 0.01, "encoder_rate": 0.5},
    **{"gradient_clip": 1.0, "bfloat16": True, "augment_flip": 0.5, "augment_shift_mm": 3.0},
    **{"augment_rotate_deg": 5.0, "augment_noise_hu": 5.0, "augment_hu": 3.0},
}


def test_a_stopped_training_with_every_setting_ends_the_same(cohort: Path, tmp_path: Path) -> None:
    stop_and_compare(cohort, tmp_path, RECIPE)
    last = torch.load(tmp_path / "one" / f"last_checkpoint_epoch={EPOCHS}.pt", weights_only=True)
    rates = [group["lr"] for group in last["optimizer"]["param_groups"]]
    assert max(rates) == pytest.approx(0.0, abs=1e-9)  # the cosine's end


def stop_and_compare(cohort: Path, tmp_path: Path, recipe: dict[str, Any]) -> None:
    """Train once through and once with a stop in the second epoch."""
    run(*TRAINING, **settings(cohort, tmp_path / "one", **recipe))
    job = workflow(*TRAINING, **settings(cohort, tmp_path / "two", **recipe))
    job.initialize()
    stop_after(5, lambda: killed())(job, None)
    with pytest.raises(Killed):
        job.run()
    job.finalize()
    run(*TRAINING, **settings(cohort, tmp_path / "two", **recipe))
    score(tmp_path / "one", cohort)
    assert_same(tmp_path / "two", tmp_path / "one", cohort)
    recorded = json.loads((tmp_path / "one" / "model.json").read_text())["training"]
    assert {name: recorded[name] for name in recipe} == recipe
