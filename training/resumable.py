"""TRL's trainers, made to resume Qwen-VL runs, whatever cut them short."""
from __future__ import annotations

import math
import shutil
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, ProgressCallback
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOTrainer, SFTTrainer
from trl.trainer.utils import RepeatSampler

from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError

# how torch.save ends when nothing more can be written: no errno, no word of a disk
TORCH_CANNOT_WRITE = ('inline_container', 'PytorchStreamWriter')


class _Resumable:
    """A trainer that ends with one clear line and goes on from its last checkpoint.

    Saving a Qwen-VL model renames its parameters to the published names, and only from_pretrained
    turns them back. The stock trainer loads the file by name, finds no name it knows, warns, and
    would train on from the weights the run began with.

    card: written into each checkpoint.
    """

    def __init__(self, *args, card: NavigationCard | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._card = card
        if self.pop_callback(ProgressCallback):
            self.add_callback(_Progress)

    def _get_grad_norm(self, model, grad_norm=None):
        """The norm of all gradients; UserError before one that is no number spoils the weights.

        Every process sees the same norm, so all of them end. A float16 run expects infinite ones.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and self.accelerator.scaler is None and not math.isfinite(norm):
            raise UserError(f'the loss or its gradient became {float(norm)} in step '
                            f'{self.state.global_step + 1}; give a --learning_rate below '
                            f'{self.args.learning_rate:g}, or look for a broken sample')
        return norm

    def _save_checkpoint(self, model, trial):
        """Whole or not at all; UserError where it cannot be written.

        The card is written after everything else, which marks a checkpoint as whole, and only
        then are older ones deleted (`save_total_limit`), so that there is always a whole one.
        """
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        folder = Path(self.args.output_dir) / f'checkpoint-{self.state.global_step}'
        try:
            super()._save_checkpoint(model, trial)
            if self._card and self.args.should_save:
                self._card.save(folder)
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = getattr(error, 'strerror', None) or str(error)
            if isinstance(error, RuntimeError):
                if not any(word in reason for word in TORCH_CANNOT_WRITE):
                    raise
                reason = 'a file of it was cut short'
            free_mb = shutil.disk_usage(self.args.output_dir).free / 1e6
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(f'{folder} cannot be written: {reason}, {free_mb:.1f} MB were free '
                            'there; make room') from error
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(self.args.output_dir, limit)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self.is_fsdp_enabled or isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = AutoModelForImageTextToText.from_pretrained(resume_from_checkpoint,
                                                            dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())


class _Progress(ProgressCallback):
    """A bar whose time left comes from the steps of this run, not from those before it."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Called by the trainer, which has gone on from a checkpoint where steps are done."""
        super().on_train_begin(args, state, control, **kwargs)
        self.current_step = state.global_step
        if self.training_bar is not None:
            self.training_bar.initial = self.training_bar.n = state.global_step


class ResumableTrainer(_Resumable, SFTTrainer):
    """SFT."""


class EpochSampler(RepeatSampler):
    """The order of an epoch depends on the epoch, not on how many the process has seen."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before it iterates."""
        self.generator.manual_seed(self.seed + epoch)


class ResumableGrpoTrainer(_Resumable, GRPOTrainer):
    """GRPO."""

    def _generate(self, prompts):
        try:
            return super()._generate(prompts)
        except RuntimeError as error:
            if 'probability tensor' not in str(error):
                raise
            raise UserError('the probabilities of answers are no numbers before step '
                            f'{self.state.global_step + 1}; give a --learning_rate below '
                            f'{self.args.learning_rate:g}') from error

    def _get_train_sampler(self, dataset=None):
        stock = super()._get_train_sampler(dataset)
        return EpochSampler(stock.data_source, stock.mini_repeat_count, stock.batch_size,
                             stock.repeat_count, stock.shuffle, stock.seed)
