"""Offline: VLN-Ego samples, fine-tuning, evaluation."""
