"""TRL's SFT trainer, made to resume Qwen-VL runs."""
from __future__ import annotations

from peft import PeftModel
from transformers import AutoModelForImageTextToText
from trl import SFTTrainer


class ResumableTrainer(SFTTrainer):
    """SFTTrainer whose resumed runs have the checkpoint's weights.

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
