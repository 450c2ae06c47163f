"""MTEB tasks on our encoders, by `mteb` itself."""
