"""Encoders, generators and clients of model servers."""
