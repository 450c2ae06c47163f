"""One process, DDP, FSDP2 or ZeRO, behind one interface; what processes notice of each other."""
