"""What the benches share: models and texts made in code, the machine's speed, each side in a process of its own."""
