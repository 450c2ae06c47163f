"""For CPUs: LoRA layers and decoder blocks with hand-written forward and backward passes."""
