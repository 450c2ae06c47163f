"""LoRA layers and decoder blocks with hand-written passes, made for CPUs; on GPUs they have not been run yet."""
