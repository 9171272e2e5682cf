"""Callbacks of training: progress, log, checkpoints, and a graceful stop."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from ptycho_torch.errors import Interrupted, PtychoError
from ptycho_torch.files import atomic_path
from ptycho_torch.progress import ProgressLine


class Listeners(pl.Callback):
    """Callbacks of another Lightning, whose classes this trainer doesn't know, are told of the end of each epoch."""

    def __init__(self, listeners: Sequence[Any]) -> None:
        self._listeners = tuple(listeners)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for listener in self._listeners:
            listener.on_train_epoch_end(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for listener in self._listeners:
            listener.on_validation_epoch_end(trainer, pl_module)


class Progress(pl.Callback):
    """Loss, patterns per second and time left, by a `ProgressLine`."""

    def __init__(self) -> None:
        self._line = ProgressLine()
        self._seen, self._start = 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._seen, self._start = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, _: int
    ) -> None:
        self._seen += len(batch[0] if isinstance(batch, tuple | list) else batch)
        seconds = max(time.monotonic() - self._start, 1e-9)
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  " if trainer.max_steps < 0 else ""
        state = f"{epoch}loss {float(outputs['loss']):.4f}  {self._seen / seconds:.0f} patterns/s"
        self._line.step("training step", trainer.global_step, int(trainer.estimated_stepping_batches), state)

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._line.close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._line.close()


class JsonLines(pl.Callback):
    """One JSON object per epoch in `training_log.jsonl`: losses, learning rate, intensity scale, time."""

    def __init__(self, path: Path, *, append: bool) -> None:
        self.path, self._append = path, append
        self._start = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not self._append:
            self.path.write_text("")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        record = {name: float(value) for name, value in trainer.callback_metrics.items()}
        record |= {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "intensity_scale": float(module.model.log_scale.detach().exp()),
            "seconds": round(time.monotonic() - self._start, 3),
        }
        with self.path.open("a") as log:
            log.write(json.dumps(record) + "\n")


class LastCheckpoint(pl.Callback):
    """The state between two epochs, for `--resume`: training continues as if it had not stopped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        with atomic_path(self.path) as temporary:
            trainer.save_checkpoint(temporary)


class StopWhenDiverged(pl.Callback):
    """Ends a training at the first weight or loss that is not finite, before a checkpoint is written over a good one.

    Raises PtychoError with the epoch and the learning rate.
    """

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._check(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._check(trainer, module)

    def _check(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.sanity_checking:
            return
        lost = [f"{name} is" for name, value in trainer.callback_metrics.items() if not bool(value.isfinite())]
        if not all(bool(value.isfinite().all()) for value in module.state_dict().values()):
            lost = ["weights are"]
        if lost:
            done = trainer.current_epoch
            kept = f"; epoch {done} stays in the checkpoints" if done and trainer.checkpoint_callback else ""
            raise PtychoError(
                f"training diverged in epoch {done + 1}: {lost[0]} not finite with --learning-rate "
                f"{module.learning_rate:g}; take a smaller one{kept}"
            )


class BestCheckpoints(ModelCheckpoint):
    """The best epochs. When training goes on, only files in its own folder count, whatever paths a checkpoint names.

    The trainer deletes what is no longer among the best, and folders with all that they hold; a checkpoint from
    elsewhere must not choose them.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        found = state_dict.get("best_k_models")
        scores = found.items() if isinstance(found, dict) else ()
        here = {path: score for named, score in scores if (path := self._own(named)) and torch.is_tensor(score)}
        self.best_k_models = here
        if not here:
            return
        ranked = sorted(here, key=lambda path: float(here[path]), reverse=self.mode == "max")
        self.best_model_path, self.best_model_score = ranked[0], here[ranked[0]]
        if len(here) == self.save_top_k:
            self.kth_best_model_path, self.kth_value = ranked[-1], here[ranked[-1]]

    def _own(self, named: object) -> str | None:
        path = Path(self.dirpath or "") / Path(str(named)).name
        is_own = path.match("best-*.ckpt") and path.is_file() and not path.is_symlink()
        return str(path) if is_own else None


@contextmanager
def same_signal_handlers() -> Iterator[None]:
    """Restores the signal handlers afterwards: training must not leave its own installed."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


class GracefulStop(pl.Callback):
    """Ctrl-C and SIGTERM end training between two batches; the last finished epoch can be resumed.

    Its handlers stay until `same_signal_handlers` ends; outside the main thread, there are none.
    """

    def __init__(self) -> None:
        self._received: int | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._received = number

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if self._received is None:
            return
        finished = trainer.current_epoch
        way_out = "go on with --resume" if finished and trainer.checkpoint_callback else "start again"
        stop = Interrupted(f"training was interrupted after {finished} finished epochs; {way_out}")
        stop.exit_code = 128 + self._received
        raise stop
