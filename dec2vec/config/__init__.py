"""YAML and dotted overrides to frozen, validated dataclasses."""
