"""Fine-tuning on a task: the command ``finetune-glue`` and its training loop."""
