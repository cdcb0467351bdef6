"""Configuration: YAML read with line numbers into typed models."""
