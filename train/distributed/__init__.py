"""One process, DDP, FSDP2 or ZeRO behind one interface; ranks that are lost or have diverged."""
