"""What the systems reached: figures with intervals, and the data behind the pictures."""
