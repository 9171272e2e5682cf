"""What happens beside training: progress that people read, a log that programs read, a stop that loses nothing."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from ptycho_torch.errors import Interrupted
from ptycho_torch.files import atomic_path
from ptycho_torch.progress import ProgressLine


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
    """One JSON object an epoch in `training_log.jsonl`: losses, learning rate, intensity scale, time."""

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
    """The state between two epochs, for `--resume`: what follows it is what would have followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        with atomic_path(self.path) as temporary:
            trainer.save_checkpoint(temporary)


class GracefulStop(pl.Callback):
    """Ctrl-C and SIGTERM end training between two batches; the last finished epoch can be resumed."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)

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

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
