"""What is trained (LoRA or the full model), and what a decoder allows."""
