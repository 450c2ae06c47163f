"""What is compared: encoders and the ways to read them, by name."""
