"""Images as inputs: opened although nobody vouches for them, bounded, and counted once where they are equal."""
