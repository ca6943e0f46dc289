"""TRL's trainers, made to resume Qwen-VL runs."""
from __future__ import annotations

from peft import PeftModel
from transformers import AutoModelForImageTextToText
from trl import GRPOTrainer, SFTTrainer
from trl.trainer.utils import RepeatSampler


class _Resumable:
    """A trainer whose resumed runs have the checkpoint's weights.

    Saving a Qwen-VL model renames its parameters to the published names, and only from_pretrained
    turns them back. The stock trainer loads the file by name, finds no name it knows, warns, and
    would train on from the weights the run began with.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self.is_fsdp_enabled or isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = AutoModelForImageTextToText.from_pretrained(resume_from_checkpoint,
                                                            dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())


class ResumableTrainer(_Resumable, SFTTrainer):
    """SFT."""


class _EpochSampler(RepeatSampler):
    """The order of an epoch depends on the epoch, not on how many the process has seen."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before it iterates."""
        self.generator.manual_seed(self.seed + epoch)


class ResumableGrpoTrainer(_Resumable, GRPOTrainer):
    """GRPO."""

    def _get_train_sampler(self, dataset=None):
        stock = super()._get_train_sampler(dataset)
        return _EpochSampler(stock.data_source, stock.mini_repeat_count, stock.batch_size,
                             stock.repeat_count, stock.shuffle, stock.seed)
